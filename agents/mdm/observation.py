"""Parts of an observation of a Mac from commands, declarations and facts. Pure."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from agents.mac import InstallState, Obstacle, Progress
from agents.mdm.commands import RequestType
from agents.mdm.declarations import set_name
from agents.mdm.delivery import Delivery, SentCommand, State
from agents.mdm.facts import MacFacts, Name
from agents.mdm.server import ServerView, StatusReport
from schemas.ddm_failures import failure_code
from schemas.results import ErrorCode

Deliveries = Sequence[tuple[SentCommand, Delivery]]
"""The commands of one order with their states, the first one first."""

# A Mac reports its declarations within seconds.
LISTED_WITHIN: Final = timedelta(minutes=10)
REPORT_STEP: Final = timedelta(seconds=1)
_NOT_LISTED: Final = "the Mac fetched its declarations, and the order's were not among them"
_NOT_LISTED_YET: Final = "the Mac has not listed the order's declarations yet"
_STATES: Final = {state.value: state for state in InstallState}


def delivered(
    order: str, sent: Deliveries, view: ServerView, now: datetime
) -> tuple[frozenset[str], frozenset[str], frozenset[str], Obstacle | None]:
    """Return the marked, the pending and the lost orders, and the reason of the last two.

    A Mac that acknowledges DeclarativeManagement fetches its declarations and lists them in a
    report. The order is pending until then, for at most LISTED_WITHIN, and lost if the list lacks
    it: KMFDDM's default storage can leave out sets while others are changed.
    """
    nothing: frozenset[str] = frozenset()
    this = frozenset({order})
    listed = {} if view.report is None else view.report.declarations or {}
    if f"{set_name(order)}-os" in listed:
        return this, nothing, nothing, None
    if not sent:
        return nothing, nothing, nothing, None
    command, state = sent[-1]
    if command.request_type is RequestType.DECLARATIVE_MANAGEMENT and state.state is State.DONE:
        if _lists_declarations(view.report, state.at):
            return nothing, nothing, this, Obstacle(ErrorCode.COMMAND_LOST, _NOT_LISTED)
        if now < state.at + LISTED_WITHIN:
            return nothing, this, nothing, Obstacle(ErrorCode.NOT_DELIVERED, _NOT_LISTED_YET)
        return this, nothing, nothing, None
    if any(one.has_answer for _, one in sent):
        return this, nothing, nothing, None
    reason = Obstacle(state.error_code or ErrorCode.NOT_DELIVERED, state.detail)
    if state.state is State.UNCONFIRMED:
        return nothing, nothing, nothing, None
    if state.is_open:
        return nothing, this, nothing, reason
    return nothing, nothing, this, reason


def _lists_declarations(report: StatusReport | None, since: datetime) -> bool:
    """Return True if the Mac has listed its declarations since then; the server's step is 1 s."""
    if report is None or report.declarations is None:
        return False
    return report.at + REPORT_STEP > since


def progress(
    name: str,
    sent: Deliveries,
    view: ServerView,
    facts: MacFacts,
    recent: datetime,
) -> Progress:
    """Return the progress of the installation; `name` is the name of the order's declarations."""
    answered = answer_progress(sent)
    if answered.state is InstallState.FAILED:
        return answered
    if view.report is not None:
        rejected = (view.report.declarations or {}).get(f"{name}-os")
        if rejected is not None and rejected.valid == "invalid":
            code, at = ErrorCode.DECLARATION_INVALID, view.report.at
            return Progress(InstallState.FAILED, None, code, at, rejected.reasons)
    return _installation(name, view.report, facts, recent)


def answer_progress(sent: Deliveries) -> Progress:
    """Return the progress by the answers to an order: FAILED if the Mac refused it."""
    for _, state in sent:
        if state.state is State.FAILED:
            return Progress(InstallState.FAILED, None, state.error_code, state.at, state.detail)
    return Progress()


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
    return Progress(state, None, failure_code(reason), failed_at or at, reason or "")
