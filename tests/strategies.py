"""Hypothesis strategies over a small world: few Macs, few releases, times around NOW.

The world is small so that events often concern the same Mac, release or time.
"""

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, get_args

from hypothesis import strategies as st

from pipeline.decide.decision import decide
from pipeline.decide.family_hold import family_hold
from pipeline.decide.gate_reads import Field
from pipeline.decide.situation import Situation
from pipeline.policy.model import Policy
from pipeline.state.advisories import Advisories
from pipeline.state.device import FIELDS, FIRST_TELEMETRY, INDEX, SOURCES, Device
from pipeline.state.fleet import Fleet
from pipeline.state.identity import CERTAIN, Identity
from pipeline.state.jobs import JobEntry, JobHistory
from schemas.envelope import (
    AdvisoryCorrectedEvent,
    AdvisoryEvent,
    AdvisoryNarrowedEvent,
    AdvisoryPublishedEvent,
    AdvisoryRetractedEvent,
    AdvisorySeverityRaisedEvent,
    BootstrapTokenEvent,
    DdmStatusEvent,
    Event,
)
from schemas.findings import FindingCode
from schemas.ids import is_real_serial
from schemas.jobs import Action, Method
from schemas.macos import parse_build, parse_os_version
from schemas.results import ErrorCode, Outcome
from tests import factories as make

UDIDS = tuple(f"5A0C7D9E-0000-4000-8000-00000000000{n}" for n in range(1, 4))
SERIALS = ("C02TEST0001", "C02TEST0002", "0")
SITES = ("london", "tokyo", "paris")
VERSIONS = {
    "27.0": "26A428",
    "26.3": "25D100",
    "26.2": "25C56",
    "26.2 (a)": "25C771280a",
    "26.1": "25B78",
    "26.0": "25A354",
    "15.7.3": "24G419",
    "15.7.2": "24G325",
    "14.8.3": "23J220",
    "13.7.8": "22H730",
    "13.7.7": "22H700",
    "10.15.7": "19H2026",
}
BUILDS = (*VERSIONS.values(), "25C5048a", "25C2056", "25C50")
MODELS = {
    "Mac16,1": "J604AP",
    "Mac17,5": "J700AP",
    "MacBookPro16,1": "J152FAP",
    "MacBookPro14,1": "Mac-B4831CEBD52A0C4C",
    "iMac18,3": "Mac-BE088AF8C5EB4FA2",
    "VirtualMac2,1": "VMA2MACOSAP",
    "Foo99,1": "X1AP",
}
CVES = tuple(f"CVE-2025-{number}" for number in range(10001, 10005))

# Whole hours, so that events often have equal times; UTC offsets, so that zones differ.
_HOURS = st.integers(-40 * 24, 0)
_ZONES = st.sampled_from([UTC]) | st.builds(
    lambda hours: timezone(timedelta(hours=hours)), st.integers(-9, 9)
)


def times(first_hour: int = -40 * 24, last_hour: int = 0) -> st.SearchStrategy[datetime]:
    """Times around NOW, as hours from NOW, in any zone."""
    return st.builds(
        lambda hours, zone: (make.NOW + timedelta(hours=hours)).astimezone(zone),
        st.integers(first_hour, last_hour),
        _ZONES,
    )


