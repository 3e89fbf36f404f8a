"""Read-only queries of Macs over MDM: the pipeline selects them, an agent sends them."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class QueryKind(StrEnum):
    """Kind of a query, by the command of Apple's MDM protocol that sends it."""

    DEVICE_INFORMATION = "device_information"
    """Version, build and state: the command DeviceInformation."""
    SECURITY_INFO = "security_info"
    """Enrollment and bootstrap token: the command SecurityInfo."""


@dataclass(frozen=True, slots=True)
class MacQuery:
    """A query that is due since `due_at`.

    `known_us` is the time of the Mac's report of the queried fields, in microseconds since 1970; 0
    for never. It is the same until the Mac answers, so it identifies the query.
    """

    udid: str
    site: str
    kind: QueryKind
    known_us: int
    due_at: datetime
