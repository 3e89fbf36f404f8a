"""The checker finds each planted fault: a check that cannot fail checks nothing."""

import ast
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from agents.simulated.wire import Acted
from schemas.attempts import AttemptRecord, RecordedResult
from schemas.dead_letters import DeadLetter, DeadLetterCode
from schemas.decisions import Decision, DecisionInputs, DecisionRecord, Reason, Verdict
from schemas.envelope import JobIssuedEvent, encode
from schemas.ids import event_id
from schemas.jobs import Job
from schemas.results import ErrorCode, Outcome
from schemas.topics import (
    ADVISORIES,
    CHECKINS,
    CONTROL,
    DEAD_LETTERS,
    DECISIONS,
    DISPATCH,
    DISPATCH_STATE,
    INVENTORY,
    ORDERS,
    RESULTS,
    STATE,
    attempts_topic,
    jobs_topic,
)
from tests import factories
from tests.chaos.checker import Findings, Kind, judge
from tests.chaos.evidence import Evidence, Input, MacState, PartitionId, Record
from tests.chaos.witness import microseconds
from tests.factories import HOUR, NOW
from tests.factories.sites import KEYS, STRANGER_KEY, signed_job

UDID, IDLE = "MAC-1", "MAC-2"
JOBS, ATTEMPTS = jobs_topic("london"), attempts_topic("london")
BEFORE, AFTER = NOW - 3 * HOUR, NOW
Messages = Mapping[str, Sequence[tuple[str, bytes]]]
Change = Callable[[Evidence], Evidence]

JOB = factories.job(udid=UDID)
SECOND = factories.job(udid=UDID, generation=1)
OLD = factories.reported(UDID, BEFORE, os_version="26.1")
NEW = factories.reported(UDID, AFTER, os_version="26.2")
CONTACT = factories.checked_out(IDLE, NOW)
RELEASE = factories.release("26.2")
POLICY = factories.policy_changed()
STEPS = (Outcome.ACCEPTED, Outcome.STARTED, Outcome.ACTED)
CLOSED = factories.resulted(JOB, Outcome.SUCCEEDED, AFTER, attempt=0)


def order(job: Job, **key: Any) -> bytes:
    return encode(
        JobIssuedEvent(
            id=event_id("issued", job.job_id),
            source="/test",
            subject=job.udid,
            time=job.issued_at,
            data=signed_job(job, **key),
        )
    )


def decided(job: Job) -> bytes:
    decision = Decision(
        udid=job.udid, decision=Verdict.SEND, reason=Reason.SECURITY_UPDATE, job_id=job.job_id
    )
    inputs = DecisionInputs(now=NOW, device={}, catalog_digest="")
    return DecisionRecord(decision=decision, inputs=inputs).model_dump_json().encode()


def letter(origin: str, digest: str = "0" * 64) -> bytes:
    dead_letter = DeadLetter(
        code=DeadLetterCode.NOT_JSON,
        detail="",
        source="/test",
        origin=origin,
        raw_sha256=digest,
        raw_size=1,
    )
    return dead_letter.model_dump_json().encode()


def attempt(job: Job, *, published: bool = True) -> bytes:
    result = factories.result(job, Outcome.ACTED)
    record = AttemptRecord(
        job_id=job.job_id,
        udid=job.udid,
        expires_at=job.expires_at,
        live=False,
        results=(RecordedResult(at=NOW, published=published, result=result),),
    )
    return record.model_dump_json().encode()


def entry(job: Job, outcome: Outcome | None) -> dict[str, Any]:
    return {
        "job_id": job.job_id,
        "action": job.action,
        "version": "26.2",
        "issued_us": microseconds(job.issued_at),
        "outcome": outcome,
        "presumed": False,
    }


def row(
    version: str = "26.2",
    when: datetime = AFTER,
    epoch: int = 2,
    jobs: Sequence[dict[str, Any]] = (entry(JOB, Outcome.SUCCEEDED),),
) -> bytes:
    us = microseconds(when)
    device = {
        "facts": {"os_version": [us, version]},
        "seen": {"osquery": us},
        "checkins": [0, 0, 0],
    }
    return json.dumps({"e": epoch, "device": device, "jobs": jobs}).encode()


def idle_row() -> bytes:
    us = microseconds(NOW)
    device = {"facts": {}, "seen": {"mdm": us}, "checkins": [0, 0, us]}
    return json.dumps({"e": 2, "device": device, "jobs": []}).encode()


def epoch_row(broadcast_offset: int = 1) -> bytes:
    return json.dumps(
        {"e": 2, "broadcast": {ADVISORIES.name: broadcast_offset, CONTROL.name: 1}}
    ).encode()


def queued_job(stage: str = "finished") -> bytes:
    return json.dumps({"e": 1, "stage": stage}).encode()