def _maybe(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | strategy


_YES_NO = st.booleans()
_FACTS: dict[str, st.SearchStrategy[Any]] = {
    "os_version": st.sampled_from(list(VERSIONS)),
    "build": st.sampled_from(BUILDS),
    "model": st.sampled_from(list(MODELS)),
    "device_id": st.sampled_from(list(MODELS.values())),
    "serial": st.sampled_from(SERIALS),
    "hostname": st.sampled_from(["lon-1", "tyo-1"]),
    "site": st.sampled_from(SITES),
    "enrollment_id": st.sampled_from([*UDIDS, "BYOD-1"]),
    "supervised": _YES_NO,
    "user_approved": _YES_NO,
    "ade_enrolled": _YES_NO,
    "bootstrap_token_escrowed": _YES_NO,
    "volume_owner_available": _YES_NO,
    "free_disk_gb": st.sampled_from([0.5, 15.0, 20.0, 200.0]),
    "battery_percent": st.sampled_from([5.0, 30.0, 100.0]),
    "on_ac_power": _YES_NO,
    "firmware": st.sampled_from(["1.0", "2.0"]),
    "system_volume_sealed": _YES_NO,
    "mdm_enrolled": _YES_NO,
    "mdm_server": st.sampled_from(["https://mdm.example/", "https://old.example/"]),
    "identity_expires_at": times(-24, 60 * 24),
    "boot_at": times(),
    "loan_returned_at": times(),
    "activations": st.lists(st.sampled_from(["munki", "office"]), max_size=2),
    "profiles": st.lists(st.sampled_from(["kext", "pppc"]), max_size=2),
    "compliant": _YES_NO,
    "ownership": st.sampled_from(["company", "loan", "personal"]),
    "never_erase": _YES_NO,
    "retired": _YES_NO,
}


@st.composite
def facts(draw: st.DrawFn) -> dict[str, Any]:
    """Up to five fields of a report."""
    names = draw(st.lists(st.sampled_from(list(_FACTS)), max_size=5, unique=True))
    return {name: draw(_FACTS[name]) for name in names}


def consistent(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the same fields with the build and device id that belong to version and model."""
    fixed = dict(fields)
    if "os_version" in fields:
        fixed["build"] = VERSIONS[fields["os_version"]]
    if "model" in fields:
        fixed["device_id"] = MODELS[fields["model"]]
    return fixed


@st.composite
def reports(draw: st.DrawFn, udids: tuple[str, ...] = UDIDS) -> Event:
    """An inventory report, by UDID or by serial number alone."""
    fields = draw(facts())
    if draw(st.booleans()):
        fields = consistent(fields)
    udid = draw(st.sampled_from([*udids, None]))
    if udid is None:
        # A record under a placeholder alone is refused.
        fields["serial"] = draw(st.sampled_from(list(filter(is_real_serial, SERIALS))))
    return make.reported(udid, draw(times()), draw(st.sampled_from(SOURCES)), **fields)


@st.composite
def checkins(draw: st.DrawFn, udids: tuple[str, ...] = UDIDS) -> Event:
    """An event from an MDM server."""
    udid, when = draw(st.sampled_from(udids)), draw(times())
    kind = draw(st.integers(0, 5))
    if kind < 2:
        return make.enrolled(udid, when)[kind]  # type: ignore[no-any-return]
    if kind == 2:
        return make.checked_out(udid, when)
    if kind == 3:
        return make.polled(udid, when)
    if kind == 4:
        data: dict[str, Any] = {"udid": udid, "escrowed": draw(st.booleans())}
        return make.make_event(BootstrapTokenEvent, udid, when, data)  # type: ignore[no-any-return]
    states = st.sampled_from(["none", "downloading", "prepared", "failed"])
    data = {"udid": udid, "install_state": draw(states)}
    if data["install_state"] == "failed":
        data["failure_reason"] = draw(st.sampled_from(["InsufficientDiskSpace", "someday new"]))
    if data["install_state"] != "none":
        data["pending_version"] = draw(_maybe(st.sampled_from(["26.2", "26.3"])))
    return make.make_event(DdmStatusEvent, udid, when, data)  # type: ignore[no-any-return]


_KINDS: tuple[Any, ...] = (
    AdvisoryPublishedEvent,
    AdvisorySeverityRaisedEvent,
    AdvisoryNarrowedEvent,
    AdvisoryCorrectedEvent,
    AdvisoryRetractedEvent,
)


@st.composite
def advisory_events(draw: st.DrawFn, first_hour: int = -40 * 24) -> AdvisoryEvent:
    """An advisory event of a release, or of CVEs alone."""
    when = draw(times(first_hour))
    some_cves = st.lists(st.sampled_from(CVES), max_size=3, unique=True)
    if draw(st.integers(0, 5)) == 0:
        cves = draw(st.lists(st.sampled_from(CVES), min_size=1, max_size=2, unique=True))
        return make.kev(*cves, due=draw(_maybe(times(-100, 400))), first_seen_at=when)
    version = draw(st.sampled_from(list(VERSIONS)))
    ids = st.lists(st.sampled_from(list(MODELS.values())), max_size=7, unique=True)
    return make.release(
        version,
        build=draw(st.sampled_from([VERSIONS[version], "", "25C56,25C2056"])),
        day=draw(st.sampled_from(["2025-12-12", "2026-01-10", "2026-01-18"])),
        first_seen_at=when,
        cves=draw(some_cves),
        exploited=draw(some_cves),
        severity=draw(_maybe(st.sampled_from(["low", "medium", "high", "critical"]))),
        device_ids=draw(_maybe(ids)),
        source=draw(st.sampled_from(["sofa", "gdmf", "admin"])),
        kind=draw(st.sampled_from(_KINDS)),
    )


@st.composite
def controls(draw: st.DrawFn) -> Event:
    """An act of an operator, except a change of the policy."""
    when = draw(times())
    action = draw(st.sampled_from(["update", "upgrade", "reinstall", "reenroll"]))
    at_london = {"site": "london"}
    action_there = {**at_london, "action": action}
    scope = draw(st.sampled_from([{}, at_london, action_there, {"advisory": "macOS-26.2"}]))
    until = draw(_maybe(times(-48, 48)))
    job_id = draw(st.sampled_from(["job-1", "job-2"]))
    udid = draw(st.sampled_from(UDIDS))
    expires = draw(times(-48, 48))
    stated = draw(advisory_events())
    part = draw(st.sampled_from([{}, {"field": "severity"}, {"field": "exploited_cves"}]))
    found: list[Event] = [
        make.struck(stated, when, **part),
        make.restored(stated, when, **part),
        make.halted(when, **scope, until=until),
        make.halt_cleared(when, **scope),
        make.granted(job_id, when, udid=udid, expires_at=expires),
        make.denied(job_id, udid, when),
        make.attempts_reset(when, draw(_maybe(st.sampled_from(ErrorCode))), device=udid),
        make.attempts_reset(when, site="london"),
        make.settled("forget", draw(st.sampled_from([*UDIDS, SERIALS[0]])), when=when),
        make.settled(
            draw(st.sampled_from(["merge", "separate"])),
            udid,
            draw(st.sampled_from([one for one in (*UDIDS, *SERIALS) if one != udid])),
            when,
        ),
    ]
    return draw(st.sampled_from(found))


def policy_texts() -> st.SearchStrategy[str]:
    """Policies that differ in upgrades, windows, deadlines or exemptions."""
    return st.sampled_from(
        [
            make.POLICY_TEXT,
            make.POLICY_TEXT + "upgrades: {to: '26'}\n",
            make.POLICY_TEXT + "upgrades: {deferral: 150d}\nloans: {system: newest}\n",
            make.POLICY_TEXT + "windows: [{from: '22:00', to: '04:00'}]\n",
            make.POLICY_TEXT + "upgrades: {supported_lines: ['26', '15']}\n",
            make.POLICY_TEXT + "deadlines: {high: 1d, low: 2d, routine: 2d, medium: 2d}\n",
            make.POLICY_TEXT + "exemptions: [{who: {hostnames: ['lon-*']}, why: render}]\n",
        ]
    )


def events() -> st.SearchStrategy[Event]:
    """Any event except events of jobs, whose order matters."""
    changes = st.builds(make.policy_changed, policy_texts(), times())
    return st.one_of(reports(), reports(), checkins(), advisory_events(), controls(), changes)


# --- situations ---


@st.composite
def overrides(draw: st.DrawFn) -> dict[str, Any]:
    """Up to four fields in which a Mac differs from a modern, healthy one."""
    names = draw(st.lists(st.sampled_from(list(_FACTS)), max_size=4, unique=True))
    found = {name: draw(_FACTS[name]) for name in names}
    if "model" in found:
        found["device_id"] = MODELS[found["model"]]
    return found


_STATED_BY_MDM: dict[str | None, dict[str, Any]] = {
    "26.1": {"system_volume_sealed": True, "firmware": "2.0"},
    "10.15.7": {"system_volume_sealed": False, "firmware": "1.0"},
}


@st.composite
def devices(draw: st.DrawFn) -> Device:
    """A Mac, mostly healthy, in a state that reports and check-ins can produce."""
    version = draw(st.sampled_from([*VERSIONS, "26.1", "26.1", "26.0", None]))
    given = {"build": VERSIONS.get(version or "")} | draw(overrides())
    fleet = Fleet()
    fleet.put(
        make.mac(
            version,
            udid=draw(st.sampled_from([UDIDS[0]] * 9 + ["serial:C02TEST0001"])),
            enrolled=draw(st.sampled_from([True, True, True, False])),
            seen_at=draw(st.sampled_from([make.NOW - make.HOUR, make.NOW - 9 * make.DAY])),
            mdm_seen_at=draw(_maybe(times(-20 * 24))),
            **given,
        )
    )
    name = next(iter(fleet.devices))
    stated = _STATED_BY_MDM.get(version)
    if stated is not None:  # it corroborates the inventory, and may know another host name
        named = draw(st.sampled_from([{}, {"hostname": "lon-1"}, {"hostname": "tyo-1"}]))
        reported = stated | named
        fleet.put(make.with_report(fleet.devices[name], make.NOW - make.HOUR, "mdm", **reported))
    if name == UDIDS[0]:
        for event in draw(st.lists(checkins(UDIDS[:1]), max_size=2)):
            fleet.apply(event)
    return fleet.merged_device(name)


@st.composite
def entries(draw: st.DrawFn) -> JobEntry:
    """A job of UDIDS[0] in any state."""
    version = draw(_maybe(st.sampled_from(list(VERSIONS))))
    outcome = draw(_maybe(st.sampled_from(list(Outcome))))
    intent = draw(st.sampled_from(["26.2", "26.2", "26.3", "15.7.3", "seal:26.2"]))
    return make.entry(
        intent,
        action=draw(st.sampled_from(list(Action))),
        method=draw(st.sampled_from(list(Method))),
        generation=draw(st.integers(0, 4)),
        issued_at=draw(times(-20 * 24)),
        outcome=outcome,
        outcome_at=draw(times(-20 * 24)),
        error_code=draw(_maybe(st.sampled_from(list(ErrorCode)))),
        acted_at=draw(_maybe(times(-20 * 24))),
        udid=UDIDS[0],
        site=draw(st.sampled_from(SITES)),
        version=version if version in make.RELEASES else None,
        erases=draw(st.booleans()),
        presumed=draw(st.booleans()) and outcome in (Outcome.SUPERSEDED, Outcome.EXPIRED),
    )


def job_histories() -> st.SearchStrategy[JobHistory]:
    """A Mac's job history: each id once, oldest first."""

    def by_time(found: list[JobEntry]) -> JobHistory:
        by_id = {one.job_id: one for one in found}
        return tuple(sorted(by_id.values(), key=lambda one: (one.issued_us, one.job_id)))

    return st.just(()) | st.lists(entries(), max_size=4).map(by_time)


_APPLE = make.apple(make.release("26.3", build="25D100", day="2026-01-18"))


def catalogues() -> st.SearchStrategy[Advisories]:
    """A catalogue of some advisory events, mostly together with Apple's real releases."""
    some = st.lists(advisory_events(), max_size=3)
    alone = some.map(lambda found: make.catalogue(*found))

    def after_real(found: list[AdvisoryEvent]) -> Advisories:
        known = _APPLE
        for event in found:
            known = known.apply(event)
        return known

    return st.one_of(some.map(after_real), some.map(after_real), alone)


def policies() -> st.SearchStrategy[Policy]:
    """Policies with any of the parts that rules read."""
    image = {"name": "i", "models": ["Mac*"], "version": "13.7.8", "build": "22H730"}
    firmware = [{"models": ["*"], "version": "26.2", "firmware": "2.0"}]
    exempt = [{"who": {"hostnames": ["lon-*"]}, "actions": ["update"], "why": "render farm"}]
    windows = [{"from": "22:00", "to": "04:00"}]
    sites = {"london": {"time_zone": "Europe/London"}, "tokyo": {"time_zone": "Asia/Tokyo"}}
    shut = {"london": {"time_zone": "Europe/London", "ssh": False, "max_jobs": 1}}
    canaries = {
        "london": {"time_zone": "Europe/London", "destructive": {"canaries": SERIALS[:1]}},
        "tokyo": {"time_zone": "Asia/Tokyo", "destructive": {"percent": 50}},
    }
    parts = st.fixed_dictionaries(
        {"sites": st.sampled_from([sites, sites, shut, canaries])},
        optional={
            "default_site": st.just("london"),
            "blast_radius": st.just({"jobs_per_hour": {"update": None}, "confirmed_only": False}),
            "windows": st.sampled_from([windows, []]),
            "images": st.just([image | {"firmware": "1.0"}]),
            "firmware": st.just(firmware),
            "exemptions": st.just(exempt),
            "upgrades": st.sampled_from(
                [
                    {"to": "26"},
                    {"to": "26", "not_before": "2026-01-21", "deadline": "2d"},
                    {"deferral": "150d"},
                    {"out_of_support": False},
                    {"supported_lines": ["26", "15"]},
                ]
            ),
            "loans": st.sampled_from(
                [{"system": "newest"}, {"wait_for_window": True}, {"require_ade": True}]
            ),
            "mdm": st.just({"server": "https://mdm.example/"}),
            "methods": st.sampled_from(
                [
                    {"update": ["softwareupdate"]},
                    {"update": []},
                    {"upgrade": ["mdm_command"]},
                    {"reinstall": ["erase_device"]},
                ]
            ),
            "deadlines": st.sampled_from(
                [{"high": "1d"}, {"routine": "3650d"}, {"after_enrollment": "150d"}]
            ),
            "follow_up": st.sampled_from(
                [
                    {"activations": ["munki"], "compliant": True, "bootstrap_token": True},
                    {"profiles": ["pppc"], "compliant": False},
                    {"activations": ["munki", "office"], "over_ssh": ["munki"]},
                ]
            ),
            "thresholds": st.sampled_from(
                [{"reinstall_after_failures": 1}, {"job_expires_after": "0m"}, {"cool_down": "0m"}]
            ),
            "tries": st.just({"ddm": 1}),
        },
    )
    return parts.map(Policy.model_validate)


_HALTS: tuple[Any, ...] = (
    (),
    (),
    (),
    (),
    (make.halt(site="london"),),
    (make.halt(site="london", action="reinstall"),),
    (make.halt(until=make.NOW + make.HOUR), make.halt(advisory="macOS-26.2")),
    (family_hold("macOS-26.2", family="Mac16", failed=5),),
)


# The fields that gates read, and those that decide the site and the enrollment.
_READ_BY_GATES: dict[str, st.SearchStrategy[Any]] = {
    name: _FACTS[name]
    for name in _FACTS
    if f"device.{name}" in get_args(Field) or name in ("site", "mdm_enrolled")
}


@st.composite
def worn_devices(draw: st.DrawFn) -> Device:
    """A Mac that mostly lacks a release and differs from a healthy one in fields of the gates."""
    names = draw(st.lists(st.sampled_from(list(_READ_BY_GATES)), max_size=5, unique=True))
    given: dict[str, Any] = {"os_version": draw(st.sampled_from(["26.1", "26.1", "26.2"]))}
    given |= {name: draw(_READ_BY_GATES[name]) for name in names}
    given |= {"build": VERSIONS[given["os_version"]]}
    if draw(st.integers(0, 2)) == 0:
        given["loan_returned_at"] = draw(times())
    if draw(st.integers(0, 5)) == 0:  # nothing shows that it is the company's
        given |= {"supervised": None, "ade_enrolled": None, "ownership": None}
    fleet = Fleet()
    fleet.put(
        make.mac(
            given.pop("os_version"),
            udid=UDIDS[0],
            enrolled=draw(st.sampled_from([True, True, False])),
            seen_at=make.NOW - draw(st.sampled_from([make.HOUR, 9 * make.DAY, 20 * make.DAY])),
            **given,
        )
    )
    for event in draw(st.lists(checkins(UDIDS[:1]), max_size=2)):
        fleet.apply(event)
    return fleet.merged_device(UDIDS[0])


@st.composite
def tried_job_histories(draw: st.DrawFn) -> JobHistory:
    """A Mac's job history: up to two updates that failed, or reinstalls that succeeded."""
    issued_at = make.NOW - draw(st.sampled_from([make.HOUR, 10 * make.HOUR, 3 * make.DAY]))
    if draw(st.booleans()):
        action, outcome, intents = Action.UPDATE, Outcome.FAILED, ["26.2", "26.3"]
    else:
        action, outcome, intents = Action.REINSTALL, Outcome.SUCCEEDED, ["seal"]
    return tuple(
        make.entry(
            intent,
            action=action,
            generation=generation,
            issued_at=issued_at + generation * make.HOUR / 4,
            outcome=outcome,
            outcome_at=issued_at + (generation + 1) * make.HOUR / 4,
            error_code=draw(st.sampled_from([ErrorCode.INSTALL_FAILED, ErrorCode.UNREACHABLE])),
            udid=UDIDS[0],
            erases=action is Action.REINSTALL and draw(st.booleans()),
        )
        for generation, intent in enumerate(draw(st.lists(st.sampled_from(intents), max_size=2)))
    )


_IDENTITIES = (
    *[CERTAIN] * 5,
    Identity(conflicts=((FindingCode.SERIAL_SHARED, UDIDS[1]),)),
    Identity(conflicts=((FindingCode.SERIAL_CHANGED, SERIALS[1]),)),
    Identity(replaced_by=UDIDS[1]),
)


@st.composite
def situations(draw: st.DrawFn, *, worn: bool = False) -> Situation:
    """Any situation of any Mac: mostly a healthy one, or with `worn` one that had jobs before.

    Some of the situations that wait for an approval have it.
    """
    found = Situation(
        draw(worn_devices() if worn else devices()),
        draw(catalogues()),
        draw(policies()),
        draw(st.just(make.NOW) | times(-48, 24 * 20)),
        draw(tried_job_histories() if worn else job_histories()),
        draw(st.sampled_from(_HALTS)),
        site_open_jobs=draw(st.sampled_from([0, 0, 0, 25])),
        identity=draw(st.sampled_from(_IDENTITIES)),
        site_macs=draw(st.sampled_from([0, 100])),
        site_hour_jobs=draw(st.sampled_from([(), (), (("update", 1),), (("update", 2),)])),
    )
    wanted = decide(found)
    if not wanted.erases or draw(st.integers(0, 2)) == 0:
        return found
    expires = found.now + timedelta(hours=draw(st.sampled_from([-1, 0, 24])))
    approval = make.approval(
        wanted.job_id or "", udid=wanted.udid, action=wanted.action or "", expires_at=expires
    )
    return replace(found, approvals=(approval,))


@st.composite
def reports_without_news(draw: st.DrawFn, device: Device, now: datetime) -> Event:
    """A report of this Mac that changes telemetry at most.

    It has other telemetry, fields or an install state with their known values, or is a poll.
    """
    udid, when = device.udid, now - timedelta(hours=draw(st.sampled_from([0, 0, 1, 30])))
    kind = draw(st.integers(0, 4))
    if kind == 0:
        return make.polled(udid, when)
    if kind == 1 and device.install_state is not None:
        data = {"udid": udid, "install_state": device.install_state}
        return make.make_event(DdmStatusEvent, udid, when, data)  # type: ignore[no-any-return]
    figures = {name: _FACTS[name] for name in _FACTS if name in FIELDS[FIRST_TELEMETRY:]}
    fields: dict[str, Any] = draw(st.fixed_dictionaries({}, optional=figures))
    for name in draw(st.lists(st.sampled_from(list(_FACTS)), max_size=6, unique=True)):
        known = device.values[INDEX[name]]
        if name not in figures and known is not None:
            fields[name] = str(known) if name in ("os_version", "build") else known
    return make.reported(udid, when, draw(st.sampled_from(SOURCES)), **fields)


def versions() -> st.SearchStrategy[Any]:
    """A parsed (version, build) of a known release."""
    return st.sampled_from(
        [(parse_os_version(text), parse_build(build)) for text, build in VERSIONS.items()]
    )
