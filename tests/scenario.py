"""Scenarios as data, and the interface of a shell that runs them: each shell decides the same.

A scenario (tests/scenarios/*.yaml) has a `policy`, `steps`, and `orders`: the number of jobs of
each Mac at the end. A step has the time `at`, events (the keys of `step_events`), and these keys:

- `expect`: the decision of each Mac after the step, as `verdict reason action method`.
- `published`: the number of jobs that have reached the executors so far, by site.
- `dead_letters`: the number of dead letters so far, by code.
- `garbage`: texts that arrive as inputs.
- `twice`: the events arrive again, in reverse order.
- `carried_out`: sites whose executors carry out the jobs that reached them; the Macs report it.
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

from pipeline.payload_signing import sign_approval
from schemas.dead_letters import DeadLetter
from schemas.decisions import Decision, DecisionRecord
from schemas.envelope import ApprovalGrantedEvent, CloudEvent, JobIssuedEvent
from schemas.events.control import Approval
from schemas.results import ErrorCode, Outcome
from tests import factories
from tests.factories.sites import APPROVALS_KEY, STRANGER_KEY

FOLDER = Path(__file__).parent / "scenarios"


class Shell(Protocol):
    """A form of Drydock: the core with durable state."""

    def set_time(self, at: datetime) -> None:
        """Set the time of all following calls."""

    def accept(self, events: Sequence[CloudEvent]) -> None:
        """Accept events, and reconcile."""

    def accept_bytes(self, raw: bytes) -> None:
        """Accept bytes that may be no valid event."""

    def settle(self) -> None:
        """Do all work that is due now."""

    def records(self) -> Sequence[DecisionRecord]:
        """Return every decision so far; those of one Mac are in their order."""

    def issued_jobs(self) -> Sequence[JobIssuedEvent]:
        """Return every job issued so far; those of one Mac are in their order."""

    def published_jobs(self) -> Sequence[JobIssuedEvent]:
        """Return every job that has reached a site's executors so far."""

    def dead_letters(self) -> Sequence[DeadLetter]:
        """Return every dead letter so far."""


@dataclass(frozen=True)
class ScenarioResult:
    """Decision of each Mac after each step, and the ids of all jobs.

    Gates and evidence are left out: they change while the decision stays the same.
    """

    steps: tuple[Mapping[str, str], ...]
    job_ids: Mapping[str, tuple[str, ...]]


def names() -> list[str]:
    """Return the names of all scenarios."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def read(name: str) -> dict[str, Any]:
    """Return the scenario of this name."""
    scenario: dict[str, Any] = YAML(typ="safe").load((FOLDER / f"{name}.yaml").read_text())
    return scenario


def play(scenario: Mapping[str, Any], shell: Shell) -> ScenarioResult:
    """Run a scenario on a shell; fail at the first result that is not the expected one."""
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
    """Assert the decisions, published jobs and dead letters that a step expects."""
    for udid, wanted in step.get("expect", {}).items():
        assert summary(decisions[udid]) == wanted, f"{udid} {where}"
    if "published" in step:
        jobs = {event.data.job.job_id: event.data.job.site for event in shell.published_jobs()}
        assert Counter(jobs.values()) == step["published"], where
    if "dead_letters" in step:
        letters = Counter(letter.code.value for letter in shell.dead_letters())
        assert letters == step["dead_letters"], where


def in_short(decision: Decision) -> str:
    """Return a decision as JSON without its gates and evidence."""
    return decision.model_dump_json(exclude={"gates", "evidence"})


def summary(decision: Decision) -> str:
    """Return `verdict reason action method`, without the last two if no action is needed."""
    words = (decision.decision, decision.reason, decision.action, decision.method)
    return " ".join(word.value for word in words if word is not None)


def parse_time(value: datetime | str) -> datetime:
    """Return a time of a scenario; YAML reads it as naive, it means UTC."""
    return factories.at(str(value).replace(" ", "T").removesuffix("+00:00").removesuffix("Z"))


def step_events(step: Mapping[str, Any], at: datetime, shell: Shell) -> Iterator[list[CloudEvent]]:
    """Yield the events of a step in groups: broadcast events first, then those of single Macs."""
    just = at - timedelta(minutes=1)
    facts = list(broadcast_events(step, at, shell))
    if facts:
        yield facts
    for udid in step.get("enrolled", ()):
        yield [*factories.enrolled(udid), factories.polled(udid, just)]
    # Kafka has no order between topics, so each group, of one topic each, is accepted alone.
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
    """Yield the results and reports of the jobs of these sites that are not in `carried` yet."""
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
    """Yield the broadcast events of a step.

    An advisory is a version, or a mapping from a version to arguments of its factory.
    """
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
    for each in step.get("resets", ()):
        code = ErrorCode(each["cause"]) if "cause" in each else None
        scope = {name: value for name, value in each.items() if name != "cause"}
        yield factories.attempts_reset(at, code, **scope)
    for name, key in (("approved", APPROVALS_KEY), ("approved_by_stranger", STRANGER_KEY)):
        for udid in step.get(name, ()):
            yield approved(asked_for(udid, shell), at, key)
    for udid in step.get("denied", ()):
        yield factories.denied(asked_for(udid, shell).job_id or "", udid, at)


def asked_for(udid: str, shell: Shell) -> Decision:
    """Return the last decision for a Mac."""
    return [one.decision for one in shell.records() if one.decision.udid == udid][-1]


def approved(decision: Decision, at: datetime, key: Ed25519PrivateKey) -> CloudEvent:
    """Return an approval of a decision's job, valid for two days."""
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
    """Return the events of a new enrollment."""
    return [*factories.enrolled(udid, at), factories.polled(udid, at)]


def full_report_of(fields: Mapping[str, Any], just: datetime) -> CloudEvent:
    """Return a full report of a Mac, with these fields replaced."""
    facts = dict(fields)
    when = parse_time(facts.pop("when")) if "when" in facts else just
    udid, version = facts.pop("udid"), facts.pop("os_version")
    return factories.full_report(version, udid, when, serial=f"C02{udid}", **facts)


def result(fields: Mapping[str, Any], just: datetime, shell: Shell) -> CloudEvent:
    """Return a result for the last job of a Mac."""
    job = [
        event.data.job for event in shell.issued_jobs() if event.data.job.udid == fields["udid"]
    ][-1]
    code = ErrorCode(fields["error_code"]) if "error_code" in fields else None
    return factories.resulted(job, Outcome(fields["outcome"]), just, code)
