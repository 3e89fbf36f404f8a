"""JSON written without pydantic's serializer has the same bytes as pydantic's."""

from datetime import datetime

from hypothesis import given
from hypothesis import strategies as st

from pipeline.decide.decision import decide
from pipeline.decide.job import build_job
from pipeline.decide.situation import Situation
from pipeline.reconcile.reconciler import Reconciler
from schemas.decisions import DecisionRecord, Verdict
from schemas.envelope import decode
from schemas.fast.json_bytes import issued_json, job_json, record_json
from schemas.jobs import Job
from schemas.signed_payloads import verify_job
from schemas.signing import Signed, key_id
from tests import factories as make
from tests.property.fast.any_values import ANY_TEXT, KEY, RECORDS, TIMES, event_of, jobs
from tests.strategies import situations


@given(RECORDS)
def test_a_record_is_written_as_pydantic_writes_it(record: DecisionRecord) -> None:
    assert record_json(record) == record.model_dump_json().encode()


@given(situations())
def test_record_and_job_of_any_situation_are_written_as_pydantic_writes_them(s: Situation) -> None:
    decision = decide(s)
    record = Reconciler().record_of(decision, s)
    assert record_json(record) == record.model_dump_json().encode()
    read = DecisionRecord.model_validate_json(record_json(record))
    assert record_json(read) == record_json(record)
    if decision.decision is Verdict.SEND:
        event = event_of(build_job(s, decision), s.now, None)
        assert issued_json(event) == event.model_dump_json(exclude_none=True).encode()


@given(jobs(), TIMES, st.none() | st.just(make.SIGNED), ANY_TEXT)
def test_a_job_is_written_and_signed_as_pydantic_writes_it(
    job: Job, time: datetime, signed: Signed | None, media_type: str
) -> None:
    event = event_of(job, time, signed, rawmediatype=media_type or None)
    assert issued_json(event) == event.model_dump_json(exclude_none=True).encode()
    assert decode(issued_json(event)) == event
    assert job_json(job) == job.model_dump_json(exclude_none=True).encode()
    if signed is None:
        assert verify_job(event.data.signed, {key_id(KEY.public_key()): KEY.public_key()}) == job
