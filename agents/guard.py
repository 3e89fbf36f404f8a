"""The last look before a Mac is touched: still ours, and not halted since?"""

from collections.abc import Callable

from agents.mac import Ack, Look, Mac, UnreachableError
from schemas.jobs import Job


class HeldBackError(UnreachableError):
    """The order was not given. To the executor it is one that may have arrived: it looks first."""


class GuardedMac:
    """A Mac that is acted on only while `objection` has none.

    A look can take long, and a halt can come meanwhile: `looked` is called after each.
    """

    def __init__(
        self, mac: Mac, looked: Callable[[], None], objection: Callable[[Job], str | None]
    ) -> None:
        self._mac = mac
        self._looked = looked
        self._objection = objection

    def look(self, job: Job) -> Look:
        """See the Mac; changes nothing. Raises UnreachableError."""
        try:
            return self._mac.look(job)
        finally:
            self._looked()

    def act(self, step: str, job: Job, attempt: int) -> Ack:
        """Give the order, or raise HeldBackError. Raises UnreachableError."""
        objection = self._objection(job)
        if objection is not None:
            raise HeldBackError(objection)
        return self._mac.act(step, job, attempt)
