"""The MDM protocol as a Mac speaks it: signed messages to one server.

(https://developer.apple.com/documentation/devicemanagement)
"""

import json
import plistlib
from dataclasses import dataclass, field
from typing import Any, Final

import httpx

from tests.mdm.identity import Identity
from tests.mdm.servers import TOPIC

CHECK_IN: Final = "application/x-apple-aspen-mdm-checkin"
COMMAND: Final = "application/x-apple-aspen-mdm; charset=UTF-8"


class RefusedError(Exception):
    """The server refused a message; `status` is that of its HTTP response."""

    def __init__(self, status: int) -> None:
        super().__init__(f"HTTP {status}")
        self.status = status


@dataclass
class MdmClient:
    """One Mac's connection to its MDM server. Methods raise RefusedError for a refused message."""

    url: str
    udid: str
    identity: Identity
    http: httpx.Client = field(default_factory=lambda: httpx.Client(trust_env=False))

    def check_in(self, kind: str, **more: Any) -> bytes:
        """Send a check-in message of this type and return the body of the response."""
        return self._put({"MessageType": kind, "Topic": TOPIC, "UDID": self.udid, **more}, CHECK_IN)

    def report(self, status: str, **more: Any) -> dict[str, Any] | None:
        """Report a status and return the next command; None if no command waits."""
        body = self._put({"Status": status, "UDID": self.udid, **more}, COMMAND)
        found: dict[str, Any] | None = plistlib.loads(body) if body else None
        return found

    def declarative(self, endpoint: str, sent: dict[str, Any] | None = None) -> Any:
        """Send a message of declarative management and return the response, decoded from JSON."""
        data = {} if sent is None else {"Data": json.dumps(sent).encode()}
        message = {"MessageType": "DeclarativeManagement", "UDID": self.udid, "Endpoint": endpoint}
        body = self._put(message | data, CHECK_IN)
        return json.loads(body) if body else None

    def _put(self, message: dict[str, Any], content_type: str) -> bytes:
        body = plistlib.dumps(message)
        headers = {"Content-Type": content_type, "Mdm-Signature": self.identity.signature(body)}
        response = self.http.put(f"{self.url}/mdm", content=body, headers=headers)
        if not response.is_success:
            raise RefusedError(response.status_code)
        return response.content
