from datetime import datetime, timedelta
from pathlib import Path

import pytest

from agents.journal_entry import JournalEntry
from agents.mac import Ack, InstallState
from agents.simulated import ALWAYS, Faults, Period, SimulatedFleet, SiteRates
from agents.simulated.network import Channel, SiteNetwork
from schemas.envelope import DeviceEvent, decode, encode
from schemas.jobs import Action, Job, Method
from schemas.macos import parse_build, parse_os_version
from tests.factories.sites import (
    NEW,
    RELEASES,
    SITE,
    START,
    UDID,
    a_fleet,
    a_job,
    a_spec,
    an_erasing_job,
    hours,
)

DAY = timedelta(days=1)


def order(fleet: SimulatedFleet, job: Job) -> Ack:
    entry = JournalEntry(job=job, accepted_at=START, wake_at=START)
    return fleet.macs[job.udid].act(entry.step, job, 1)


def kinds(events: list[DeviceEvent]) -> list[str]:
    return [event.type.removeprefix("drydock.").removesuffix(".v1") for event in events]


def of(events: list[DeviceEvent], kind: str) -> list[DeviceEvent]:
    return [event for event in events if event.type == f"drydock.{kind}.v1"]


def first_build_at(events: list[DeviceEvent]) -> datetime | None:
    """Return the time of the first report of the new build."""
    return min(
        (event.time for event in events if getattr(event.data, "build", None) == NEW.build),
        default=None,
    )


def test_mac_reports_at_its_interval_from_both_sources() -> None:
    fleet = a_fleet()
    events = fleet.advance(START + 4 * DAY)
    reports = of(events, "inventory.reported")
    # The first report is from both sources; after it, one report every six hours.
    assert len(reports) == 17
    assert {report.data.source for report in reports} == {"mdm", "osquery"}  # type: ignore[union-attr]


def test_every_event_is_valid_and_has_a_unique_id() -> None:
    specs = [
        a_spec("A", faults=Faults(not_now=2)),
        a_spec("B", faults=Faults(failing_installs=1, loses_profile_at=START + hours(2))),
        a_spec("C", loan_returned_at=START + hours(3)),
    ]
    fleet = a_fleet(*specs)
    order(fleet, a_job(udid="A", method=Method.DDM))
    order(fleet, a_job(udid="B"))
    order(fleet, an_erasing_job(udid="C"))
    events = fleet.advance(START + 3 * DAY)
    assert len({event.id for event in events}) == len(events)
    assert [decode(encode(event)) for event in events] == events
    assert [event.time for event in events] == sorted(event.time for event in events)
    assert len(set(kinds(events))) == 7


def history(steps: int) -> list[DeviceEvent]:
    fleet = a_fleet(*(a_spec(f"MAC-{n}") for n in range(5)), seed=7)
    order(fleet, a_job(udid="MAC-3"))
    end = START + 2 * DAY
    return [
        event
        for step in range(1, steps + 1)
        for event in fleet.advance(START + (end - START) * step / steps)
    ]


def test_history_is_equal_in_small_steps_and_in_one() -> None:
    assert history(97) == history(1)


@pytest.mark.parametrize("cache", [False, True], ids=["each its copy", "a cache"])
def test_history_does_not_depend_on_the_sequence_of_orders_at_one_time(*, cache: bool) -> None:
    names = [f"MAC-{number}" for number in range(4)]

    def history_of(ordered: list[str]) -> list[DeviceEvent]:
        lines = {SITE: SiteRates(uplink_mbps=100, cache=cache)}
        fleet = a_fleet(*map(a_spec, names), seed=7, lines=lines)
        for name in ordered:
            order(fleet, a_job(udid=name))
        return fleet.advance(START + DAY)

    assert history_of(names) == history_of(names[::-1])


def test_another_seed_gives_another_history() -> None:
    assert a_fleet(seed=1).next_event_at() != a_fleet(seed=2).next_event_at()


