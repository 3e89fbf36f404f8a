"""Needs and decisions, short enough for the rows of a table."""

from pipeline.decide.exposure import exposure
from pipeline.decide.needs.order import needs
from pipeline.decide.situation import Situation
from schemas.decisions import Decision, Reason
from schemas.jobs import Action


def needed(s: Situation) -> list[tuple[Action, Reason, str | None]]:
    """Return the action, reason and target version of each need, in order."""
    return [
        (need.action, need.reason, None if need.target is None else str(need.target.version))
        for need in needs(s, exposure(s))
    ]


def summary(decision: Decision) -> tuple[str, str, str | None]:
    """Return the verdict, reason and target version of a decision."""
    target = None if decision.target is None else str(decision.target.version)
    return decision.decision.value, decision.reason.value, target
