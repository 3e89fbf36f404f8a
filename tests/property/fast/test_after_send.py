"""After a send, the gates that are not evaluated again would give the same results."""

from dataclasses import replace

from hypothesis import event, given, settings

from pipeline.decide.decision import evaluate
from pipeline.decide.fast.after_send import reevaluate_after_send
from pipeline.decide.job import build_job
from pipeline.decide.situation import Situation
from pipeline.state.jobs import add_job
from schemas.decisions import Verdict
from tests.strategies import situations


@settings(max_examples=4 * settings().max_examples)
@given(situations())
def test_reevaluation_after_a_send_equals_a_full_evaluation(s: Situation) -> None:
    sent = evaluate(s)
    event(sent.decision.decision.value)
    if sent.decision.decision is not Verdict.SEND:
        return
    after = replace(s, job_history=add_job(s.job_history, build_job(s, sent.decision)))
    if after.job_history[:-1] == s.job_history:
        assert reevaluate_after_send(after, sent) == evaluate(after, fast_paths=False)
