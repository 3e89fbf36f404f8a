"""Scenarios as data, and what a shell must offer to run one: the same answers from each.

A scenario (tests/scenarios/*.yaml) is a policy and steps in time: what was heard at each, and what
every Mac's answer is then, as `verdict reason action method`.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

from ruamel.yaml import YAML

from schemas.decisions import Decision, DecisionRecord
from schemas.envelope import CloudEvent, JobIssuedEvent
from schemas.results import ErrorCode, Outcome
from tests import factories

FOLDER = Path(__file__).parent / "scenarios"


class Shell(Protocol):
    """The core with something durable around it."""

    def begin(self, at: datetime) -> None:
        """It is this time from now on."""

    def hear(self, events: Sequence[CloudEvent]) -> None:
        """Take these, with all that follows from them."""

    def settle(self) -> None:
        """Do what is due now."""

    def records(self) -> Sequence[DecisionRecord]:
        """Every decision so far, each Mac's in its order."""

    def orders(self) -> Sequence[JobIssuedEvent]:
        """Every job ordered so far, each Mac's in its order."""


@dataclass(frozen=True)
class Answers:
    """What came of a scenario: each Mac's answer after each step, and all orders' ids."""

    steps: tuple[Mapping[str, Decision], ...]
    orders: Mapping[str, tuple[str, ...]]


def names() -> list[str]:
    """Every scenario."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def read(name: str) -> dict[str, Any]:
    """A scenario."""
    scenario: dict[str, Any] = YAML(typ="safe").load((FOLDER / f"{name}.yaml").read_text())
    return scenario


def play(scenario: Mapping[str, Any], shell: Shell) -> Answers:
    """Run a scenario; fails where an answer is not the expected one."""
    found = []
    for number, step in enumerate(scenario["steps"]):
        at = moment(step["at"])
        shell.begin(at)
        if number == 0:
            shell.hear([factories.policy_changed(scenario["policy"], at)])
        for events in heard(step, at, shell):
            shell.hear(events)
        shell.settle()
        answers = {record.decision.udid: record.decision for record in shell.records()}
        for udid, wanted in step.get("expect", {}).items():
            assert told(answers[udid]) == wanted, f"{udid} at {at:%H:%M}"
        found.append(answers)
    orders: dict[str, tuple[str, ...]] = {}
    for event in shell.orders():
        job = event.data.job
        if job.job_id not in orders.get(job.udid, ()):
            orders[job.udid] = (*orders.get(job.udid, ()), job.job_id)
    assert Counter({udid: len(ids) for udid, ids in orders.items()}) == scenario["orders"]
    return Answers(tuple(found), orders)


def told(decision: Decision) -> str:
    """An answer in four words, two where nothing is wanted."""
    words = (decision.decision, decision.reason, decision.action, decision.method)
    return " ".join(word.value for word in words if word is not None)


def moment(value: datetime | str) -> datetime:
    """A time of a scenario: YAML's, which is naive, is UTC."""
    return factories.at(str(value).replace(" ", "T").removesuffix("+00:00").removesuffix("Z"))


def heard(step: Mapping[str, Any], at: datetime, shell: Shell) -> Iterator[list[CloudEvent]]:
    """What a step brings: facts for all Macs first, then what is about one."""
    just = at - timedelta(minutes=1)
    facts: list[CloudEvent] = [
        factories.release(version, heard_at=at) for version in step.get("advisories", ())
    ]
    facts += [factories.halted(at, **scope) for scope in step.get("halts", ())]
    facts += [factories.halt_cleared(at, **scope) for scope in step.get("clears", ())]
    if facts:
        yield facts
    for udid in step.get("enrolled", ()):
        yield [*factories.enrolled(udid), factories.polled(udid, just)]
    about: list[CloudEvent] = [report(said, just) for said in step.get("reports", ())]
    about += [report(said, just) for said in step.get("late", ())]
    about += [factories.checked_out(udid, just) for udid in step.get("checked_out", ())]
    about += [result(said, just, shell) for said in step.get("results", ())]
    if about:
        yield about


def report(said: Mapping[str, Any], just: datetime) -> CloudEvent:
    """A full report of a Mac, but for what is said."""
    facts = dict(said)
    when = moment(facts.pop("when")) if "when" in facts else just
    udid, version = facts.pop("udid"), facts.pop("os_version")
    return factories.full_report(version, udid, when, serial=f"C02{udid}", **facts)


def result(said: Mapping[str, Any], just: datetime, shell: Shell) -> CloudEvent:
    """What an executor says of the last order for a Mac."""
    job = [event.data.job for event in shell.orders() if event.data.job.udid == said["udid"]][-1]
    code = ErrorCode(said["error_code"]) if "error_code" in said else None
    return factories.resulted(job, Outcome(said["outcome"]), just, code)