def test_update_downloads_reboots_and_reports() -> None:
    fleet = a_fleet()
    mac = fleet.macs[UDID]
    boot_at = mac.boot_at
    order(fleet, a_job())
    seen: dict[str, bool] = {}
    events: list[DeviceEvent] = []
    for second in range(0, 3600, 5):
        events += fleet.advance(START + timedelta(seconds=second))
        seen[mac.progress.state] = mac.is_online(fleet.now)
    assert list(seen) == [
        InstallState.NONE,
        InstallState.DOWNLOADING,
        InstallState.PREPARED,
        InstallState.INSTALLING,
    ]
    assert not seen[InstallState.INSTALLING], "it is off the network while it installs"
    assert (mac.os_version, mac.build, mac.firmware) == (NEW.version, NEW.build, "fw-26.2")
    assert mac.boot_at > boot_at
    assert first_build_at(events) == mac.boot_at


@pytest.mark.parametrize(
    ("enforce_at", "least", "most"),
    [(None, hours(1), hours(2)), (START + hours(30), hours(30), hours(31))],
    ids=["when due", "at its time"],
)
def test_declaration_installs_when_it_is_due(
    enforce_at: datetime | None, least: timedelta, most: timedelta
) -> None:
    fleet = a_fleet()
    order(fleet, a_job(method=Method.DDM, enforce_at=enforce_at))
    reported_at = first_build_at(fleet.advance(START + 3 * DAY))
    assert reported_at is not None
    assert START + least < reported_at < START + most


@pytest.mark.parametrize("after", [timedelta(seconds=30), hours(6)], ids=["early", "prepared"])
def test_declaration_given_again_is_enforced_at_its_new_time(after: timedelta) -> None:
    fleet = a_fleet()
    order(fleet, a_job(method=Method.DDM, enforce_at=START + hours(60)))
    fleet.advance(START + after)
    order(fleet, a_job(method=Method.DDM, enforce_at=START + hours(12)))
    reported_at = first_build_at(fleet.advance(START + 3 * DAY))
    assert reported_at is not None
    assert START + hours(12) < reported_at < START + hours(13)
    assert len(fleet.acted) == 1


def test_declaration_due_while_offline_is_enforced_an_hour_after_the_return() -> None:
    away = Faults(offline=(Period(START + hours(10), START + hours(20)),))
    fleet = a_fleet(a_spec(faults=away))
    order(fleet, a_job(method=Method.DDM, enforce_at=START + hours(12)))
    reported_at = first_build_at(fleet.advance(START + 3 * DAY))
    assert reported_at is not None
    assert reported_at > START + hours(21)


def test_new_build_is_reported_late_with_a_report_delay() -> None:
    fleet = a_fleet(a_spec(faults=Faults(report_delay=hours(30))))
    order(fleet, a_job())
    reported_at = first_build_at(fleet.advance(START + 5 * DAY))
    assert reported_at is not None
    assert reported_at > START + hours(30)


def test_new_build_is_never_reported_by_a_mute_mac() -> None:
    fleet = a_fleet(a_spec(faults=Faults(mute_after_install=True)))
    order(fleet, a_job())
    assert first_build_at(fleet.advance(START + 30 * DAY)) is None
    assert fleet.macs[UDID].build == NEW.build


def test_command_after_a_not_now_is_accepted_at_a_later_poll() -> None:
    fleet = a_fleet(a_spec(faults=Faults(not_now=3)))
    job = a_job(method=Method.DDM)
    ack = order(fleet, job)
    assert ack.kind == "not_now"
    assert len(fleet.macs[UDID].look(job).pending) == 1
    events = fleet.advance(START + hours(3))
    assert len(of(events, "mdm.command_reported")) == 2
    assert len(fleet.acted) == 1


def test_repeated_order_is_carried_out_again() -> None:
    fleet = a_fleet()
    order(fleet, a_job())
    order(fleet, a_job())
    assert len(fleet.acted) == 2


def test_ignored_order_is_accepted_and_has_no_effect() -> None:
    fleet = a_fleet(a_spec(faults=Faults(ignored=ALWAYS)))
    assert order(fleet, a_job()).kind == "accepted"
    assert first_build_at(fleet.advance(START + 5 * DAY)) is None


