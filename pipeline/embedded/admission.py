"""Which well-formed events this process believes: by its own key ring. Pure."""

from agents.keys import KeyRing
from pipeline.decide import admission
from schemas.envelope import Event


def objection(event: Event, trust: KeyRing) -> str | None:
    """What is wrong with an event that no schema sees; None if it may be folded."""
    return admission.objection(event, jobs=trust.jobs, approvals=trust.approvals)
