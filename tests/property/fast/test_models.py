"""A model that is built without validation has the values and the order that validation gives."""

from hypothesis import given

from pipeline.decide.decision import decide
from pipeline.decide.job import build_job
from pipeline.decide.situation import Situation
from pipeline.reconcile.reconciler import Reconciler
from schemas.decisions import DecisionRecord, Verdict
from schemas.fast.models import construct_unchecked
from schemas.jobs import Job
from schemas.model import WireModel
from tests.property.fast.any_values import RECORDS, jobs
from tests.strategies import situations


def is_as_checked(model: WireModel) -> bool:
    """Return True if pydantic accepts the same values and keeps them in the same order."""
    values = model.__dict__
    checked = type(model)(**values)
    return checked == model and list(checked.__dict__) == list(values)


@given(situations())
def test_what_is_built_unchecked_is_valid(s: Situation) -> None:
    decision = decide(s)
    assert is_as_checked(decision)
    record = Reconciler().record_of(decision, s)
    assert is_as_checked(record)
    assert is_as_checked(record.inputs)
    if decision.decision is Verdict.SEND:
        job = build_job(s, decision)
        assert is_as_checked(job)
        assert job.model_copy(update={"generation": 1}).model_fields_set == set(Job.model_fields)


@given(RECORDS, jobs())
def test_unchecked_model_equals_the_validated_one(record: DecisionRecord, job: Job) -> None:
    for model in (record.decision, record.inputs, job):
        values = dict(model.__dict__)
        unchecked = construct_unchecked(type(model), values)
        assert unchecked == type(model)(**values) == model
        assert unchecked.model_dump_json() == model.model_dump_json()
        assert unchecked.model_fields_set == set(type(model).model_fields)
        changed = unchecked.model_copy(update={"other": 1})
        assert changed.model_fields_set - unchecked.model_fields_set == {"other"}
        assert construct_unchecked(type(model), values).model_fields_set == set(values)
