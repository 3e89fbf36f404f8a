"""Secrets, known by their name or by their form, and their replacement by fingerprints.

Payloads are redacted before any part of them is kept or published. Redaction works on parsed
structures only. Bytes that cannot be parsed cannot be searched and are not kept
(`make_dead_letter` without `redacted`).
"""

import base64
import hashlib
import hmac
import json
import plistlib
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any, Final

from pipeline.ingest.json_payload import load_json
from pipeline.ingest.plist_payload import dump_plist, load_plist
from pipeline.ingest.secret_forms import has_secret, replace_secrets
from pipeline.ingest.translation import PayloadError

MIN_KEY_BYTES: Final = 16
FINGERPRINT_PREFIX: Final = "hmac-sha256:"

# Names by format, as its documents spell them. A whole name matches, at any depth and in every
# format, without regard to case, `_`, `-`, `.`, `/` and spaces.
SECRET_FIELDS: Final[Mapping[str, tuple[str, ...]]] = {
    # github.com/apple/device-management, mdm/checkin
    "MDM check-in": (
        "Token",
        "PushMagic",
        "UnlockToken",
        "BootstrapToken",
        "Challenge",
        "DigestChallenge",
        "DigestResponse",
        "AuthToken",
        "TokenData",
        "PairingToken",
    ),
    # mdm/commands: responses, and requests that a file may contain
    "MDM command": (
        "PIN",
        "Password",
        "NewPassword",
        "CurrentPassword",
        "OldPassword",
        "PasswordHash",
        "Passcode",
        "UserPassword",
        "AdminPassword",
        "RemovalPassword",
        "FirmwarePassword",
        "RecoveryLockPassword",
        "PushToken",
        "AccessToken",
        "EnrollmentToken",
        "SharedSecret",
        "PrivateKey",
        "ActivationLockBypassCode",
        "BypassCode",
        "EscrowKey",
        "UnlockKey",
        "DeviceLockPIN",
    ),
    # mdm/commands/information.security.yaml and security.filevault.*, and names of escrow servers
    "FileVault": (
        "FDE_PersonalRecoveryKeyCMS",
        "FDE_PersonalRecoveryKeyDeviceKey",
        "PersonalRecoveryKey",
        "PersonalRecoveryKeyCMS",
        "InstitutionalRecoveryKey",
        "EncryptedNewRecoveryKey",
        "NewRecoveryKey",
        "RecoveryKey",
        "FVPassword",
        "PrivateKeyExport",
        "PrivateKeyExportPassword",
        "ReplyEncryptionKey",
    ),
    # declarative/status: management.push-token
    "DDM status": ("push-token",),
    # developer.jamf.com documents no secret in a webhook; these names would be in an extended body
    "Jamf": ("managementPassword", "apiPassword", "scepChallenge", "scepPassword"),
    # osquery: the TLS logger's body, and columns of tables with credentials
    "osquery": (
        "node_key",
        "enroll_secret",
        "password_hash",
        "passwd",
        "secret",
        "client_secret",
        "secret_access_key",
        "api_key",
        "api_token",
        "private_key",
        "refresh_token",
        "session_token",
        "bearer_token",
        "filevault_key",
        "base64_encrypted",
        "SecretKey",
    ),
    # Munki preferences; the output of conditions can repeat them
    "Munki": ("AdditionalHttpHeaders", "ClientCertificatePassword", "Authorization"),
}


# A name with one of these parts is secret in any payload: `wifi_password`, `apiToken2`.
_SECRET_PARTS: Final = (
    "password",
    "passwd",
    "passphrase",
    "adminpass",
    "recoverykey",
    "privatekey",
    "secret",
    "apikey",
    "apitoken",
    "accesstoken",
    "credential",
    "bearer",
    "cookie",
    "pwd",
)
# A name with this ending describes a secret and has none: `FirmwarePasswordStatus`.
_ABOUT_A_SECRET: Final = (
    "age",
    "allowed",
    "changed",
    "compliant",
    "count",
    "enabled",
    "exists",
    "policy",
    "present",
    "required",
    "state",
    "status",
)
_SECRET_PART: Final = re.compile(
    rf"(?<!has)(?<!haspersonal)(?<!hasinstitutional)(?:{'|'.join(_SECRET_PARTS)})"
)
# In a row of two fields, such as osquery's `plist` and `preferences` tables, the one names the
# other.
_NAMING_FIELDS: Final = (
    "key",
    "subkey",
    "name",
    "attribute",
    "field",
    "label",
    "option",
    "property",
    "setting",
    "variable",
)
_NAMED_FIELDS: Final = frozenset(
    {"value", "values", "val", "data", "content", "contents", "line", "string", "text", "default"}
)


