"""The hold on a release for one model family, in the form of a halt that Drydock itself sets.

A Mac's Situation has it among its halts, so a decision's record has what is needed to compute the
decision again. It covers the jobs that install this release, and no later one.
"""

from schemas.events.control import DRYDOCK_ITSELF, HaltScope, HaltSet


def family_hold(advisory_id: str, *, family: str, failed: int) -> HaltSet:
    """Return the hold on a release that failed on this many Macs of the model family."""
    why = f"the update failed on {failed} Macs of the family {family}, and no Mac of it has it"
    return HaltSet(scope=HaltScope(advisory_id=advisory_id), by=DRYDOCK_ITSELF, why=why)


def is_family_hold(halt: HaltSet) -> bool:
    """Return True if a halt is the hold on a release for the Mac's model family."""
    return halt.by == DRYDOCK_ITSELF and halt.scope.advisory_id is not None
