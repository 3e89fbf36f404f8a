"""The enrollment behind an MDM message: its UDID, its channel, and a check that it is a Mac.

NanoMDM names enrollments in `ids` (github.com/micromdm/nanomdm, mdm/enrollid.go). MicroMDM and a
bare message have only the ids that Apple defines for the message itself.
"""

import re
from dataclasses import dataclass
from typing import Final

from pipeline.ingest.foreign_fields import Fields
from pipeline.ingest.translation import PayloadError
from schemas.dead_letters import DeadLetterCode

_BYOD: Final = "User Enrollment (Device)"
_USER_TYPES: Final = frozenset({"User", "User Enrollment", "Shared iPad"})
# These keys are sent on the user channel only (github.com/apple/device-management, mdm/checkin).
_USER_KEYS: Final = ("UserID", "EnrollmentUserID", "UserShortName")

OTHER_PRODUCTS: Final = (
    "iPhone",
    "iPad",
    "iPod",
    "AppleTV",
    "Watch",
    "RealityDevice",
    "AudioAccessory",
)
_OTHER_FAMILIES: Final = frozenset(
    {"ios", "ipados", "tvos", "visionos", "watchos", "iphone", "ipad", "ipod", "appletv"}
)
# A Mac's UDID is its hardware UUID; older iPhones, iPads and Apple TVs have a SHA-1 digest.
_SHA1_UDID: Final = re.compile(r"[0-9a-fA-F]{40}")


@dataclass(frozen=True, slots=True)
class Enrollment:
    """The enrollment of a Mac's device channel.

    `udid` is the key everywhere in Drydock, in upper case. A personally owned Mac has no UDID for
    its server, so its key is its enrollment id. `enrollment_id` is the `id` in the server's `ids`,
    or without it the message's EnrollmentID, in the letter case received; None without both. `kind`
    is the server's type of enrollment; without one it is `Device`, or `User Enrollment (Device)` if
    the Mac has no UDID.
    """

    udid: str
    enrollment_id: str | None
    kind: str


def refuse_other_products(product: str | None) -> None:
    """Raise PayloadError `not_a_mac` if this is the name or family of another Apple product.

    That is a text that starts with such a name (`iPhone14,2`), or is such a family in any case
    (`iOS`, `Apple TV`). Any other text, and None, is accepted.
    """
    if product is None:
        return
    family = product.replace(" ", "").casefold()
    if product.startswith(OTHER_PRODUCTS) or family in _OTHER_FAMILIES:
        raise PayloadError(DeadLetterCode.NOT_A_MAC, f"a device of another kind: {product}")


def enrollment_of(server_fields: Fields, message: Fields) -> Enrollment:
    """Return the enrollment to which a message belongs.

    `server_fields` are the MDM server's own fields about the message. Raises PayloadError:
    `user_channel` for a message of a user channel; `bad_value` if server and message name different
    devices; `no_device` without a valid UDID or enrollment id; `not_a_mac` for a UDID of 40 hex
    digits, an UnlockToken, or the name of another product.
    """
    ids = server_fields.group("ids")
    kind, own_id = ids.text("type"), ids.text("id")
    if kind in _USER_TYPES or "parent_id" in ids or (own_id is not None and ":" in own_id):
        raise PayloadError(
            DeadLetterCode.USER_CHANNEL, "a message of a user channel", server_fields.where + "ids"
        )
    for key in _USER_KEYS:
        if key in message:
            raise PayloadError(
                DeadLetterCode.USER_CHANNEL, "a message of a user channel", message.where + key
            )
    udid = _agreed_id(server_fields, "udid", message, "UDID")
    enrollment = _agreed_id(server_fields, "enrollment_id", message, "EnrollmentID")
    device_key = udid or enrollment
    if device_key is None:
        raise PayloadError(
            DeadLetterCode.NO_DEVICE, "neither a UDID nor an enrollment id", message.where + "UDID"
        )
    if udid is not None and _SHA1_UDID.fullmatch(udid):
        raise PayloadError(
            DeadLetterCode.NOT_A_MAC, "the UDID has the form of another Apple product"
        )
    if "UnlockToken" in message:
        raise PayloadError(DeadLetterCode.NOT_A_MAC, "a Mac has no UnlockToken; iOS and iPadOS do")
    refuse_other_products(message.text("ProductName", "Model"))
    server_id = own_id or message.text("EnrollmentID")
    return Enrollment(device_key, server_id, kind or ("Device" if udid else _BYOD))


def _agreed_id(server_fields: Fields, server_name: str, message: Fields, name: str) -> str | None:
    """Return the id in upper case: the message's under `name`, else the server's.

    The server's is under `server_name`. None if neither is present and valid; an invalid id is
    recorded as a problem. Raises PayloadError `bad_value` if both are valid and differ.
    """
    server_value, own_value = server_fields.udid(server_name), message.udid(name)
    if server_value is not None and own_value is not None and server_value != own_value:
        raise PayloadError(
            DeadLetterCode.BAD_VALUE,
            "the server and the message name different devices",
            server_fields.where + server_name,
        )
    return own_value or server_value