def _normalized(name: str) -> str:
    """Return a field's name without `_`, `-`, `.`, `/` and spaces, in lower case."""
    return name.translate(_IGNORED).casefold()


_IGNORED: Final = str.maketrans("", "", "_-./ ")
_SECRET_NAMES: Final = frozenset(
    _normalized(name) for names in SECRET_FIELDS.values() for name in names
)
# Bytes and text that start like this are another document, whose fields must be searched too.
_DOCUMENT_STARTS: Final = (b"{", b"[", b"<?xml", b"<plist", b"<!DOCTYPE", b"bplist00")
_BASE64_DOCUMENT: Final = "raw_payload"
_BASE64: Final = re.compile(r"[A-Za-z0-9+/_\s-]{16,}=*", re.ASCII)
_TO_STANDARD_BASE64: Final = str.maketrans("-_", "+/", "= \t\r\n\f\v")
_SHORTEST_RUN: Final = 16
_BASE64_RUN: Final = re.compile(rf"[A-Za-z0-9+/]{{{_SHORTEST_RUN},}}", re.ASCII)
_BASE64_START: Final = re.compile(rb'(?:\xef\xbb\xbf)?\s*(?:[{\[]\s*["{\[]|<[?!p]|bplist00)')
# A random text matches once in a million.
_READABLE: Final = re.compile(rb"[\t\n\r -~]{16,}")
_FIELD_MARK: Final = re.compile(rb'[:=">]')
_STATUS_DATA: Final = "Data"
# The limit on nested levels, over all documents within each other: each level takes three frames
# of Python's stack. A document counts as 32 levels: base64 makes it a third larger, and again for
# each document around it.
_MAX_LEVELS: Final = 150
_DOCUMENT_LEVELS: Final = 32


def is_secret(name: str) -> bool:
    """Return True if a field of this name is on the list of secrets, or has a secret part.

    Case, `_`, `-`, `.`, `/` and spaces in the name do not count.
    """
    normalized = _normalized(name)
    return normalized in _SECRET_NAMES or (
        _SECRET_PART.search(normalized) is not None and not normalized.endswith(_ABOUT_A_SECRET)
    )


def hides_document(text: str) -> bool:
    """Return True if a text seems to contain base64 of a JSON document or a property list.

    Each run of at least 16 base64 characters is decoded. True comes if the run starts like a
    document, or if any piece of it is readable text of at least 16 characters with a mark of a
    field (`:`, `=`, `"` or `>`), wherever the piece begins. Any other text gives False.
    """
    if len(text) < _SHORTEST_RUN:
        return False
    for run in _BASE64_RUN.finditer(text):
        for shift in range(4):
            whole = (len(run[0]) - shift) // 4 * 4
            raw = base64.b64decode(run[0][shift : shift + whole])
            if shift == 0 and _BASE64_START.match(raw):
                return True
            if any(_FIELD_MARK.search(piece) for piece in _READABLE.findall(raw)):
                return True
    return False


def _classify_name(name: str) -> tuple[bool, bool]:
    """Return whether a field's name is free of secrets itself, and whether it names a secret.

    A document in base64 could hide a secret; another secret is known by its form. A name over
    `_MAX_NAME` characters is no field of any format, and is not searched.
    """
    if len(name) > _MAX_NAME:
        return False, False
    return not hides_document(name) and not has_secret(name), is_secret(name)


# Documents repeat the same few names. The cache is limited in number and in length of names.
_classify_short_name: Final = lru_cache(maxsize=4096)(_classify_name)
_MAX_CACHED_NAME: Final = 64
_MAX_NAME: Final = 1024


