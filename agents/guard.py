"""Last check before an order is given to a Mac: halts, the lease and the end of the process."""

from collections.abc import Callable

from agents.mac import Ack, Mac, Observation, UnreachableError
from schemas.jobs import Job


class ActionBlockedError(UnreachableError):
    """The order was not given.

    A subclass of UnreachableError: the executor treats the order as one that may have arrived, and
    verifies it on the Mac before it repeats it.
    """


class GuardedMac:
    """A Mac that gets an order only if `block_reason` returns None for the job.

    `after_look` is called after each look, also after a failed one: a look can take long, and a
    halt can arrive during it.
    """

    def __init__(
        self, mac: Mac, after_look: Callable[[], None], block_reason: Callable[[Job], str | None]
    ) -> None:
        self._mac = mac
        self._after_look = after_look
        self._block_reason = block_reason

    def look(self, job: Job) -> Observation:
        """Return an observation of the Mac; `after_look` is called before this ends.

        Raises UnreachableError if the Mac does not respond.
        """
        try:
            return self._mac.look(job)
        finally:
            self._after_look()

    def act(self, step: str, job: Job, attempt: int) -> Ack:
        """Give the order and return the acknowledgement.

        Raises ActionBlockedError with the reason, without giving the order, if `block_reason`
        returns one. Raises UnreachableError if the Mac does not respond; then the order may have
        arrived or not.
        """
        reason = self._block_reason(job)
        if reason is not None:
            raise ActionBlockedError(reason)
        return self._mac.act(step, job, attempt)
