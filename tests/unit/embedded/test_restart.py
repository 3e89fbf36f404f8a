"""A restart changes no decision: state loaded from disk decides as the state in memory."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.embedded.service import Service
from pipeline.embedded.status import read_status
from schemas.envelope import Event, InventoryEvent
from schemas.ids import event_id
from tests.embedded_world import Environment, at, open_service
from tests.factories.sites import START, critical_release, osquery_report

NEW: dict[str, Any] = {"os_version": "26.1", "build": "25B78", "model": "Mac14,2"}
OLDER: dict[str, Any] = {"os_version": "26.0", "build": "25A354", "model": "Mac14,2"}


def accept_all(data_dir: Path, batches: Sequence[Sequence[Event]], *, restart: bool) -> Service:
    service = open_service(data_dir, Environment.of())
    for hour, batch in enumerate(batches):
        if restart:
            service.close()
            service = open_service(data_dir, Environment.of())
        service.accept(batch, (), at(hour))
    return service


def test_macs_get_a_sites_capacity_in_the_same_order_after_a_restart(tmp_path: Path) -> None:
    macs = [f"MAC-{letter}" for letter in "FEDCBA"]
    batches: list[list[Event]] = [
        [critical_release("26.0", "25A354")],
        # The first half reach their version after the second half: the index has them last.
        [osquery_report(udid, **OLDER) for udid in macs[:3]],
        [osquery_report(udid, **NEW) for udid in macs[3:]],
        [osquery_report(udid, at(3), **NEW) for udid in macs[:3]],
        [critical_release("26.2", "25C56")],
    ]
    ordered = []
    for name, restart in (("one", False), ("many", True)):
        service = accept_all(tmp_path / name, batches, restart=restart)
        ordered.append(
            [udid for udid, jobs in service.reconciler.fleet.job_histories.items() if jobs]
        )
        service.close()
    assert ordered[0] == ordered[1]
    assert len(ordered[0]) == 3  # the site's capacity


def by_serial(serial: str) -> InventoryEvent:
    """A report by a source that knows no UDID."""
    whole = osquery_report(serial, **NEW)
    data = whole.data.model_copy(update={"udid": None, "serial": serial})
    return whole.model_copy(
        update={"id": event_id(serial), "subject": f"serial:{serial}", "data": data}
    )


def test_decision_of_a_serial_number_is_dropped_once_its_udid_is_known(tmp_path: Path) -> None:
    batches: list[list[Event]] = [[by_serial("C02MAC-1")], [osquery_report("MAC-1", **NEW)]]
    service = accept_all(tmp_path, batches, restart=False)
    assert set(service.reconciler.last_decisions) == {"MAC-1"}
    assert {udid for udid, *_ in service.store.last_decisions()} == {"MAC-1"}
    found = read_status(service.store, START)
    service.close()
    assert sum(sum(by.values()) for by in found.decisions.values()) == 1
    assert found.devices == 1


def test_findings_are_counted_the_same_after_a_restart(tmp_path: Path) -> None:
    macs = [osquery_report(udid, **NEW) for udid in ("MAC-1", "MAC-2")]
    service = accept_all(tmp_path, [[critical_release("26.1", "25B78")], macs], restart=False)
    before = dict(+service.reconciler.findings)
    service.close()
    service = open_service(tmp_path, Environment.of())
    assert dict(service.reconciler.findings) == before == {("london", "mdm_unknown"): 2}
    assert read_status(service.store, START).findings == {"london": {"mdm_unknown": 2}}
    service.close()
