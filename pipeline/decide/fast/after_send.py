"""The evaluation after a job was sent, from the one that sent it: one gate of each need, not all.

Each job leads to two evaluations: the one that sends it, and one when the job is open. The second
holds the Mac for its job, and all its other gates give the same results.
"""

from pipeline.decide.candidate import Candidate
from pipeline.decide.decision import (
    Evaluation,
    GatedNeed,
    evaluation_of_hold,
    hold,
    next_eligible_at,
    withdrawn_by_hold,
)
from pipeline.decide.earlier_system import with_present_system
from pipeline.decide.gates import GateResult, check_job_open, to_gate
from pipeline.decide.situation import Situation
from schemas.decisions import Decision, Gate, Reason, Verdict
from schemas.fast.models import construct_unchecked


def reevaluate_after_send(s: Situation, sent: Evaluation) -> Evaluation:
    """Return the Evaluation that `evaluate` gives, from `sent`, which has just sent a job.

    The caller ensures that the Situation differs from that of `sent` only in that its job is now
    open and the newest of the job history. Then only the gate `job_open` can change.
    """
    s = with_present_system(s)
    held = [
        GatedNeed.of_results(one.candidate, _with_job_gate(s, one.candidate, one.gates))
        for one in sent.gated_needs
    ]
    for_it = next(at for at, one in enumerate(held, 1) if one.is_stopped_by(Reason.JOB_OPEN))
    held = held[:for_it]
    return evaluation_of_hold(s, held, _hold_after_send(s, held, sent.decision))


def _with_job_gate(
    s: Situation, c: Candidate, results: tuple[GateResult, ...]
) -> tuple[GateResult, ...]:
    """Return `results` with the gate `job_open` evaluated again in this Situation."""
    job_gate = check_job_open(s, c)
    return tuple([job_gate if result.gate == job_gate.gate else result for result in results])


def _hold_after_send(s: Situation, held: list[GatedNeed], sent: Decision) -> Decision:
    """Return `hold(s, held)`; most of its values are those of `sent`, if that sent this job.

    The gate `job_open` holds the last need.
    """
    shown = held[-1]
    if sent.job_id != shown.candidate.job_id:
        return hold(s, held, fast_paths=True)
    closed = shown.closed[0]
    changed_fields = {
        "decision": Verdict.HOLD,
        "reason": closed.reason,
        "gates": _replace_gate(to_gate(closed), sent.gates),
        "next_eligible_at": next_eligible_at(s, *(one.opens_at for one in held)),
        "supersedes": withdrawn_by_hold(s, held),
    }
    return construct_unchecked(Decision, sent.__dict__ | changed_fields)


def _replace_gate(gate: Gate, gates: tuple[Gate, ...]) -> tuple[Gate, ...]:
    return tuple([gate if one.gate == gate.gate else one for one in gates])