class Redactor:
    """Replaces each secret by a fingerprint under one key.

    Equal secrets of one field give equal fingerprints, so that a change of the secret remains
    visible. Without the key a fingerprint reveals nothing. Raises ValueError for a key under 16
    bytes: with a guessable key every PIN could be tried.
    """

    def __init__(
        self,
        key: bytes,
        read_plist: Callable[[bytes], Any] = load_plist,
        read_json: Callable[[bytes], Any] = load_json,
    ) -> None:
        if len(key) < MIN_KEY_BYTES:
            raise ValueError(f"a redaction key must have at least {MIN_KEY_BYTES} bytes")
        self._key = bytes(key)
        self._read_plist = read_plist
        self._read_json = read_json

    def with_readers(
        self, read_plist: Callable[[bytes], Any], read_json: Callable[[bytes], Any]
    ) -> "Redactor":
        """Return a redactor with the same key, which reads documents inside values with these.

        They return what is to be kept of a plist and of JSON, and raise PayloadError like
        `load_plist` and `load_json`.
        """
        return Redactor(self._key, read_plist, read_json)

    def fingerprint(self, field: str, value: object) -> str:
        """Return `hmac-sha256:` and 16 hex digits over the field's name and the value's bytes.

        Names that differ only in case, `_`, `-` and spaces give one value the same fingerprint.
        """
        name = _normalized(field).encode("utf-8", "surrogatepass")
        message = len(name).to_bytes(4, "big") + name + _bytes_of(value)
        digest = hmac.new(self._key, message, hashlib.sha256).hexdigest()
        return FINGERPRINT_PREFIX + digest[:16]

    def cut(self, value: Any) -> Any:
        """Return a copy of a parsed plist or JSON value with a fingerprint in place of each secret.

        Documents inside the value are searched too: NanoMDM's base64 `raw_payload`, a status report
        in a plist's `Data`, JSON or a plist in any bytes, in any text, or in base64 in any text.
        They are written again without their secrets. A document that cannot be parsed becomes a
        fingerprint, as do a text with a piece of a document in base64, a field whose name has one,
        and a dict, a list or a document nested too deep. A text that only starts like a document is
        kept if it has no mark of a field. A field `value` (or `data`, `line`, ...) beside a field
        `key` (or `name`, ...) that names a secret is one. In texts, recovery keys, private keys,
        passwords in URLs and values of Authorization are known by their form. Secrets that are
        None, empty or a boolean are kept: they reveal nothing.
        """
        return self._cut(value, 0)

    def text(self, text: str) -> str:
        """Return a text with a fingerprint in place of each secret that is known by its form."""
        return replace_secrets(text, lambda secret: self.fingerprint("text", secret))

    def json(self, value: Any) -> bytes:
        """Return the compact UTF-8 JSON of a parsed JSON value, with fingerprints for its secrets.

        Documents inside the value are redacted too.
        """
        return json.dumps(self.cut(value), ensure_ascii=False, separators=(",", ":")).encode()

    def plist(self, value: Any) -> bytes:
        """Return the plist bytes of a parsed plist value, with fingerprints for its secrets.

        Documents inside the value are redacted too. The bytes are XML, or binary if XML cannot
        represent the redacted value.
        """
        return dump_plist(self.cut(value))

    def _cut(self, value: Any, depth: int) -> Any:
        """Return a copy of the value with a fingerprint in place of each secret.

        Documents inside the value are written again without their secrets. `depth` counts the
        levels around the value; a dict or list with more than _MAX_LEVELS becomes a fingerprint.
        """
        if isinstance(value, dict | list) and depth > _MAX_LEVELS:
            return self.fingerprint("nested", value)
        if isinstance(value, dict):
            secret = _named_secret(value)
            return dict(
                self._field(key, item, value, depth + 1)
                if secret is None or key.casefold() not in _NAMED_FIELDS
                else (key, self._secret(secret, item))
                for key, item in value.items()
            )
        if isinstance(value, list):
            return [self._cut(item, depth + 1) for item in value]
        if isinstance(value, bytes) and _is_document(value):
            return self._document(_STATUS_DATA, value, depth)
        if isinstance(value, str):
            return self._text(value, depth)
        return value

    def _field(self, key: str, value: Any, parent: dict[str, Any], depth: int) -> tuple[str, Any]:
        """Return the name and the value of a field of `parent`, both without secrets.

        The value of a secret field becomes a fingerprint, unless it is None, empty or a boolean;
        other values are searched. A name that seems to contain a document in base64 could hide the
        name of a secret: name and value become fingerprints, as do those of a name over 1,024
        characters.
        """
        is_readable, is_named_secret = (
            _classify_short_name(key) if len(key) <= _MAX_CACHED_NAME else _classify_name(key)
        )
        if not is_readable:
            return self.fingerprint("name", key), self.fingerprint("value", value)
        if is_named_secret:
            return key, self._secret(key, value)
        if key == _BASE64_DOCUMENT and isinstance(value, str) and value:
            return key, self._base64_document(key, value, depth)
        if key == _STATUS_DATA and "Endpoint" in parent and isinstance(value, bytes) and value:
            return key, self._document(key, value, depth)
        return key, self._cut(value, depth)

    def _secret(self, name: str, value: Any) -> Any:
        """Return the fingerprint of a secret; None, an empty value or a boolean as it is."""
        return self.fingerprint(name, value) if _has_content(value) else value

    def _text(self, value: str, depth: int) -> str:
        """Return a text without secrets; it may be JSON or a plist, as it is or in base64.

        A document is written again without its secrets; one that cannot be parsed or is nested too
        deep becomes a fingerprint, as does a text with only a piece of a document in base64. A text
        that only starts like a document, such as the device name `[Lab] 3`, is kept if it has no
        mark of a field. In any other text, secrets known by their form become fingerprints.
        """
        if _is_document(value[:64].encode("utf-8", "replace")):
            raw = value.encode("utf-8", "replace")
            cut = self._document("text", raw, depth)
            if isinstance(cut, bytes):
                return cut.decode("utf-8", "replace")
            return cut if _FIELD_MARK.search(raw) else value
        if hides_document(value):
            return self._base64_document("text", value, depth)
        return self.text(value)

    def _base64_document(self, key: str, value: str, depth: int) -> str:
        """Return the base64 of the document in `value` without its secrets.

        The result is a fingerprint, under the field's name `key`, if `value` is not base64, or if
        its document cannot be parsed or is nested too deep.
        """
        raw = _from_base64(value)
        if not raw:
            return self.fingerprint(key, value)
        cut = self._document(key, raw, depth)
        return base64.b64encode(cut).decode() if isinstance(cut, bytes) else cut

    def _document(self, key: str, raw: bytes, depth: int) -> bytes | str:
        """Return the bytes of this JSON document or plist, written again without its secrets.

        A plist is written by `dump_plist`. The result is a text, a fingerprint under the field's
        name `key`, if the document cannot be parsed or is nested too deep.
        """
        inside = depth + _DOCUMENT_LEVELS
        if inside > _MAX_LEVELS:
            return self.fingerprint(key, raw)
        try:
            if raw.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] in (b"{", b"["):
                value = self._cut(self._read_json(raw), inside)
                return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
            return dump_plist(self._cut(self._read_plist(raw), inside))
        except PayloadError:
            return self.fingerprint(key, raw)


