"""A Mac's own MDM message (a property list) to events, whichever server passed it on.

https://github.com/apple/device-management, mdm/checkin and mdm/commands.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from pipeline.ingest.ddm_status import read_status
from pipeline.ingest.device_payload import DevicePayload
from pipeline.ingest.foreign_fields import Fields
from pipeline.ingest.json_payload import load_json
from pipeline.ingest.mdm_enrollment import Enrollment, enrollment_of
from pipeline.ingest.mdm_responses import (
    device_information,
    error_chain,
    install_actions,
    security_info,
)
from pipeline.ingest.redaction import Redactor
from pipeline.ingest.translation import PayloadError
from schemas.dead_letters import DeadLetterCode
from schemas.envelope import (
    AuthenticatedEvent,
    BootstrapTokenEvent,
    CheckedOutEvent,
    CommandReportedEvent,
    DdmStatusEvent,
    TokenUpdatedEvent,
)
from schemas.events.checkin import (
    BootstrapTokenSet,
    DdmStatusReported,
    MdmAuthenticated,
    MdmCheckedOut,
    MdmCommandReported,
    MdmTokenUpdated,
)

MESSAGE_LOCATION: Final = "plist: "
CONNECT: Final = "Connect"

_DDM_FETCHES: Final = ("tokens", "declaration-items")
_DDM_DECLARATION: Final = "declaration/"


@dataclass(frozen=True, slots=True)
class ForwardedMessage:
    """A message as a server passed it on: `claim` is what the server says of it, `at` when."""

    message: Fields
    server_fields: Fields
    enrollment: Enrollment
    site: str | None
    server: str | None
    at: datetime
    payload: DevicePayload
    redactor: Redactor

    def identity_fields(self) -> dict[str, Any]:
        """The fields that every MDM event starts with."""
        known = {
            "udid": self.enrollment.udid,
            "enrollment_id": self.enrollment.enrollment_id,
            "enrollment_type": self.enrollment.kind,
            "server": self.server,
        }
        return {name: value for name, value in known.items() if value is not None}

    def add_event(
        self, kind: Callable[..., Any], data: Callable[..., Any], /, **values: Any
    ) -> None:
        """Add an event about this enrolment."""
        checked = self.payload.validate(data, **self.identity_fields(), **values)
        if checked is not None:
            self.payload.add_event(kind, checked, self.at)

    def add_inventory(self, **facts: Any) -> None:
        """Add an inventory report about this Mac; without facts it says that MDM heard of it."""
        self.payload.add_inventory(
            "mdm",
            self.at,
            udid=self.enrollment.udid,
            enrollment_id=self.enrollment.enrollment_id,
            site=self.site,
            mdm_server=self.server,
            **facts,
        )


def translate_message(
    plist: Any,
    payload: DevicePayload,
    *,
    server_fields: Fields,
    kind: str | None,
    at: datetime,
    redactor: Redactor,
) -> None:
    """Add the events of one message to its payload.

    `kind` is what the server calls it (`Authenticate`, `Connect` and so on), None to go by the
    message alone. `claim` are the server's fields beside it: `udid`, `enrollment_id`, `ids`,
    `status`, `command_uuid`, `token_update_tally`, `url_params` (of which `site` and `server` are
    taken as hints). Raises PayloadError where the whole message must be set aside.
    """
    if not isinstance(plist, dict):
        raise PayloadError(DeadLetterCode.BAD_SHAPE, "not a dictionary", MESSAGE_LOCATION + "root")
    message = Fields(plist, MESSAGE_LOCATION, payload.problems)
    kind = _kind_of(message, kind)
    handle = _HANDLERS.get(kind)
    if handle is None:
        raise PayloadError(
            DeadLetterCode.UNKNOWN_TYPE,
            f"no message that Drydock knows: {kind}",
            MESSAGE_LOCATION + "MessageType",
        )
    enrollment = enrollment_of(server_fields, message)
    hints = server_fields.group("url_params")
    forwarded = ForwardedMessage(
        message,
        server_fields,
        enrollment,
        hints.site("site"),
        hints.text("server"),
        at,
        payload,
        redactor,
    )
    handle(forwarded)


def _kind_of(message: Fields, server_kind: str | None) -> str:
    """What kind of message this is. The server's word must agree with the message's own."""
    own_kind = message.text("MessageType")
    if own_kind is None and ("Status" in message or server_kind == CONNECT):
        own_kind = CONNECT
    if own_kind is None and server_kind is None:
        raise PayloadError(
            DeadLetterCode.UNKNOWN_TYPE,
            "neither a check-in nor an answer to a command",
            MESSAGE_LOCATION + "MessageType",
        )
    if own_kind is not None and server_kind is not None and own_kind != server_kind:
        raise PayloadError(
            DeadLetterCode.BAD_VALUE,
            f"a {own_kind} message under the topic {server_kind}",
            MESSAGE_LOCATION + "MessageType",
        )
    return own_kind or server_kind or ""


def _authenticate(passed: ForwardedMessage) -> None:
    message = passed.message
    facts = {
        "serial": message.serial("SerialNumber"),
        "os_version": message.version("OSVersion"),
        "build": message.build("BuildVersion"),
        "model": message.text("ProductName", "Model"),
        "hostname": message.text("DeviceName"),
    }
    passed.add_event(AuthenticatedEvent, MdmAuthenticated, **facts)
    passed.add_inventory(**facts)


def _token_update(passed: ForwardedMessage) -> None:
    passed.add_event(
        TokenUpdatedEvent,
        MdmTokenUpdated,
        tally=passed.server_fields.count("token_update_tally"),
        awaiting_configuration=passed.message.flag("AwaitingConfiguration"),
    )
    _site(passed)


def _check_out(passed: ForwardedMessage) -> None:
    passed.add_event(CheckedOutEvent, MdmCheckedOut)


def _set_bootstrap_token(passed: ForwardedMessage) -> None:
    """An absent or empty token clears the one that was escrowed (setbootstraptoken.yaml)."""
    token = passed.message.values.get("BootstrapToken")
    passed.add_event(BootstrapTokenEvent, BootstrapTokenSet, escrowed=bool(token))
    _site(passed)


def _contact(passed: ForwardedMessage) -> None:
    """A request that only fetches: it says that the Mac asked its server for something.

    Weak evidence of contact: a hook also fires for a request that the server refused.
    """
    passed.add_inventory()


def _user_authenticate(_: ForwardedMessage) -> None:
    raise PayloadError(DeadLetterCode.USER_CHANNEL, "a user's channel", MESSAGE_LOCATION)


def _connect(passed: ForwardedMessage) -> None:
    """A poll or an answer, and what the answer says of the Mac.

    Whoever answers these queries over MDM is enrolled.
    """
    message, server_fields = passed.message, passed.server_fields
    status = message.text("Status") or server_fields.text("status")
    if status is None:
        raise PayloadError(DeadLetterCode.BAD_SHAPE, "no status", MESSAGE_LOCATION + "Status")
    facts: dict[str, Any] = {}
    if "QueryResponses" in message:
        facts |= device_information(message.group("QueryResponses"))
    if "SecurityInfo" in message:
        facts |= security_info(message.group("SecurityInfo"))
    passed.add_event(
        CommandReportedEvent,
        MdmCommandReported,
        command_uuid=message.text("CommandUUID") or server_fields.text("command_uuid"),
        status=status,
        error_chain=error_chain(message),
        install_actions=install_actions(message),
    )
    if any(fact is not None for fact in facts.values()):
        passed.add_inventory(mdm_enrolled=True, **facts)
    else:
        _site(passed)


def _site(passed: ForwardedMessage) -> None:
    if passed.site is not None:
        passed.add_inventory()


def _declarative_management(passed: ForwardedMessage) -> None:
    endpoint = passed.message.text("Endpoint") or ""
    if endpoint in _DDM_FETCHES or endpoint.startswith(_DDM_DECLARATION):
        _contact(passed)
        return
    if endpoint != "status":
        raise PayloadError(
            DeadLetterCode.UNKNOWN_TYPE,
            f"no endpoint of the declarative protocol: {endpoint}",
            MESSAGE_LOCATION + "Endpoint",
        )
    location = MESSAGE_LOCATION + "Data"
    data = passed.message.values.get("Data")
    if not isinstance(data, bytes):
        raise PayloadError(DeadLetterCode.BAD_SHAPE, "no status report", location)
    try:
        report = load_json(data)
    except PayloadError as error:
        where = f"{location}: {error.where}" if error.where else location
        raise PayloadError(error.code, error.detail, where) from None
    if not isinstance(report, dict):
        raise PayloadError(DeadLetterCode.BAD_SHAPE, "not an object", location)
    fields = Fields(report, location + ".", passed.payload.problems)
    passed.add_event(DdmStatusEvent, DdmStatusReported, **read_status(fields, passed.redactor))
    _site(passed)


_HANDLERS: Final[Mapping[str, Callable[[ForwardedMessage], None]]] = {
    "Authenticate": _authenticate,
    "TokenUpdate": _token_update,
    "CheckOut": _check_out,
    "SetBootstrapToken": _set_bootstrap_token,
    "GetBootstrapToken": _contact,
    "GetToken": _contact,
    "UserAuthenticate": _user_authenticate,
    "DeclarativeManagement": _declarative_management,
    CONNECT: _connect,
}
