"""Decisions computed again from their records."""

from pipeline.decide.decision import decide
from pipeline.decide.situation import Situation
from pipeline.policy.model import Policy
from pipeline.state.advisories import Advisories
from pipeline.state.device import Device
from pipeline.state.identity import Identity
from pipeline.state.jobs import JobEntry
from schemas.decisions import Decision, DecisionRecord
from schemas.events.control import ApprovalGranted, HaltSet


def recompute(
    record: DecisionRecord, policy: Policy, advisories: Advisories, *, fast_paths: bool = True
) -> Decision:
    """Return the decision that a record's inputs give with this policy and catalogue.

    The caller chooses both: those that the record's digests name give the recorded decision again.
    Raises ValueError, KeyError, TypeError or another exception for inputs that no version of
    Drydock wrote.
    """
    return decide(situation_of(record, policy, advisories), fast_paths=fast_paths)


def situation_of(record: DecisionRecord, policy: Policy, advisories: Advisories) -> Situation:
    """Return the situation in a record's inputs, with this policy and catalogue.

    Raises the errors of `recompute`.
    """
    inputs = record.inputs
    return Situation(
        Device.from_wire(inputs.device),
        advisories,
        policy,
        inputs.now,
        tuple(JobEntry.from_wire(entry) for entry in inputs.job_history or ()),
        tuple(HaltSet.model_validate_json(halt) for halt in inputs.halts),
        tuple(ApprovalGranted.model_validate(grant) for grant in inputs.approvals),
        inputs.site_open_jobs,
        identity=Identity.from_wire(inputs.identity),
        site_macs=inputs.site_macs,
        site_hour_jobs=inputs.site_hour_jobs,
    )
