"""Search for a Mac by the names that people use, also among the names of a large fleet."""

from datetime import timedelta
from difflib import get_close_matches

import pytest

from pipeline.embedded.mac_names import UnknownMacError, near_names, udid_of
from pipeline.state.fleet import Fleet
from schemas.envelope import InventoryEvent
from schemas.events.inventory import InventoryReported
from tests.factories.sites import START, osquery_report


def report_by_serial(serial: str, hostname: str, minutes: int) -> InventoryEvent:
    at = START + timedelta(minutes=minutes)
    data = InventoryReported(source="munki", serial=serial, hostname=hostname)
    return InventoryEvent(
        id=f"{serial}-{minutes}", source="/munki", subject=f"serial:{serial}", time=at, data=data
    )


def fleet_of(*events: InventoryEvent) -> Fleet:
    fleet = Fleet()
    for event in events:
        fleet.apply(event)
    return fleet


def test_host_name_of_a_record_without_a_udid_is_that_of_its_mac() -> None:
    fleet = fleet_of(osquery_report("MAC-1"), report_by_serial("C02MAC-1", "ldn-1", 1))
    assert udid_of(fleet, "LDN-1") == "MAC-1"


def test_host_name_that_a_later_record_replaced_is_not_found() -> None:
    fleet = fleet_of(
        osquery_report("MAC-1", hostname="old"), report_by_serial("C02MAC-1", "new", 1)
    )
    assert udid_of(fleet, "new") == "MAC-1"
    with pytest.raises(UnknownMacError):
        udid_of(fleet, "old")


def test_host_name_of_two_macs_is_refused() -> None:
    fleet = fleet_of(*(osquery_report(udid, hostname="twin") for udid in ("MAC-1", "MAC-2")))
    with pytest.raises(UnknownMacError, match="2 Macs are known as 'twin'"):
        udid_of(fleet, "twin")


@pytest.mark.parametrize("wrong", ["ldn-00001x", "ldn-0x0017"])
def test_few_names_of_a_large_fleet_are_compared_with_a_wrong_one(
    wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[int] = []

    def count(text: str, names: list[str], n: int, cutoff: float) -> list[str]:
        compared.append(len(names))
        return get_close_matches(text, names, n=n, cutoff=cutoff)

    monkeypatch.setattr("pipeline.embedded.mac_names.get_close_matches", count)
    names = [f"ldn-{number:06}" for number in range(5000)]
    fleet = fleet_of(*(osquery_report(f"MAC-{one}", hostname=one) for one in names))
    assert "did you mean ldn-" in near_names(fleet, wrong)
    assert 0 < compared[0] <= 1000