SOUND: Messages = {
    INVENTORY.name: [(UDID, encode(OLD)), (UDID, encode(NEW)), (UDID, encode(OLD)), ("?", b"?")],
    CHECKINS.name: [(IDLE, encode(CONTACT))],
    ORDERS.name: [(UDID, order(JOB)), ("?", order(SECOND, key=STRANGER_KEY))],
    DISPATCH.name: [("london", order(JOB)), ("london", encode(CLOSED))],
    RESULTS.name: [
        *((UDID, encode(factories.resulted(JOB, step, NOW))) for step in STEPS),
        (UDID, encode(CLOSED)),
    ],
    DECISIONS.name: [(UDID, decided(JOB))],
    DEAD_LETTERS.name: [
        ("0", letter(f"{INVENTORY.name}/0/3")),
        ("0", letter(f"{ORDERS.name}/0/1")),
        ("0", letter("webhook/nanomdm", "f" * 64)),
    ],
    ADVISORIES.name: [("macOS-26.2", encode(RELEASE))],
    CONTROL.name: [("policy", encode(POLICY))],
    STATE.name: [(UDID, row()), (IDLE, idle_row()), (" epoch", epoch_row())],
    DISPATCH_STATE.name: [(JOB.job_id, queued_job())],
    JOBS: [(UDID, order(JOB))],
    ATTEMPTS: [(JOB.job_id, attempt(JOB))],
}


def acted(job: Job) -> Acted:
    return Acted(at=NOW, udid=job.udid, job_id=job.job_id, attempt=1, step="declare")


def evidence(messages: Messages = SOUND) -> Evidence:
    """Return the evidence of a sound run: one Mac updated, one checked out, three bad inputs."""
    records: dict[str, Sequence[Record]] = {
        topic: [
            Record(topic, 0, offset, key.encode(), value)
            for offset, (key, value) in enumerate(some)
        ]
        for topic, some in messages.items()
    }
    return Evidence(
        inputs=[
            *(Input("event", event.id) for event in (OLD, NEW, RELEASE)),
            Input("webhook", f"{IDLE} mdm.CheckOut {NOW.isoformat()}"),
            Input("poison", "f" * 64),
            Input("record", f"{INVENTORY.name}/0/3"),
        ],
        records=records,
        committed={PartitionId(topic, 0): len(some) for topic, some in records.items()},
        acted=[acted(JOB)],
        macs=[MacState(UDID, "26.2", enrolled=True), MacState(IDLE, "26.1", enrolled=False)],
        journals={JOB.job_id: True},
        trusted=KEYS.jobs,
        newest={"26": "26.2"},
    )


def other(topic: str, *messages: tuple[str, bytes]) -> Change:
    """Replace the messages of a topic."""
    return lambda _: evidence({**SOUND, topic: messages})


def more(topic: str, *messages: tuple[str, bytes]) -> Change:
    """Append messages to a topic."""
    return other(topic, *SOUND[topic], *messages)


def less(topic: str, number: int) -> Change:
    """Remove one message of a topic, by its position."""
    kept = [message for at, message in enumerate(SOUND[topic]) if at != number]
    return other(topic, *kept)


def changed(**values: Any) -> Change:
    """Replace fields of the evidence."""
    return lambda sound: replace(sound, **values)


def kept(udid_row: bytes) -> Change:
    """Replace the kept state of the Mac."""
    return other(STATE.name, (UDID, udid_row), *SOUND[STATE.name][1:])


def both(*changes: Change) -> Change:
    """Apply changes in order; changes of topics must come first, they build new evidence."""

    def change(sound: Evidence) -> Evidence:
        for one in changes:
            sound = one(sound)
        return sound

    return change


FAILED = factories.resulted(JOB, Outcome.FAILED, NOW, ErrorCode.INSTALL_FAILED)
TWO_ORDERS = both(
    lambda _: evidence(
        {
            **SOUND,
            ORDERS.name: [*SOUND[ORDERS.name], (UDID, order(SECOND))],
            ATTEMPTS: [*SOUND[ATTEMPTS], (SECOND.job_id, attempt(SECOND))],
            RESULTS.name: [
                *((UDID, encode(factories.resulted(JOB, step, NOW))) for step in STEPS),
                (UDID, encode(FAILED)),
                (UDID, encode(factories.resulted(SECOND, Outcome.ACTED, NOW))),
            ],
            STATE.name: [
                (
                    UDID,
                    row(jobs=[entry(JOB, Outcome.FAILED), entry(SECOND, Outcome.SUCCEEDED)]),
                ),
                *SOUND[STATE.name][1:],
            ],
        }
    ),
    changed(journals={JOB.job_id: True, SECOND.job_id: True}, acted=[acted(JOB), acted(SECOND)]),
)


def test_sound_run_has_no_faults() -> None:
    assert judge(evidence()) == Findings(
        events_in=6,
        folded=4,
        dead_lettered=2,
        intents=1,
        jobs=1,
        once=1,
        untouched={},
        closed=1,
        faults=(),
    )


