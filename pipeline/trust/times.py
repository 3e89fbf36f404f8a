"""Times that a sender claims, bounded by the time of receipt.

Folds keep the value with the latest time. A time in the future would outrank every later report, so
it is replaced; the claimed time remains as data.
"""

from datetime import UTC, datetime, timedelta
from typing import Final, TypeVar

from schemas.model import WireModel

# Clocks of servers differ by seconds; those of Macs without NTP by a few minutes.
MAX_AHEAD: Final = timedelta(minutes=5)
# Older than every release that Drydock reads. A clock without power starts in 1970 or 2001.
EARLIEST: Final = datetime(2015, 1, 1, tzinfo=UTC)

# Times in the data of an event at which something happened: they cannot be after the receipt.
_PAST: Final = ("boot_at", "failure_at")
# A loan desk can state the return that is agreed; the decision waits for it.
_ANY_TIME: Final = (
    "released_at",
    "expires_at",
    "kev_due_at",
    "identity_expires_at",
    "loan_returned_at",
)
_D = TypeVar("_D", bound=WireModel)


def ordering_time(claimed: datetime, received_at: datetime) -> datetime:
    """Return the time by which an event is ordered.

    It is `claimed`, or `received_at` if `claimed` is more than 5 minutes later or before 2015,
    which means that it is unknown.
    """
    is_plausible = EARLIEST <= claimed <= received_at + MAX_AHEAD
    return claimed if is_plausible else received_at


def bounded_data(data: _D, received_at: datetime) -> _D:
    """Return the data of an event with plausible times; the same object if all are plausible.

    A time before 2015 becomes None. A time at which something happened, more than 5 minutes after
    the receipt, becomes `received_at`.
    """
    changed: dict[str, datetime | None] = {}
    for name in (*_PAST, *_ANY_TIME):
        at: datetime | None = getattr(data, name, None)
        if at is None:
            continue
        if at < EARLIEST:
            changed[name] = None
        elif name in _PAST and at > received_at + MAX_AHEAD:
            changed[name] = received_at
    return data.model_copy(update=changed) if changed else data
