"""Parts of an observation of a Mac from commands, declarations and facts. Pure."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from agents.mac import InstallState, Obstacle, Progress
from agents.mdm.declarations import set_name
from agents.mdm.delivery import Delivery, SentCommand, State
from agents.mdm.facts import MacFacts, Name
from agents.mdm.server import ServerView, StatusReport
from schemas.results import ErrorCode

Deliveries = Sequence[tuple[SentCommand, Delivery]]
"""The commands of one order with their states, the first one first."""

_STATES: Final = {state.value: state for state in InstallState}


def delivered(
    order: str, sent: Deliveries, view: ServerView
) -> tuple[frozenset[str], frozenset[str], frozenset[str], Obstacle | None]:
    """Return the marked, the pending and the lost orders, and the reason of the last two."""
    nothing: frozenset[str] = frozenset()
    this = frozenset({order})
    listed = {} if view.report is None else view.report.declarations or {}
    if any(state.has_answer for _, state in sent) or f"{set_name(order)}-os" in listed:
        return this, nothing, nothing, None
    if not sent:
        return nothing, nothing, nothing, None
    state = sent[-1][1]
    reason = Obstacle(state.error_code or ErrorCode.NOT_DELIVERED, state.detail)
    if state.state is State.UNCONFIRMED:
        return nothing, nothing, nothing, None
    if state.is_open:
        return nothing, this, nothing, reason
    return nothing, nothing, this, reason


def progress(
    name: str,
    sent: Deliveries,
    view: ServerView,
    facts: MacFacts,
    recent: datetime,
) -> Progress:
    """Return the progress of the installation; `name` is the name of the order's declarations."""
    for _, state in sent:
        if state.state is State.FAILED:
            return Progress(InstallState.FAILED, None, state.error_code, state.at, state.detail)
    if view.report is not None:
        rejected = (view.report.declarations or {}).get(f"{name}-os")
        if rejected is not None and rejected.valid == "invalid":
            code, at = ErrorCode.DECLARATION_INVALID, view.report.at
            return Progress(InstallState.FAILED, None, code, at, rejected.reasons)
    return _installation(name, view.report, facts, recent)


def _installation(
    name: str, report: StatusReport | None, facts: MacFacts, recent: datetime
) -> Progress:
    """Return the newest state that the Mac reported; NONE if it is old or not known.

    A failure of another program's declaration is not one of ours.
    """
    at = facts.at(Name.INSTALL_STATE)
    found, reason = facts.text(Name.INSTALL_STATE), facts.text(Name.FAILURE_REASON)
    failed_text, cause = facts.text(Name.FAILURE_AT), facts.text(Name.DECLARATION_ID)
    failed_at = None if failed_text is None else datetime.fromisoformat(failed_text)
    if report is not None and report.status.install_state and (at is None or report.at > at):
        at, found, reason = report.at, report.status.install_state, report.status.failure_reason
        failed_at = report.status.failure_at
        cause = report.status.declaration_id or cause
    if at is None or at <= recent or found is None:
        return Progress()
    # Apple may add states; one that is not known here shows no activity.
    state = _STATES.get(found, InstallState.WAITING)
    if state is not InstallState.FAILED:
        return Progress(state, since=at)
    if cause is not None and not cause.startswith(f"{name}-"):
        return Progress(since=at)
    return Progress(state, None, ErrorCode.INSTALL_FAILED, failed_at or at, reason or "")