@pytest.mark.parametrize(
    "change",
    [
        more(INVENTORY.name, (UDID, encode(NEW))),
        more(RESULTS.name, (UDID, encode(CLOSED)), (UDID, encode(FAILED))),
        more(ATTEMPTS, (JOB.job_id, attempt(JOB))),
        more(STATE.name, (UDID, row("26.1", BEFORE, epoch=1))),
        both(
            lambda _: evidence({**SOUND, RESULTS.name: [(UDID, encode(CLOSED))], ATTEMPTS: []}),
            changed(acted=[], journals={}),
        ),
        both(
            changed(acted=[], journals={}, macs=[]),
            lambda sound: replace(
                sound,
                records={
                    **sound.records,
                    ORDERS.name: [
                        *sound.records[ORDERS.name],
                        Record(ORDERS.name, 0, 2, None, encode(factories.superseded(JOB))),
                    ],
                },
                committed={**sound.committed, PartitionId(ORDERS.name, 0): 3},
            ),
        ),
        both(TWO_ORDERS, lambda sound: replace(sound, may_repeat={UDID: 1})),
    ],
    ids=[
        "report again",
        "results again",
        "journal again",
        "void row of a former owner",
        "Mac showed the target before an executor began",
        "job withdrawn before its Mac was touched",
        "Mac failed the first order itself",
    ],
)
def test_permitted_repeat_or_early_end_is_no_fault(change: Change) -> None:
    assert judge(change(evidence())).faults == ()


@pytest.mark.parametrize(
    ("change", "kind", "what"),
    [
        (less(INVENTORY.name, 1), Kind.MISSING, "event"),
        (less(CHECKINS.name, 0), Kind.MISSING, "webhook"),
        (less(ADVISORIES.name, 0), Kind.MISSING, "event"),
        (less(DEAD_LETTERS.name, 2), Kind.MISSING, "poison"),
        (less(DEAD_LETTERS.name, 0), Kind.MISSING, "cannot be used and has no dead letter"),
        (less(DEAD_LETTERS.name, 1), Kind.MISSING, f"{ORDERS.name}/0/1 cannot be used"),
        (changed(committed={}), Kind.MISSING, "not processed"),
        (less(STATE.name, 0), Kind.MISSING, "has no kept state"),
        (kept(row("26.1", BEFORE)), Kind.MISSING, "os_version is of"),
        (kept(row("26.1")), Kind.MISSING, "os_version is '26.1'"),
        (more(STATE.name, (" epoch", epoch_row(0))), Kind.MISSING, "applied"),
        (less(ORDERS.name, 0), Kind.MISSING, "decided and never issued"),
        (kept(row(jobs=())), Kind.MISSING, "not in the job history"),
        (changed(acted=[]), Kind.MISSING, "neither carried out nor ended"),
        (less(ATTEMPTS, 0), Kind.MISSING, "not in the journal"),
        (changed(journals={JOB.job_id: False}), Kind.MISSING, "in no executor's file"),
        (
            other(RESULTS.name, (UDID, encode(CLOSED))),
            Kind.MISSING,
            "no result shows that it began",
        ),
        (other(ATTEMPTS, (JOB.job_id, attempt(JOB, published=False))), Kind.MISSING, "published"),
        (kept(row(jobs=[entry(JOB, Outcome.STARTED)])), Kind.MISSING, "in spite of"),
        (kept(row(jobs=[entry(JOB, None)])), Kind.MISSING, "showed it done"),
        (changed(macs=[MacState(UDID, "26.1", enrolled=True)]), Kind.MISSING, "still on 26.1"),
        (changed(acted=[acted(JOB), acted(JOB)]), Kind.DOUBLED, "carried out 2 times"),
        (TWO_ORDERS, Kind.DOUBLED, "by 2 jobs"),
        (
            kept(row(jobs=[entry(JOB, Outcome.STARTED), entry(SECOND, None)])),
            Kind.DOUBLED,
            "2 jobs are open",
        ),
        (changed(acted=[acted(JOB), acted(SECOND)]), Kind.UNTRUE, "never issued"),
        (less(INVENTORY.name, 1), Kind.UNTRUE, "succeeded without a report"),
        (
            other(DISPATCH_STATE.name, (JOB.job_id, queued_job("dispatched"))),
            Kind.UNTRUE,
            "its slot is not free",
        ),
    ],
)
def test_planted_fault_is_found(change: Change, kind: Kind, what: str) -> None:
    faults = judge(change(evidence())).faults
    assert [fault for fault in faults if fault.kind is kind and what in fault.what], faults


def test_checker_imports_nothing_of_the_product() -> None:
    folder = Path(__file__).parent
    for name in ("checker", "reading", "witness", "evidence"):
        for node in ast.walk(ast.parse((folder / f"{name}.py").read_text())):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [module for module in modules if module.startswith("pipeline")], name
