"""The limit of Macs that one sender may report first in an hour."""

from collections import Counter
from datetime import datetime
from random import Random
from uuid import UUID

import pytest

from pipeline.reconcile.new_macs import NewMacs, limit_of_partition
from pipeline.reconcile.policy_in_force import PolicyInForce
from pipeline.reconcile.reconciler import Reconciler
from schemas.dead_letters import DeadLetterCode
from schemas.envelope import Event, InventoryEvent
from schemas.topics import DEVICE_PARTITIONS, partition_of
from tests.factories import HOUR, NOW, full_report, policy_changed, polled
from tests.reconcile_loop import inputs, new_reconciler

POLICY = """\
version: 1
blast_radius: {new_macs_per_hour: 5}
sites:
  london: {time_zone: Europe/London, confirmed: {udids: [LISTED-1]}}
default_site: london
"""


def a_fleet(text: str = POLICY, *, partitions: int | None = None) -> Reconciler:
    reconciler = new_reconciler(partitions=partitions)
    reconciler.apply(inputs(policy_changed(text)), NOW)
    return reconciler


def delivered(event: Event, sender: str = "osquery", at: datetime = NOW) -> Event:
    return event.model_copy(update={"sender": sender, "receivedat": at})


def reports(
    numbers: range, *, sender: str = "osquery", source: str = "osquery", at: datetime = NOW
) -> list[Event]:
    found: list[Event] = []
    for number in numbers:
        report = full_report(udid=f"MAC-{number}", serial=f"C02{number:07}", source=source)
        found.append(delivered(report, sender, at))
    return found


def refused(reconciler: Reconciler, events: list[Event], now: datetime = NOW) -> int:
    """Apply events; return how many are refused."""
    rejections = reconciler.apply(inputs(*events), now).rejections
    assert {one.code for one in rejections} <= {DeadLetterCode.TOO_MANY_NEW}
    return len(rejections)


def test_sender_brings_up_no_more_macs_in_an_hour_than_the_policy_admits() -> None:
    reconciler = a_fleet()
    assert refused(reconciler, reports(range(8))) == 3
    assert len(reconciler.fleet.devices) == 5
    (rejection,) = reconciler.apply(inputs(*reports(range(8, 9))), NOW).rejections
    assert rejection.detail.startswith("osquery has reported as many new Macs in this hour")


def test_known_macs_other_senders_and_the_next_hour_are_not_affected() -> None:
    reconciler = a_fleet()
    assert refused(reconciler, reports(range(8))) == 3
    assert refused(reconciler, reports(range(5))) == 0
    assert refused(reconciler, reports(range(10, 15), sender="munki", source="munki")) == 0
    later = NOW + HOUR
    assert refused(reconciler, reports(range(5, 8), at=later), later) == 0


def test_restart_admits_as_many_new_macs_again_and_no_more() -> None:
    reconciler, restarts = a_fleet(), 3
    refused(reconciler, reports(range(40)))
    for number in range(1, restarts + 1):
        devices = reconciler.fleet.devices
        reconciler = a_fleet()
        reconciler.fleet.devices.update(devices)
        assert refused(reconciler, reports(range(40))) == 40 - 5 * (number + 1)
    assert len(reconciler.fleet.devices) == 5 * (restarts + 1)


def test_mdm_channel_brings_up_a_whole_company() -> None:
    reconciler = a_fleet()
    first = [delivered(polled(f"MAC-{number}"), "nanomdm") for number in range(30)]
    assert refused(reconciler, [*first]) == 0
    assert refused(reconciler, reports(range(30))) == 0, "osquery reports Macs that MDM knows"
    assert refused(reconciler, reports(range(50, 80), sender="jamf", source="jamf")) == 0


def test_listed_macs_and_statements_of_operators_are_admitted() -> None:
    reconciler = a_fleet()
    refused(reconciler, reports(range(8)))
    listed = delivered(full_report(udid="LISTED-1", serial="C02LISTED", source="osquery"))
    stated = delivered(full_report(udid="MAC-99", serial="C02STATED", source="admin"), "admin")
    assert refused(reconciler, [listed, stated]) == 0


@pytest.mark.parametrize(
    ("text", "admitted"),
    [
        (POLICY.replace("5}", "null}"), 1500),
        (POLICY.replace("new_macs_per_hour: 5", ""), 1000),
    ],
    ids=["no limit", "default"],
)
def test_limit_is_a_setting(text: str, admitted: int) -> None:
    reconciler = a_fleet(text)
    assert refused(reconciler, reports(range(1500))) == 1500 - admitted


def test_partition_admits_its_part_by_the_hour_of_receipt() -> None:
    reconciler = a_fleet(POLICY.replace("5}", "100}"), partitions=25)
    now = NOW + 24 * HOUR  # a backlog of a day
    assert refused(reconciler, reports(range(20)), now) == 20 - limit_of_partition(100, 25)
    assert refused(reconciler, reports(range(30, 32), at=NOW + HOUR), now) == 0


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(
    ("limit", "partitions"), [(1000, 32), (1000, 12), (100, 32), (5, 4), (1000, 1)]
)
def test_number_of_the_policy_passes_in_every_partition(
    seed: int, limit: int, partitions: int
) -> None:
    rng = Random(seed)
    udids = [str(UUID(int=rng.getrandbits(128))).upper() for _ in range(limit)]
    spread = Counter(partition_of(udid, partitions) for udid in udids)
    admitted = limit_of_partition(limit, partitions)
    assert max(spread.values()) <= admitted <= limit


def test_partitions_together_admit_less_than_twice_the_default() -> None:
    assert limit_of_partition(1000, DEVICE_PARTITIONS) * DEVICE_PARTITIONS == 1920
    assert limit_of_partition(1000, 1) == 1000


def test_event_without_a_sender_is_not_limited() -> None:
    reconciler = a_fleet()
    events = [full_report(udid=f"MAC-{n}", serial=f"C02{n}", source="osquery") for n in range(20)]
    assert refused(reconciler, [*events]) == 0


def test_listed_serial_number_admits_one_mac() -> None:
    reconciler = a_fleet(POLICY.replace("[LISTED-1]", "[LISTED-1], serials: [C02LISTED]"))
    assert refused(reconciler, reports(range(8))) == 3

    def listed(udid: str, serial: str = "C02LISTED") -> Event:
        return delivered(full_report(udid=udid, serial=serial, source="osquery"))

    assert refused(reconciler, [listed("MAC-A")]) == 0
    assert refused(reconciler, [listed("MAC-B")]) == 1, "an invented Mac with its serial number"
    assert refused(reconciler, [listed("MAC-A", "C02OTHER")]) == 0
    assert refused(reconciler, [listed("MAC-C")]) == 1


def test_refused_report_counts_once_mdm_knows_the_mac() -> None:
    reconciler = a_fleet()
    backlog = reports(range(8))
    assert refused(reconciler, backlog) == 3
    assert refused(reconciler, [delivered(polled(f"MAC-{n}"), "nanomdm") for n in range(8)]) == 0
    assert refused(reconciler, backlog) == 0
    assert all(device.os_version for device in reconciler.fleet.devices.values())


def test_counts_of_two_days_are_kept() -> None:
    reconciler = new_reconciler()
    new_macs = NewMacs(reconciler.fleet, PolicyInForce(reconciler.fleet), None)
    (report,) = reports(range(1))
    assert isinstance(report, InventoryEvent)
    for hour in range(100):
        for sender in ("osquery", "munki"):
            named = report.model_copy(update={"sender": sender})
            new_macs.add(named, NOW + hour * HOUR)
    assert len(new_macs) == 2 * 49
