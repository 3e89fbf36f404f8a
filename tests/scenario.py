"""Scenarios as data, and what a shell must offer to run one: the same decisions from each.

A scenario (tests/scenarios/*.yaml) is a policy and steps in time. A step has the events that arrive
(the keys are those of `step_events`), each Mac's decision after them (`expect`, as `verdict reason
action method`), the jobs that have reached the executors of each site so far (`published`), and the
inputs that became dead letters so far, by code (`set_aside`). `orders` at the end counts each Mac's
jobs. Events of a step marked `twice` arrive again, in reverse order. For each site in
`carried_out`, the executors do the jobs that reached them, and the Macs report it.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from ruamel.yaml import YAML

from schemas.dead_letters import DeadLetter
from schemas.decisions import Decision, DecisionRecord
from schemas.envelope import ApprovalGrantedEvent, CloudEvent, JobIssuedEvent
from schemas.events.control import Approval
from schemas.results import ErrorCode, Outcome
from schemas.signed_payloads import sign_approval
from tests import factories
from tests.factories.sites import APPROVALS_KEY, STRANGER_KEY

FOLDER = Path(__file__).parent / "scenarios"


class Shell(Protocol):
    """The core with something durable around it."""

    def set_time(self, at: datetime) -> None:
        """It is this time from now on."""

    def accept(self, events: Sequence[CloudEvent]) -> None:
        """Take these, with all that follows from them."""

    def accept_bytes(self, raw: bytes) -> None:
        """Take what should be a report and may be anything."""

    def settle(self) -> None:
        """Do what is due now."""

    def records(self) -> Sequence[DecisionRecord]:
        """Every decision so far, each Mac's in its order."""

    def issued_jobs(self) -> Sequence[JobIssuedEvent]:
        """Every job ordered so far, each Mac's in its order."""

    def published_jobs(self) -> Sequence[JobIssuedEvent]:
        """Every job that has reached a site's executors so far."""

    def dead_letters(self) -> Sequence[DeadLetter]:
        """Every input so far that could not be used."""


@dataclass(frozen=True)
class ScenarioResult:
    """What came of a scenario: each Mac's answer after each step, and all orders' ids. Gates and
    evidence are left out: their figures move while an answer stands."""

    steps: tuple[Mapping[str, str], ...]
    job_ids: Mapping[str, tuple[str, ...]]


def names() -> list[str]:
    """Every scenario."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def read(name: str) -> dict[str, Any]:
    """A scenario."""
    scenario: dict[str, Any] = YAML(typ="safe").load((FOLDER / f"{name}.yaml").read_text())
    return scenario


def play(scenario: Mapping[str, Any], shell: Shell) -> ScenarioResult:
    """Run a scenario; fails where an answer is not the expected one."""
    found = []
    carried: set[str] = set()
    for number, step in enumerate(scenario["steps"]):
        at = parse_time(step["at"])
        shell.set_time(at)
        if number == 0:
            shell.accept([factories.policy_changed(scenario["policy"], at)])
        for events in chain(step_events(step, at, shell), carried_out(step, at, shell, carried)):
            shell.accept([*events, *reversed(events)] if step.get("twice") else events)
        for text in step.get("garbage", ()):
            shell.accept_bytes(text.encode())
        shell.settle()
        decisions = {record.decision.udid: record.decision for record in shell.records()}
        compare(step, decisions, shell, f"at {at:%d %H:%M}")
        found.append({udid: in_short(decision) for udid, decision in decisions.items()})
    job_ids: dict[str, tuple[str, ...]] = {}
    for event in shell.issued_jobs():
        job = event.data.job
        if job.job_id not in job_ids.get(job.udid, ()):
            job_ids[job.udid] = (*job_ids.get(job.udid, ()), job.job_id)
    assert {udid: len(ids) for udid, ids in job_ids.items()} == scenario["orders"]
    return ScenarioResult(tuple(found), job_ids)


def compare(
    step: Mapping[str, Any], decisions: Mapping[str, Decision], shell: Shell, where: str
) -> None:
    """Fail where a step does not end as it says."""
    for udid, wanted in step.get("expect", {}).items():
        assert summary(decisions[udid]) == wanted, f"{udid} {where}"
    if "published" in step:
        jobs = {event.data.job.job_id: event.data.job.site for event in shell.published_jobs()}
        assert Counter(jobs.values()) == step["published"], where
    if "set_aside" in step:
        letters = Counter(letter.code.value for letter in shell.dead_letters())
        assert letters == step["set_aside"], where


def in_short(decision: Decision) -> str:
    """An answer, whole but for its gates and evidence."""
    return decision.model_dump_json(exclude={"gates", "evidence"})


def summary(decision: Decision) -> str:
    """An answer in four words, two where nothing is wanted."""
    words = (decision.decision, decision.reason, decision.action, decision.method)
    return " ".join(word.value for word in words if word is not None)


def parse_time(value: datetime | str) -> datetime:
    """A time of a scenario: YAML's, which is naive, is UTC."""
    return factories.at(str(value).replace(" ", "T").removesuffix("+00:00").removesuffix("Z"))