def test_erased_mac_enrolls_again_and_its_activations_follow() -> None:
    fleet = a_fleet()
    mac = fleet.macs[UDID]
    order(fleet, an_erasing_job())
    events = fleet.advance(START + DAY)
    event_types = kinds(events)
    assert event_types.index("mdm.authenticated") < event_types.index("mdm.token_updated")
    assert event_types.count("mdm.bootstrap_token_set") == 1
    enrolled_at = of(events, "mdm.token_updated")[0].time
    confirmed = [
        event.time
        for event in of(events, "inventory.reported")
        if event.time > enrolled_at and event.data.activations == ("munki",)  # type: ignore[union-attr]
    ]
    assert confirmed
    assert confirmed[0] > enrolled_at
    assert mac.compliant


def test_erased_mac_without_automated_enrollment_stays_away() -> None:
    fleet = a_fleet(a_spec(ade=False))
    order(fleet, an_erasing_job())
    assert "mdm.authenticated" not in kinds(fleet.advance(START + 5 * DAY))
    assert not fleet.macs[UDID].is_online(fleet.now)


@pytest.mark.parametrize("answers", [True, False])
def test_mac_enrolls_only_if_a_person_answers_the_prompt(answers: bool) -> None:
    fleet = a_fleet(a_spec(enrolled=False, faults=Faults(answers_prompt=answers)))
    order(fleet, a_job(Action.REENROLL, Method.PROFILES_RENEW, target=None, intent="x"))
    fleet.advance(START + 2 * DAY)
    assert fleet.macs[UDID].enrolled is answers


def test_mac_without_its_profile_checks_out_and_reports_by_osquery_only() -> None:
    fleet = a_fleet(a_spec(faults=Faults(loses_profile_at=START + hours(30))))
    events = fleet.advance(START + 4 * DAY)
    (gone,) = of(events, "mdm.checked_out")
    later = {
        event.data.source  # type: ignore[union-attr]
        for event in of(events, "inventory.reported")
        if event.time > gone.time
    }
    assert later == {"osquery"}


def test_reinstall_repairs_firmware_and_seal() -> None:
    faults = Faults(drifts_firmware_at=START + hours(1), breaks_seal_at=START + hours(1))
    fleet = a_fleet(a_spec(os_version=NEW.version, build=NEW.build, faults=faults))
    mac = fleet.macs[UDID]
    fleet.advance(START + hours(2))
    assert (mac.firmware, mac.sealed) == ("fw-26.1-drifted", False)
    order(fleet, a_job(Action.REINSTALL, Method.STARTOSINSTALL))
    fleet.advance(START + hours(6))
    assert (mac.firmware, mac.sealed) == ("fw-26.2", True)


def test_restart_boots_and_can_cure_a_failing_installation() -> None:
    faults = Faults(failing_installs=ALWAYS, is_cured_by_restart=True)
    fleet = a_fleet(a_spec(faults=faults))
    mac = fleet.macs[UDID]
    order(fleet, a_job())
    fleet.advance(START + hours(6))
    assert mac.os_version != NEW.version
    order(fleet, a_job(Action.RESTART, Method.RESTART_DEVICE, target=None, intent="failing:26.2"))
    events = fleet.advance(START + hours(7))
    assert START + hours(6) < mac.boot_at < START + hours(6.1)
    assert mac.boot_at in [one.data.boot_at for one in of(events, "inventory.reported")]  # type: ignore[union-attr]
    order(fleet, a_job(generation=1))
    fleet.advance(START + hours(12))
    assert mac.os_version == NEW.version


MISFITS = {
    "declaration on macOS 13": (
        a_job(method=Method.DDM),
        {"os_version": parse_os_version("13.7"), "build": parse_build("22H123")},
        "unsupported",
    ),
    "declaration unsupervised": (a_job(method=Method.DDM), {"supervised": False}, "unsupported"),
    "old command on macOS 27": (
        a_job(method=Method.MDM_COMMAND),
        {"os_version": parse_os_version("27.0"), "build": parse_build("26A428")},
        "command_rejected",
    ),
    "MDM without enrollment": (a_job(method=Method.DDM), {"enrolled": False}, "not_enrolled"),
    "no volume owner": (a_job(), {"volume_owner": False}, "no_volume_owner"),
    "image on Apple silicon": (an_erasing_job(Method.ASR), {}, "unsupported"),
    "image of another build": (
        an_erasing_job(Method.ASR),
        {"hardware": "intel"},
        "unsupported",
    ),
    "prompt without ADE": (
        a_job(Action.REENROLL, Method.PROFILES_RENEW, target=None, intent="x"),
        {"ade": False},
        "command_rejected",
    ),
}


