"""Strategies of any decision record and any job: any text, any time, any value."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import strategies as st

from pipeline.payload_signing import sign_job
from schemas.decisions import (
    Decision,
    DecisionInputs,
    DecisionRecord,
    Gate,
    Reason,
    Severity,
    Verdict,
)
from schemas.envelope import JobIssuedEvent
from schemas.ids import derive_job_id
from schemas.jobs import Action, Job, Method, Target
from schemas.signing import Signed
from tests import factories as make
from tests.strategies import versions

KEY = Ed25519PrivateKey.generate()
# Times that both serializers write alike: years of four digits, zones of whole minutes.
TIMES = st.datetimes(
    datetime(1990, 1, 1),  # noqa: DTZ001 - the zone is given beside
    datetime(2900, 1, 1),  # noqa: DTZ001
    timezones=st.sampled_from([UTC])
    | st.builds(lambda m: timezone(timedelta(minutes=m)), st.integers(-23 * 60, 23 * 60)),
)
MAYBE_TIMES = st.none() | TIMES
# All characters but surrogates, which no JSON that we read has.
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
PLAIN = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\u2028\u2029"), max_size=20
)
TEXTS = st.lists(PLAIN, max_size=3).map(tuple)
TARGETS = st.none() | st.builds(
    lambda found, has_build: Target(version=found[0], build=found[1] if has_build else None),
    versions(),
    st.booleans(),
)
# The JSON values of a state: numbers are never infinite (`schemas.events.inventory`).
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 63) - 1)
    | st.floats(0, 1e6)
    | ANY_TEXT
    | st.sampled_from([*Action, *Reason]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3),
    max_leaves=12,
)
GATES = st.builds(Gate, gate=PLAIN, passed=st.booleans(), detail=PLAIN, until=MAYBE_TIMES)
DECISIONS = st.builds(
    Decision,
    udid=PLAIN,
    serial=st.none() | PLAIN,
    site=st.none() | PLAIN,
    decision=st.sampled_from(Verdict),
    action=st.none() | st.sampled_from(Action),
    method=st.none() | st.sampled_from(Method),
    target=TARGETS,
    reason=st.sampled_from(Reason),
    gates=st.lists(GATES, max_size=3).map(tuple),
    advisory_ids=TEXTS,
    cves=TEXTS,
    exploited_cves=TEXTS,
    deadline_at=MAYBE_TIMES,
    next_eligible_at=MAYBE_TIMES,
    severity=st.none() | st.sampled_from(Severity),
    erases=st.booleans(),
    job_id=st.none() | PLAIN,
    intent=st.none() | PLAIN,
    generation=st.none() | st.integers(0, 1 << 40),
    supersedes=st.none() | PLAIN,
    evidence=TEXTS,
    findings=TEXTS,
)
INPUTS = st.builds(
    DecisionInputs,
    now=TIMES,
    device=VALUES,
    job_history=VALUES,
    policy_digest=st.none() | PLAIN,
    catalog_digest=PLAIN,
    halts=st.lists(ANY_TEXT, max_size=2).map(tuple),
    approvals=st.lists(VALUES, max_size=2).map(tuple),
    site_open_jobs=st.integers(0, 10_000),
    site_macs=st.integers(0, 10_000),
    site_hour_jobs=st.lists(st.tuples(PLAIN, st.integers(0, 99)), max_size=2).map(tuple),
)


RECORDS = st.builds(DecisionRecord, decision=DECISIONS, inputs=INPUTS)


@st.composite
def jobs(draw: st.DrawFn) -> Job:
    """Draw any job."""
    udid, issued_at = draw(st.sampled_from(["MAC-1", "5A0C7D9E-0000"])), draw(TIMES)
    action, intent, generation = draw(st.sampled_from(Action)), draw(PLAIN), draw(st.integers(0, 9))
    return Job(
        job_id=derive_job_id(udid, action, intent, generation),
        udid=udid,
        serial=draw(st.none() | st.just("C02TEST0001")),
        site="london",
        action=action,
        method=draw(st.sampled_from(Method)),
        intent=intent,
        target=draw(TARGETS),
        generation=generation,
        reason=draw(PLAIN),
        advisory_ids=draw(TEXTS),
        issued_at=issued_at,
        known_until=draw(MAYBE_TIMES),
        expires_at=issued_at + draw(st.timedeltas(timedelta(microseconds=1), timedelta(days=9))),
        report_by=draw(MAYBE_TIMES),
        deadline_at=draw(MAYBE_TIMES),
        enforce_at=draw(MAYBE_TIMES),
        erases=draw(st.booleans()),
        approval=draw(st.none() | st.just(make.SIGNED)),
    )


def event_of(job: Job, time: datetime, signed: Signed | None, **more: Any) -> JobIssuedEvent:
    """Return the event that publishes the job."""
    data = sign_job(job, KEY)
    if signed is not None:
        data = data.model_copy(update={"signed": signed})
    return JobIssuedEvent(
        id="issued-1", source="/test", subject=job.udid, time=time, data=data, **more
    )