def step_events(step: Mapping[str, Any], at: datetime, shell: Shell) -> Iterator[list[CloudEvent]]:
    """What a step brings: facts for all Macs first, then what is about one."""
    just = at - timedelta(minutes=1)
    facts = list(broadcast_events(step, at, shell))
    if facts:
        yield facts
    for udid in step.get("enrolled", ()):
        yield [*factories.enrolled(udid), factories.polled(udid, just)]
    # Topics have no order among each other: what is of another one is heard after the first.
    left = step.get("checked_out", ())
    checkins: list[CloudEvent] = [factories.checked_out(udid, just) for udid in left]
    checkins += [event for u in step.get("reenrolled", ()) for event in enrolled_anew(u, just)]
    for events in (
        [full_report_of(fields, just) for fields in step.get("reports", ())],
        checkins,
        [result(fields, just, shell) for fields in step.get("results", ())],
    ):
        if events:
            yield events


def carried_out(
    step: Mapping[str, Any], at: datetime, shell: Shell, carried: set[str]
) -> Iterator[list[CloudEvent]]:
    """Executors did, and Macs report, all jobs of these sites that are not `carried` out yet."""
    just = at - timedelta(minutes=1)
    if not step.get("carried_out"):
        return
    jobs = {event.data.job.job_id: event.data.job for event in shell.published_jobs()}
    new = [job for job in jobs.values() if job.site in step["carried_out"]]
    new = [job for job in new if job.job_id not in carried]
    carried.update(job.job_id for job in new)
    yield [factories.resulted(job, Outcome.ACTED, just) for job in new]
    yield [
        full_report_of(
            {"udid": job.udid, "site": job.site, "os_version": str(job.target.version)}, just
        )
        for job in new
        if job.target is not None
    ]


def broadcast_events(step: Mapping[str, Any], at: datetime, shell: Shell) -> Iterator[CloudEvent]:
    """What concerns all Macs. An advisory is a version, or a version and what is known of it."""
    if "policy" in step:
        yield factories.policy_changed(step["policy"], at)
    for name, known in (
        ("advisories", factories.release),
        ("raised", factories.raised),
        ("retracted", factories.retracted),
    ):
        for advisory in step.get(name, ()):
            version, more = (
                next(iter(advisory.items())) if isinstance(advisory, dict) else (advisory, {})
            )
            yield known(version, first_seen_at=at, **more)
    yield from (factories.halted(at, **scope) for scope in step.get("halts", ()))
    yield from (factories.halt_cleared(at, **scope) for scope in step.get("clears", ()))
    for name, key in (("approved", APPROVALS_KEY), ("approved_by_stranger", STRANGER_KEY)):
        for udid in step.get(name, ()):
            yield approved(asked_for(udid, shell), at, key)
    for udid in step.get("denied", ()):
        yield factories.denied(asked_for(udid, shell).job_id or "", udid, at)


def asked_for(udid: str, shell: Shell) -> Decision:
    """What a Mac's last answer asks for."""
    return [one.decision for one in shell.records() if one.decision.udid == udid][-1]


def approved(decision: Decision, at: datetime, key: Ed25519PrivateKey) -> CloudEvent:
    """Leave to do what a decision waits to do, for two days."""
    assert decision.job_id is not None
    assert decision.action is not None
    approval = Approval(
        udid=decision.udid,
        job_id=decision.job_id,
        action=decision.action,
        by="ada",
        expires_at=at + timedelta(days=2),
    )
    return ApprovalGrantedEvent(
        id=f"{approval.job_id}/{at:%d%H%M}/{key is APPROVALS_KEY}",
        source="/test",
        subject=approval.job_id,
        time=at,
        data=sign_approval(approval, key),
    )


def enrolled_anew(udid: str, at: datetime) -> list[CloudEvent]:
    """An enrolment of just now."""
    return [*factories.enrolled(udid, at), factories.polled(udid, at)]


def full_report_of(fields: Mapping[str, Any], just: datetime) -> CloudEvent:
    """A full report of a Mac, but for what is said."""
    facts = dict(fields)
    when = parse_time(facts.pop("when")) if "when" in facts else just
    udid, version = facts.pop("udid"), facts.pop("os_version")
    return factories.full_report(version, udid, when, serial=f"C02{udid}", **facts)


def result(fields: Mapping[str, Any], just: datetime, shell: Shell) -> CloudEvent:
    """What an executor says of the last order for a Mac."""
    job = [
        event.data.job for event in shell.issued_jobs() if event.data.job.udid == fields["udid"]
    ][-1]
    code = ErrorCode(fields["error_code"]) if "error_code" in fields else None
    return factories.resulted(job, Outcome(fields["outcome"]), just, code)
