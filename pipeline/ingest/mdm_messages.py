"""Translation of a Mac's own MDM message (a property list), for every MDM server.

Format: github.com/apple/device-management, mdm/checkin and mdm/commands.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from pipeline.ingest.ddm_status import read_status
from pipeline.ingest.device_payload import DevicePayload
from pipeline.ingest.foreign_fields import Fields
from pipeline.ingest.json_payload import load_json
from pipeline.ingest.mdm_certificates import CERTIFICATE_FIELDS, identity_expires_at
from pipeline.ingest.mdm_enrollment import Enrollment, enrollment_of
from pipeline.ingest.mdm_responses import (
    ERROR_FIELDS,
    INFORMATION_FIELDS,
    PROFILE_FIELDS,
    SECURITY_FIELDS,
    device_information,
    error_chain,
    install_actions,
    order_conditions,
    profiles,
    security_info,
)
from pipeline.ingest.payload_retention import Field, FieldsBy, ReadFields, values
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

_VALUES: Final = values(
    *("MessageType", "Status", "CommandUUID", "Endpoint"),
    *("UDID", "EnrollmentID", "SerialNumber", "OSVersion", "BuildVersion"),
    *("ProductName", "Model", "DeviceName", "AwaitingConfiguration"),
)
_MESSAGE_FIELDS: Final[ReadFields] = {
    **_VALUES,
    "ErrorChain": ERROR_FIELDS,
    "UpdateResults": {
        **values("ProductKey", "InstallAction", "Status"),
        "ErrorChain": ERROR_FIELDS,
    },
    "QueryResponses": INFORMATION_FIELDS,
    "SecurityInfo": SECURITY_FIELDS,
    "ProfileList": PROFILE_FIELDS,
    "CertificateList": CERTIFICATE_FIELDS,
}
# Without an endpoint, `Data` is no status report, and nothing reads it.
_WITH_ENDPOINT: Final[ReadFields] = {**_MESSAGE_FIELDS, "Data": None}
MESSAGE_FIELDS: Final[Field] = FieldsBy(
    lambda message: _WITH_ENDPOINT if "Endpoint" in message else _MESSAGE_FIELDS
)
"""The fields of a message that `translate_message` reads."""

_DDM_FETCHES: Final = ("tokens", "declaration-items")
_DDM_DECLARATION: Final = "declaration/"


@dataclass(frozen=True, slots=True)
class ForwardedMessage:
    """A message that an MDM server passed on, with the server's own fields about it.

    `at` is the time of the events; `site` and `server` are hints of the enrollment profile, each
    None if the profile has no valid one.
    """

    message: Fields
    server_fields: Fields
    enrollment: Enrollment
    site: str | None
    server: str | None
    at: datetime
    payload: DevicePayload

    def identity_fields(self) -> dict[str, Any]:
        """Return the fields that every MDM event has: ids, type of enrollment, server.

        The keys are `udid` and `enrollment_type`, and, unless the field is None, `enrollment_id`
        and `server`.
        """
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
        """Add an event about this enrollment: class `kind`, with data of class `data`.

        `values` are the data's fields beside `identity_fields`. If they do not fit the model, the
        problem `bad_value` is recorded and no event is added.
        """
        checked = self.payload.validate(data, **self.identity_fields(), **values)
        if checked is not None:
            self.payload.add_event(kind, checked, self.at)

    def add_inventory(self, **fields: Any) -> None:
        """Add an inventory report about this Mac; without `fields` it only records a contact.

        `fields` are those of InventoryReported; the ids and the hints are added to them. If they do
        not fit the model, the problem `bad_value` is recorded and no event is added.
        """
        self.payload.add_inventory(
            "mdm",
            self.at,
            udid=self.enrollment.udid,
            enrollment_id=self.enrollment.enrollment_id,
            site=self.site,
            mdm_server=self.server,
            **fields,
        )


def translate_message(
    plist: Any,
    payload: DevicePayload,
    *,
    server_fields: Fields,
    kind: str | None,
    at: datetime,
) -> None:
    """Add the events of one message to its payload.

    `plist` is the parsed message. `kind` is the server's name for it (`Authenticate`, `Connect` and
    so on); with None the message alone decides. `server_fields` are the server's fields beside it:
    `udid`, `enrollment_id`, `ids`, `status`, `command_uuid`, `token_update_tally`, `url_params` (of
    which `site` and `server` are used as hints). `at` is the time of the events. Raises
    PayloadError if the whole message must become a dead letter: bad_shape, unknown_type, bad_value,
    no_device, user_channel, not_a_mac, or a code of `load_json` for a status report.
    """
    if not isinstance(plist, dict):
        raise PayloadError(DeadLetterCode.BAD_SHAPE, "not a dictionary", MESSAGE_LOCATION + "root")
    message = Fields(plist, MESSAGE_LOCATION, payload.problems)
    kind = _kind_of(message, kind)
    handle = _HANDLERS.get(kind)
    if handle is None:
        raise PayloadError(
            DeadLetterCode.UNKNOWN_TYPE,
            f"unknown kind of message: {kind}",
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
    )
    handle(forwarded)


def _kind_of(message: Fields, server_kind: str | None) -> str:
    """Return the kind of this message: its MessageType, or else the name that the server gives.

    A message without MessageType is `Connect` if it has a Status. `server_kind` is None for a
    message without its server. Raises PayloadError: `unknown_type` if neither names a kind,
    `bad_value` if both do and the two differ.
    """
    own_kind = message.text("MessageType")
    if own_kind is None and ("Status" in message or server_kind == CONNECT):
        own_kind = CONNECT
    if own_kind is None and server_kind is None:
        raise PayloadError(
            DeadLetterCode.UNKNOWN_TYPE,
            "neither a check-in nor a response to a command",
            MESSAGE_LOCATION + "MessageType",
        )
    if own_kind is not None and server_kind is not None and own_kind != server_kind:
        raise PayloadError(
            DeadLetterCode.BAD_VALUE,
            f"a {own_kind} message under the topic {server_kind}",
            MESSAGE_LOCATION + "MessageType",
        )
    return own_kind or server_kind or ""


def _authenticate(forwarded: ForwardedMessage) -> None:
    """Add an authenticated event and an inventory report, with the same fields of the Mac.

    These are serial number, version, build, model and host name.
    """
    message = forwarded.message
    version, build = message.system("OSVersion", "BuildVersion")
    fields = {
        "serial": message.serial("SerialNumber"),
        "os_version": version,
        "build": build,
        "model": message.text("ProductName", "Model"),
        "hostname": message.text("DeviceName"),
    }
    forwarded.add_event(AuthenticatedEvent, MdmAuthenticated, **fields)
    forwarded.add_inventory(**fields)


def _token_update(forwarded: ForwardedMessage) -> None:
    """Add a token_updated event, and an inventory report if the profile has a site hint.

    The event has the server's tally of token updates; None if the server sent none.
    """
    forwarded.add_event(
        TokenUpdatedEvent,
        MdmTokenUpdated,
        tally=forwarded.server_fields.count("token_update_tally"),
        awaiting_configuration=forwarded.message.flag("AwaitingConfiguration"),
    )
    _add_site_hint(forwarded)


def _check_out(forwarded: ForwardedMessage) -> None:
    forwarded.add_event(CheckedOutEvent, MdmCheckedOut)


def _set_bootstrap_token(forwarded: ForwardedMessage) -> None:
    """Add an event that a bootstrap token was escrowed or cleared.

    An absent or empty token clears the escrowed one (github.com/apple/device-management,
    mdm/checkin/setbootstraptoken.yaml). If the profile has a site hint, an inventory report is
    added too.
    """
    token = forwarded.message.values.get("BootstrapToken")
    forwarded.add_event(BootstrapTokenEvent, BootstrapTokenSet, escrowed=bool(token))
    _add_site_hint(forwarded)


def _record_contact(forwarded: ForwardedMessage) -> None:
    """Add an inventory report with only ids and hints: the Mac fetched something from its server.

    This is weak evidence of contact: NanoMDM sends the webhook also for a request that it refused.
    """
    forwarded.add_inventory()


def _user_authenticate(_: ForwardedMessage) -> None:
    """Raise PayloadError `user_channel`: only user channels send this message."""
    raise PayloadError(DeadLetterCode.USER_CHANNEL, "a message of a user channel", MESSAGE_LOCATION)


def _connect(forwarded: ForwardedMessage) -> None:
    """Add a command report and, if the response has fields of the Mac, an inventory report.

    A Mac that responds to these queries over MDM is enrolled: the report has `mdm_enrolled` = True.
    Without such fields, an inventory report is added only for a site hint, without `mdm_enrolled`.
    Raises PayloadError: `bad_shape` if neither message nor server has a status, `not_a_mac` for
    another product.
    """
    message, server_fields = forwarded.message, forwarded.server_fields
    status = message.text("Status") or server_fields.text("status")
    if status is None:
        raise PayloadError(
            DeadLetterCode.BAD_SHAPE,
            "neither the message nor its server has a status",
            MESSAGE_LOCATION + "Status",
        )
    fields: dict[str, Any] = {}
    conditions: dict[str, Any] = {}
    if "QueryResponses" in message:
        fields |= device_information(message.group("QueryResponses"))
        conditions = order_conditions(message.group("QueryResponses"))
    if "SecurityInfo" in message:
        fields |= security_info(message.group("SecurityInfo"))
    if "ProfileList" in message:
        fields |= profiles(message)
    if "CertificateList" in message:
        fields["identity_expires_at"] = identity_expires_at(message, forwarded.at)
    forwarded.add_event(
        CommandReportedEvent,
        MdmCommandReported,
        command_uuid=message.text("CommandUUID") or server_fields.text("command_uuid"),
        status=status,
        error_chain=error_chain(message),
        install_actions=install_actions(message),
        **conditions,
    )
    if any(value is not None for value in fields.values()):
        forwarded.add_inventory(mdm_enrolled=True, **fields)
    else:
        _add_site_hint(forwarded)


def _add_site_hint(forwarded: ForwardedMessage) -> None:
    """Add an inventory report with the site of the enrollment profile; nothing without a site."""
    if forwarded.site is not None:
        forwarded.add_inventory()


def _declarative_management(forwarded: ForwardedMessage) -> None:
    """Add the events of one declarative-management request, by its endpoint.

    For `status` it adds a ddm_status_reported event, and an inventory report if the profile has a
    site hint. For `tokens`, `declaration-items` and `declaration/...` it adds an inventory report
    with only ids and hints: a contact. Raises PayloadError: `unknown_type` for any other endpoint;
    for a status report `bad_shape` if Data is not bytes of a JSON object, `not_a_mac`, or a code of
    `load_json`.
    """
    endpoint = forwarded.message.text("Endpoint") or ""
    if endpoint in _DDM_FETCHES or endpoint.startswith(_DDM_DECLARATION):
        _record_contact(forwarded)
        return
    if endpoint != "status":
        raise PayloadError(
            DeadLetterCode.UNKNOWN_TYPE,
            f"unknown endpoint of declarative management: {endpoint}",
            MESSAGE_LOCATION + "Endpoint",
        )
    location = MESSAGE_LOCATION + "Data"
    data = forwarded.message.values.get("Data")
    if not isinstance(data, bytes):
        raise PayloadError(DeadLetterCode.BAD_SHAPE, "no bytes with a status report", location)
    unreadable: list[PayloadError] = []
    try:
        report = load_json(data, unreadable)
    except PayloadError as error:
        where = f"{location}: {error.where}" if error.where else location
        raise PayloadError(error.code, error.detail, where) from None
    if not isinstance(report, dict):
        raise PayloadError(DeadLetterCode.BAD_SHAPE, "not an object", location)
    forwarded.payload.problems.add_all(unreadable, f"{location}: ")
    fields = Fields(report, location + ".", forwarded.payload.problems)
    forwarded.add_event(DdmStatusEvent, DdmStatusReported, **read_status(fields))
    _add_site_hint(forwarded)


_HANDLERS: Final[Mapping[str, Callable[[ForwardedMessage], None]]] = {
    "Authenticate": _authenticate,
    "TokenUpdate": _token_update,
    "CheckOut": _check_out,
    "SetBootstrapToken": _set_bootstrap_token,
    "GetBootstrapToken": _record_contact,
    "GetToken": _record_contact,
    "UserAuthenticate": _user_authenticate,
    "DeclarativeManagement": _declarative_management,
    CONNECT: _connect,
}