@pytest.mark.parametrize(("job", "spec", "code"), MISFITS.values(), ids=MISFITS.keys())
def test_unsuitable_order_is_refused(job: Job, spec: dict[str, object], code: str) -> None:
    fleet = a_fleet(a_spec(**spec))  # type: ignore[arg-type]
    ack = order(fleet, job)
    assert (ack.kind, ack.error_code) == ("refused", code)
    assert fleet.acted == []


def seconds(channel: Channel, downloads: list[tuple[float, float]]) -> list[float]:
    """Return the ends in s of downloads (start in s, size in GB), by start."""
    ends: dict[str, float] = {}
    todo = sorted((start, f"{number}", size) for number, (start, size) in enumerate(downloads))
    while todo or channel.next_end() is not None:
        end = channel.next_end()
        if todo and (end is None or START + timedelta(seconds=todo[0][0]) < end):
            start, name, size = todo.pop(0)
            channel.start(name, size, START + timedelta(seconds=start))
        else:
            assert end is not None
            ends[channel.end(end)] = (end - START).total_seconds()
    return [ends[str(number)] for number in range(len(downloads))]


@pytest.mark.parametrize(
    ("downloads", "ends"),
    [
        ([(0, 1)], [8]),
        ([(0, 1), (0, 1)], [16, 16]),
        ([(0, 2), (8, 1)], [24, 24]),
        ([(0, 1), (0, 3)], [16, 32]),
    ],
    ids=["alone", "two", "joining", "a short and a long one"],
)
def test_downloads_share_a_line_evenly(
    downloads: list[tuple[float, float]], ends: list[float]
) -> None:
    assert seconds(Channel(1000.0), downloads) == pytest.approx(ends, abs=1e-3)


def test_cache_loads_an_item_once() -> None:
    line = SiteNetwork(SiteRates(uplink_mbps=100.0, cache=True, lan_mbps=1000.0))
    for name in ("a", "b", "c"):
        line.start(name, "26.2", 1.0, START)
    ends = []
    while (end := line.next_end()) is not None:
        ends.append((line.end(end), round((end - START).total_seconds())))
    assert ends == [("a", 80), ("b", 96), ("c", 96)]


def test_macs_of_a_site_share_its_line() -> None:
    specs = [a_spec(f"MAC-{number}") for number in range(10)]
    thin = {"london": SiteRates(uplink_mbps=100.0)}
    alone, together = a_fleet(specs[0], lines=thin), a_fleet(*specs, lines=thin)
    order(alone, a_job(udid="MAC-0"))
    for spec in specs:
        order(together, a_job(udid=spec.udid))
    first = first_build_at(alone.advance(START + DAY))
    shared = first_build_at(together.advance(START + DAY))
    assert first is not None
    assert shared is not None
    assert shared - first > timedelta(minutes=30)


def test_fleet_file_with_other_macs_is_refused(tmp_path: Path) -> None:
    SimulatedFleet.open(tmp_path / "macs", [a_spec("A")], START, releases=RELEASES).close()
    with pytest.raises(ValueError, match="another fleet"):
        SimulatedFleet.open(tmp_path / "macs", [a_spec("B")], START, releases=RELEASES)


def test_fleet_opened_again_returns_the_events_after_the_given_time(tmp_path: Path) -> None:
    fleet = SimulatedFleet.open(tmp_path / "macs", [a_spec()], START, releases=RELEASES)
    first = fleet.advance(START + hours(10))
    order(fleet, a_job())
    rest = fleet.advance(START + DAY)
    fleet.close()
    noon = START + hours(16)
    late = [event for event in rest if event.time > noon]
    for since, want in ((None, first + rest), (START + hours(10), rest), (noon, late)):
        again = SimulatedFleet.open(
            tmp_path / "macs", [a_spec()], START, releases=RELEASES, since=since
        )
        assert again.advance(START + DAY) == want
        again.close()


def test_two_macs_with_one_udid_are_refused() -> None:
    with pytest.raises(ValueError, match="one UDID"):
        a_fleet(a_spec(), a_spec())
