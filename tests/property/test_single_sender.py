"""Laws for one sender outside the MDM channel, with any sequence of its events."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.decide.decision import decide
from pipeline.reconcile.changes import Changes
from pipeline.reconcile.reconciler import Reconciler
from pipeline.trust.admission import admit
from pipeline.trust.senders import SCOPES, Sender, default_sender
from schemas.decisions import Decision, Reason
from schemas.envelope import Event, JobIssuedEvent
from tests import factories as make
from tests.factories import HOUR, NOW
from tests.reconcile_loop import UNLIMITED, advance, inputs, new_reconciler, sweep
from tests.strategies import SERIALS, UDIDS, advisory_events, checkins, reports

POLICY = """\
version: 1
sites:
  london: {time_zone: Europe/London, max_jobs: 1000}
  tokyo: {time_zone: Asia/Tokyo, max_jobs: 1000}
default_site: london
follow_up: {compliant: false}
"""
WITHOUT_LIMITS = POLICY + "blast_radius: {jobs_per_hour: null, halt_above: null}\n"
LOANED = "5A0C7D9E-0000-4000-8000-000000000004"
HONEST = (*UDIDS, LOANED)
INVENTED = tuple(f"5A0C7D9E-0000-4000-8000-00000000001{n}" for n in range(3))
OWN = "5A0C7D9E-0000-4000-8000-000000000020"
KINDS = ("osquery", "munki", "events", "advisories")


# Each example makes one or two fleets.
SOME = settings(max_examples=40)


class Attack(NamedTuple):
    """The events that a sender posts, `after` the ones before."""

    after: timedelta
    events: list[Event]


def a_fleet(policy: str) -> tuple[Reconciler, Changes]:
    """Return a fleet, and the changes so far.

    Two Macs lack a release, one has a broken seal by osquery alone, one is a returned loan unit.
    """
    reconciler = new_reconciler()
    events: list[Event] = [make.policy_changed(policy), *map(make.release, make.RELEASES)]
    for number, udid in enumerate(HONEST):
        serial = [*SERIALS[:2], "C02THIRD", "C02LOANED"][number]
        version = "26.1" if number < 2 else "26.2"
        events += [*make.enrolled(udid), make.polled(udid)]
        events.append(make.full_report(version, udid, serial=serial))
    events += [
        make.reported(UDIDS[2], NOW, "osquery", system_volume_sealed=False),
        make.reported(LOANED, NOW, "admin", ownership="loan", loan_returned_at=NOW - 2 * HOUR),
    ]
    changes = reconciler.apply(inputs(*events), NOW)
    assert not changes.rejections
    return reconciler, reconciler.decide_marked(NOW, UNLIMITED, changes)


def test_fleet_has_macs_that_an_attack_could_erase_or_reinstall() -> None:
    reconciler, _ = a_fleet(POLICY)
    reasons = [reconciler.last_decisions[udid].reason for udid in HONEST]
    assert reasons[2:] == [Reason.UNCORROBORATED, Reason.AWAITING_APPROVAL]
    assert set(reasons[:2]) == {Reason.JOB_OPEN, Reason.HOURLY_LIMIT}


@st.composite
def events_of_a_sender(draw: st.DrawFn) -> Event:
    """An event about any Mac or release, of any time, as a sender writes it."""
    macs = (*HONEST, *INVENTED, OWN)
    event = draw(st.one_of(reports(macs), reports(macs), checkins(macs), advisory_events()))
    changed: dict[str, Any] = {}
    if draw(st.booleans()):
        changed["time"] = NOW + draw(st.sampled_from([-1, 0, 1, 5, 24 * 400])) * HOUR
    if draw(st.booleans()):
        changed["source"] = draw(st.sampled_from(["/drydock/decide", "/attacker"]))
    if draw(st.booleans()) and hasattr(event.data, "source"):
        reports_as = draw(st.sampled_from(["osquery", "munki", "other"]))
        changed["data"] = event.data.model_copy(update={"source": reports_as})
    return event.model_copy(update=changed)


def attacks() -> st.SearchStrategy[list[Attack]]:
    after = st.sampled_from([timedelta(0), timedelta(minutes=20), HOUR, 7 * HOUR])
    step = st.builds(Attack, after, st.lists(events_of_a_sender(), min_size=1, max_size=6))
    return st.lists(step, min_size=1, max_size=4)


def carry_out(
    reconciler: Reconciler, sender: Sender, steps: Iterable[Attack]
) -> tuple[datetime, list[Changes]]:
    """Let a sender post its events; return the time after them, and all that follows."""
    now, found = NOW, []
    for step in steps:
        now += step.after
        for event in step.events:
            is_translated = sender.kind not in ("events", "advisories")
            admitted = admit(event, sender, now, is_translated=is_translated)  # type: ignore[arg-type]
            if not isinstance(admitted, tuple):
                changes = reconciler.apply(inputs(admitted), now)
                found.append(reconciler.decide_marked(now, UNLIMITED, changes))
        found.append(advance(reconciler, now))
    found.append(sweep(reconciler, now))
    return now, found


def jobs_in(found: Iterable[Changes]) -> list[JobIssuedEvent]:
    records = (one.value for changes in found for one in changes.records)
    return [value for value in records if isinstance(value, JobIssuedEvent)]


@SOME
@given(st.sampled_from(KINDS), attacks())
def test_sender_causes_no_erase_and_exceeds_no_cap(kind: str, steps: list[Attack]) -> None:
    reconciler, before = a_fleet(POLICY)
    _, found = carry_out(reconciler, default_sender(kind), steps)
    jobs = [one.data.job for one in jobs_in([before, *found])]
    assert not [job for job in jobs if job.erases]
    assert not {job.udid for job in jobs} - {*HONEST}, "only confirmed Macs get jobs"
    macs: dict[tuple[Any, ...], set[str]] = {}
    for job in jobs:
        hour = job.issued_at.replace(minute=0, second=0, microsecond=0)
        macs.setdefault((job.site, job.action, hour), set()).add(job.udid)
    # A site of four confirmed Macs gets one job of an action in an hour.
    assert not [key for key, udids in macs.items() if len(udids) > 1]


def decisions(reconciler: Reconciler, now: datetime) -> dict[str, Decision]:
    return {udid: decide(reconciler.situation(udid, now)) for udid in HONEST}


@SOME
@given(st.sampled_from(["osquery", "munki", "events"]), attacks())
def test_sender_changes_no_decision_of_a_mac_outside_its_scope(
    kind: str, steps: list[Attack]
) -> None:
    devices = frozenset({OWN, *INVENTED[:1]})
    sender = Sender(kind, kind, replace(SCOPES[kind], devices=devices))
    attacked, _ = a_fleet(WITHOUT_LIMITS)
    now, _ = carry_out(attacked, sender, steps)
    alone, _ = a_fleet(WITHOUT_LIMITS)
    carry_out(alone, sender, [step._replace(events=[]) for step in steps])
    assert decisions(attacked, now) == decisions(alone, now)


@SOME
@given(attacks())
def test_mac_with_its_own_token_changes_no_decision_of_another_mac(steps: list[Attack]) -> None:
    sender = default_sender("munki").limited_to(OWN)
    attacked, _ = a_fleet(WITHOUT_LIMITS)
    now, _ = carry_out(attacked, sender, steps)
    alone, _ = a_fleet(WITHOUT_LIMITS)
    carry_out(alone, sender, [step._replace(events=[]) for step in steps])
    assert decisions(attacked, now) == decisions(alone, now)
    assert {*attacked.fleet.macs()} <= {*HONEST, OWN}


# The host names that drawn reports have.
NAMES = ("lon-1", "tyo-1")
BY_NAME = f"""{WITHOUT_LIMITS}exemptions: [{{who: {{hostnames: ["lon-*", "tyo-*"]}}, why: signage}}]
"""


@st.composite
def renames(draw: st.DrawFn) -> Event:
    """A report with a host name of a Mac that lacks a release."""
    when = NOW + draw(st.sampled_from([-1, 0, 1, 5])) * HOUR
    source, name = draw(st.sampled_from(["osquery", "munki", "other"])), st.sampled_from(NAMES)
    return make.reported(draw(st.sampled_from(UDIDS[:2])), when, source, hostname=draw(name))


@SOME
@given(st.sampled_from(["osquery", "munki", "events"]), attacks(), st.lists(renames(), min_size=1))
def test_sender_exempts_no_mac_by_a_host_name(
    kind: str, steps: list[Attack], renamed: list[Event]
) -> None:
    reconciler, _ = a_fleet(BY_NAME)
    for udid in HONEST:
        named = make.reported(udid, NOW, "mdm", hostname=f"office-{udid[-1]}")
        reconciler.apply(inputs(named), NOW)
    steps = [*steps, Attack(HOUR, renamed)]
    now, _ = carry_out(reconciler, default_sender(kind), steps)
    assert Reason.EXEMPT not in {one.reason for one in decisions(reconciler, now).values()}
