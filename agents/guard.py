"""The last look before a Mac is touched: still ours, and not halted since?"""

from collections.abc import Callable

from agents.mac import Ack, Mac, Observation, UnreachableError
from schemas.jobs import Job


class ActionBlockedError(UnreachableError):
    """The order was not given. To the executor it is one that may have arrived: it looks first."""


class GuardedMac:
    """A Mac that is acted on only while `objection` has none.

    A look can take long, and a halt can come meanwhile: `after_look` is called after each.
    """

    def __init__(
        self, mac: Mac, after_look: Callable[[], None], block_reason: Callable[[Job], str | None]
    ) -> None:
        self._mac = mac
        self._after_look = after_look
        self._block_reason = block_reason

    def look(self, job: Job) -> Observation:
        """See the Mac; changes nothing. Raises UnreachableError."""
        try:
            return self._mac.look(job)
        finally:
            self._after_look()

    def act(self, step: str, job: Job, attempt: int) -> Ack:
        """Give the order, or raise HeldBackError. Raises UnreachableError."""
        reason = self._block_reason(job)
        if reason is not None:
            raise ActionBlockedError(reason)
        return self._mac.act(step, job, attempt)