def _named_secret(fields: dict[str, Any]) -> str | None:
    """Return the name of the secret whose value is in another field of this dict; None without."""
    for key in _NAMING_FIELDS:
        name = fields.get(key)
        if isinstance(name, str) and is_secret(name):
            return name
    return None


def _is_document(raw: bytes) -> bool:
    """Return True if these bytes start like a JSON document or a property list."""
    return raw.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(_DOCUMENT_STARTS)


def _from_base64(text: str) -> bytes:
    """Return the bytes of base64; b"" if the text is not base64 or is under 16 characters.

    Both alphabets are accepted, with or without line breaks, padded or cut off.
    """
    if _BASE64.fullmatch(text.rstrip()) is None:
        return b""
    packed = text.translate(_TO_STANDARD_BASE64)
    whole = len(packed) - (len(packed) % 4 == 1)
    return base64.b64decode(packed[:whole] + "=" * (-whole % 4), validate=True)


def _has_content(value: object) -> bool:
    """Return False for None, empty values and booleans, which reveal nothing as secrets; else True.

    The number 0 gives True.
    """
    return value is not None and value not in ("", b"", [], {}) and not isinstance(value, bool)


def _bytes_of(value: object) -> bytes:
    """Return the bytes to fingerprint: bytes as they are, text as UTF-8, other values as JSON."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    return json.dumps(value, sort_keys=True, default=_written).encode()


def _written(value: object) -> str:
    """Return a value that JSON lacks as text: bytes in base64, a time in ISO 8601, else `str`."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, datetime):
        return value.isoformat()
    assert not isinstance(value, plistlib.UID)  # load_plist refuses them
    return str(value)
