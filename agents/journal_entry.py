"""State of one attempt in the journal. Pure."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from agents.mac import STEPS, InstallState, order_marker
from schemas.jobs import Job, Method
from schemas.results import ErrorCode, Outcome


class Phase(StrEnum):
    """State of an attempt; the table of `agents.lifecycle` has the transitions."""

    ACCEPTED = "accepted"  # the job is journalled; the Mac is untouched
    INTENDED = "intended"  # the intent is journalled; the order may have arrived
    WATCHING = "watching"  # the Mac accepted the order
    WITHDRAWING = "withdrawing"  # the attempt has an outcome; its order is being withdrawn
    DONE = "done"  # the attempt has an outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalEntry:
    """State of one job in the journal.

    `sends` counts the orders given, `unanswered` those after the last response. `declined` is True
    if the response to the last order was NotNow; `held_since` is the time of the first NotNow, or
    the first time at which its MDM server had the order in its queue, or did not take it.
    `enforce_at` is the time of enforcement that the order declares, None for that of the job.
    `intent_at` is the time of the last intent, `acted_at` the time from which the order counts as
    accepted. `boot_at` is the boot time of the Mac before the order, by the Mac's clock.
    `away_since` is the time of the first failed look of the current series. `progress` and
    `percent` are the last ones reported, `changed_at` is the time of that report or, without one,
    of the acceptance. `halted` is True if a halt covered the job while its order could not be
    withdrawn. `history_unknown` is True if an earlier journal may have given the order. `signed_by`
    is the id of the key that signed the job, empty in a journal of an older version.
    """

    job: Job
    phase: Phase = Phase.ACCEPTED
    accepted_at: datetime
    wake_at: datetime
    approved_until: datetime | None = None
    attempt: int = 1
    sends: int = 0
    unanswered: int = 0
    declined: bool = False
    enforce_at: datetime | None = None
    intent_at: datetime | None = None
    acted_at: datetime | None = None
    boot_at: datetime | None = None
    away_since: datetime | None = None
    held_since: datetime | None = None
    progress: InstallState = InstallState.NONE
    percent: int | None = None
    changed_at: datetime | None = None
    superseded: bool = False
    halted: bool = False
    history_unknown: bool = False
    signed_by: str = ""
    outcome: Outcome | None = None
    error_code: ErrorCode | None = None

    @property
    def touched(self) -> bool:
        """True if an order may have reached the Mac and the attempt has no outcome."""
        return self.phase in (Phase.INTENDED, Phase.WATCHING)

    @property
    def may_be_declared(self) -> bool:
        """True if the Mac may have a declaration of this attempt, which has no outcome.

        This attempt gave it, or one in an earlier journal may have.
        """
        is_doubted = self.phase is Phase.ACCEPTED and self.history_unknown
        return self.job.method is Method.DDM and (self.touched or is_doubted)

    @property
    def ordered_job(self) -> Job:
        """The job with the time of enforcement that the order of this attempt declares."""
        if self.enforce_at is None:
            return self.job
        return self.job.model_copy(update={"enforce_at": self.enforce_at})

    @property
    def step(self) -> str:
        """Name of the one step that the method has on the Mac."""
        return STEPS[self.job.method]

    @property
    def order_marker(self) -> str:
        """Mark that this attempt's order leaves on the Mac; equal for repeated orders."""
        return order_marker(self.job.job_id, self.attempt, self.step)
