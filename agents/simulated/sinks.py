"""The sink for the events of simulated Macs: a gateway over HTTP."""

import base64
import http.client
import json
import plistlib
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any, Final
from urllib.parse import urlsplit

from agents.simulated.fleet_server import Sink, SinkError
from schemas.envelope import (
    AdvisoryEvent,
    AuthenticatedEvent,
    BootstrapTokenEvent,
    CheckedOutEvent,
    CommandReportedEvent,
    DeviceEvent,
    InventoryEvent,
    TokenUpdatedEvent,
    encode,
)

_TIMEOUT_S: Final = 30.0
_OK: Final = 200


def sink_for(where: str, secret: str | None, admin_secret: str | None) -> Sink:
    """Return the sink for `http://HOST:PORT`, the URL of a gateway.

    A secret of None is not sent. Raises ValueError for another form.
    """
    if where.startswith("http://"):
        return GatewaySink(where, secret, admin_secret=admin_secret)
    raise ValueError(f"{where!r} is not http://")


class GatewaySink:
    """Sink that posts to a gateway as real senders do.

    MDM messages are NanoMDM webhooks, one in a request; other events are CloudEvents, many in a
    request. The order of the events is kept. `secret` is that of NanoMDM, `feed_secret` that of the
    feed whose releases are posted, `admin_secret` that of the operators, whose statements about
    Macs no MDM server may submit; None sends no secret.
    """

    def __init__(
        self,
        url: str,
        secret: str | None,
        feed_secret: str | None = None,
        admin_secret: str | None = None,
    ) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        self._secret = secret
        self._feed_secret = feed_secret
        self._admin_secret = admin_secret
        self._connection: http.client.HTTPConnection | None = None

    def __call__(self, events: Sequence[DeviceEvent | AdvisoryEvent]) -> None:
        """Post events in their order.

        Raises SinkError if the gateway does not respond, and at the first response that is not 200;
        the events before it are posted.
        """
        for (is_hook, secret), some in groupby(events, self._login_of):
            if not is_hook:
                self._post_events([*some], secret)
                continue
            for event in some:
                body = json.dumps(webhook_of(event)).encode()
                self._post("/webhooks/nanomdm", body, "application/json", secret)

    def _login_of(self, event: DeviceEvent | AdvisoryEvent) -> tuple[bool, str | None]:
        """Return True for a webhook of NanoMDM, and the secret with which the event is posted."""
        if isinstance(event, AdvisoryEvent):
            return False, self._feed_secret
        if isinstance(event, InventoryEvent) and event.data.source == "admin":
            return False, self._admin_secret
        return webhook_of(event) is not None, self._secret

    def close(self) -> None:
        """Close the connection; a later call opens a new one."""
        if self._connection is not None:
            self._connection.close()

    def _post_events(
        self, events: Sequence[DeviceEvent | AdvisoryEvent], secret: str | None
    ) -> None:
        """Post events as CloudEvents in one request. Raises SinkError."""
        body = b"\n".join(encode(event) for event in events)
        self._post("/v1/events", body, "application/x-ndjson", secret)

    def _post(self, path: str, body: bytes, kind: str, secret: str | None) -> None:
        """Post one body with `kind` as its content type.

        Raises SinkError if the gateway does not respond with status 200.
        """
        try:
            if self._connection is None:
                self._connection = http.client.HTTPConnection(
                    self._host, self._port, timeout=_TIMEOUT_S
                )
            headers = {"Content-Type": kind}
            if secret is not None:
                headers["X-Drydock-Secret"] = secret
            self._connection.request("POST", path, body, headers)
            response = self._connection.getresponse()
            text = response.read()
        except (OSError, http.client.HTTPException) as error:
            self.close()
            self._connection = None
            raise SinkError(f"{path}: {error}") from error
        if response.status != _OK:
            raise SinkError(f"{path} responded with {response.status}: {text[:200]!r}")


def webhook_of(event: DeviceEvent | AdvisoryEvent) -> dict[str, Any] | None:
    """Return the webhook body that NanoMDM posts for this message; None for other events.

    Form: github.com/micromdm/nanomdm, service/webhook. A DDM status report is posted as CloudEvent:
    the body of its webhook does not name the device, only the query of the URL does.
    """
    for kind, make in _MESSAGES:
        if isinstance(event, kind):
            topic, message, fields = make(event)
            break
    else:
        return None
    udid = event.subject
    raw = base64.b64encode(plistlib.dumps({"UDID": udid, **message})).decode()
    part = "acknowledge_event" if topic == "Connect" else "checkin_event"
    return {
        "topic": f"mdm.{topic}",
        "event_id": event.id,
        "created_at": event.time.isoformat(),
        part: {"udid": udid, "raw_payload": raw, **fields},
    }


_Made = tuple[str, dict[str, Any], dict[str, Any]]


def _authenticate(event: AuthenticatedEvent) -> _Made:
    """Return the topic, the plist message and the webhook fields of an Authenticate."""
    data = event.data
    known = {
        "SerialNumber": data.serial,
        "Model": data.model,
        "OSVersion": None if data.os_version is None else str(data.os_version),
        "BuildVersion": None if data.build is None else str(data.build),
        "DeviceName": data.hostname,
    }
    fields = {name: value for name, value in known.items() if value is not None}
    topic = "com.apple.mgmt.External.simulated"
    return "Authenticate", {"MessageType": "Authenticate", "Topic": topic, **fields}, {}


def _token_update(event: TokenUpdatedEvent) -> _Made:
    """Return the topic, the plist message and the webhook fields of a TokenUpdate."""
    message = {
        "MessageType": "TokenUpdate",
        "Topic": "com.apple.mgmt.External.simulated",
        "PushMagic": "simulated",
        "Token": b"simulated",
    }
    fields = {} if event.data.tally is None else {"token_update_tally": event.data.tally}
    return "TokenUpdate", message, fields


def _check_out(_: CheckedOutEvent) -> _Made:
    """Return the topic, the plist message and the webhook fields of a CheckOut."""
    return "CheckOut", {"MessageType": "CheckOut"}, {}


def _escrow(_: BootstrapTokenEvent) -> _Made:
    """Return the topic, the plist message and the webhook fields of a SetBootstrapToken."""
    message = {"MessageType": "SetBootstrapToken", "BootstrapToken": b"simulated"}
    return "SetBootstrapToken", message, {}


def _command_report(event: CommandReportedEvent) -> _Made:
    """Return the topic, the plist message and the webhook fields of a command report."""
    data = event.data
    message = {"Status": data.status, "CommandUUID": data.command_uuid}
    return "Connect", message, {"status": data.status, "command_uuid": data.command_uuid}


_MESSAGES: Final[tuple[tuple[type[Any], Callable[[Any], _Made]], ...]] = (
    (AuthenticatedEvent, _authenticate),
    (TokenUpdatedEvent, _token_update),
    (CheckedOutEvent, _check_out),
    (BootstrapTokenEvent, _escrow),
    (CommandReportedEvent, _command_report),
)
