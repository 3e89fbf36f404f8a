"""Read-only queries of Macs over MDM: the pipeline selects them, an agent sends them."""

from enum import StrEnum
from typing import Annotated

from pydantic import AwareDatetime, Field

from schemas.ids import SiteField, TextField, UdidField
from schemas.model import WireModel


class QueryKind(StrEnum):
    """Kind of a query, by the command of Apple's MDM protocol that sends it."""

    DEVICE_INFORMATION = "device_information"
    """Version, build and state: the command DeviceInformation."""
    SECURITY_INFO = "security_info"
    """Enrollment and bootstrap token: the command SecurityInfo."""
    PROFILE_LIST = "profile_list"
    """Identifiers of the configuration profiles: the command ProfileList."""
    CERTIFICATE_LIST = "certificate_list"
    """End of the MDM identity: the command CertificateList."""


class MacQuery(WireModel):
    """A query that is due since `due_at`, and void from `expires_at` on: then it is asked again.

    - `server`: the MDM server of the Mac's enrollment; None if it is unknown.
    - `known_us`: the time of the Mac's report of the queried fields, or of its last Authenticate if
      that is later, in microseconds since 1970; 0 for never. It is the same until the Mac answers
      or enrolls again, so it identifies the query.
    - `is_urgent`: the end of an open job waits for the answer.
    """

    udid: UdidField
    site: SiteField
    server: TextField | None = None
    kind: QueryKind
    known_us: Annotated[int, Field(ge=0)]
    is_urgent: bool = False
    due_at: AwareDatetime
    expires_at: AwareDatetime
