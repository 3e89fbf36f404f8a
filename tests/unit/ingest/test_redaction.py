"""Secrets are cut out of everything that is kept, and their fingerprints show a change."""

import base64
import json
import plistlib
from typing import Any

import pytest

from pipeline.ingest.redaction import FINGERPRINT_PREFIX, Redactor, is_secret

KEY = b"0123456789abcdef"
REDACTOR = Redactor(KEY)
SECRET = b"\x00\x01secret-of-this-mac\xff"


def test_refuses_a_key_that_can_be_guessed() -> None:
    with pytest.raises(ValueError, match="16 bytes"):
        Redactor(b"short")


@pytest.mark.parametrize(
    "name",
    [
        "Token",
        "PushMagic",
        "UnlockToken",
        "BootstrapToken",
        "PIN",
        "NewPassword",
        "FDE_PersonalRecoveryKeyCMS",
        "push-token",
        "push_token",
        "node_key",
        "password",
    ],
)
def test_names_on_the_list_are_secret(name: str) -> None:
    assert is_secret(name)


@pytest.mark.parametrize(
    "name",
    [
        "ServerToken",
        "server-token",
        "PINRequiredForEraseDevice",
        "FDE_HasPersonalRecoveryKey",
        "BootstrapTokenAllowedForAuthentication",
        "PasscodePresent",
        "FirmwarePasswordStatus",
        "SerialNumber",
    ],
)
def test_names_that_only_resemble_the_list_are_kept(name: str) -> None:
    assert not is_secret(name)


def test_a_name_is_secret_however_long_it_is_drawn() -> None:
    drawn = "_".join("BootstrapToken") + 100 * "-"
    assert REDACTOR.cut({drawn: "s3cret"})[drawn].startswith(FINGERPRINT_PREFIX)


def test_equal_secrets_have_equal_fingerprints_and_others_do_not() -> None:
    one = REDACTOR.fingerprint("Token", SECRET)
    assert one.startswith(FINGERPRINT_PREFIX)
    assert len(one) == len(FINGERPRINT_PREFIX) + 16
    assert one == REDACTOR.fingerprint("Token", SECRET)
    assert one == REDACTOR.fingerprint("token", SECRET)
    others = {
        REDACTOR.fingerprint("PushMagic", SECRET),
        REDACTOR.fingerprint("Token", SECRET + b"!"),
        Redactor(KEY[::-1]).fingerprint("Token", SECRET),
    }
    assert one not in others
    assert len(others) == 3


def test_cuts_at_any_depth_and_leaves_the_rest() -> None:
    value = {"a": [{"b": {"Password": "hunter2", "PIN": 123456}}], "Token": b"", "c": 1}
    cut = REDACTOR.cut(value)
    assert cut["a"][0]["b"] == {
        "Password": REDACTOR.fingerprint("Password", "hunter2"),
        "PIN": REDACTOR.fingerprint("PIN", 123456),
    }
    assert cut["Token"] == b""
    assert cut["c"] == 1


@pytest.mark.parametrize(
    "secret", [b"bytes", "text", 123456, 1.5, ["list", b"of"], {"salt": b"x", "n": 3}]
)
def test_a_secret_of_any_type_becomes_a_fingerprint(secret: Any) -> None:
    assert REDACTOR.cut({"Password": secret})["Password"].startswith(FINGERPRINT_PREFIX)


def _envelope(payload: bytes) -> dict[str, Any]:
    return {"checkin_event": {"raw_payload": base64.b64encode(payload).decode()}}


def _inner(cut: dict[str, Any]) -> str:
    raw = cut["checkin_event"]["raw_payload"]
    assert isinstance(raw, str)
    return raw


@pytest.mark.parametrize("fmt", [plistlib.FMT_XML, plistlib.FMT_BINARY], ids=["xml", "binary"])
def test_cuts_inside_the_base64_plist_of_a_webhook(fmt: plistlib.PlistFormat) -> None:
    payload = plistlib.dumps({"Token": SECRET, "UDID": "U"}, fmt=fmt)
    inner = plistlib.loads(base64.b64decode(_inner(REDACTOR.cut(_envelope(payload)))))
    assert inner == {"Token": REDACTOR.fingerprint("Token", SECRET), "UDID": "U"}


def test_cuts_inside_the_status_report_of_a_plist_of_a_webhook() -> None:
    status = json.dumps({"StatusItems": {"management": {"push-token": "c2VjcmV0"}}}).encode()
    payload = plistlib.dumps({"Endpoint": "status", "Data": status})
    inner = plistlib.loads(base64.b64decode(_inner(REDACTOR.cut(_envelope(payload)))))
    token = json.loads(inner["Data"])["StatusItems"]["management"]["push-token"]
    assert token == REDACTOR.fingerprint("push-token", "c2VjcmV0")


@pytest.mark.parametrize(
    "payload",
    [b"", b"not a plist: Token=secret", b"<plist><dict><key>Token</key>", b"bplist00secret"],
    ids=["empty", "text", "cut-off", "binary"],
)
def test_a_payload_that_cannot_be_searched_becomes_a_fingerprint(payload: bytes) -> None:
    inner = _inner(REDACTOR.cut(_envelope(payload)))
    assert inner == "" if not payload else inner.startswith(FINGERPRINT_PREFIX)


def test_a_raw_payload_that_is_not_base64_becomes_a_fingerprint() -> None:
    cut = REDACTOR.cut({"raw_payload": "Token: secret"})
    assert cut["raw_payload"].startswith(FINGERPRINT_PREFIX)


def test_cuts_inside_json_in_text_and_keeps_text_that_only_looks_like_it() -> None:
    cut = REDACTOR.cut({"note": '{"password": "hunter2"}', "name": "[Lab] Mac 3", "x": "{a=b"})
    assert json.loads(cut["note"]) == {"password": REDACTOR.fingerprint("password", "hunter2")}
    assert cut["name"] == "[Lab] Mac 3"
    assert cut["x"].startswith(FINGERPRINT_PREFIX)


@pytest.mark.parametrize(("documents", "levels"), [(7, 60), (200, 0)], ids=["deep", "many"])
def test_documents_nested_without_end_are_cut_whole(documents: int, levels: int) -> None:
    document = b'{"password": "hunter2"}'
    for _ in range(documents):
        nested: Any = document
        for _ in range(levels):
            nested = [nested]
        document = plistlib.dumps({"Data": nested}, fmt=plistlib.FMT_BINARY)
    kept = REDACTOR.plist(plistlib.loads(document))
    assert b"hunter2" not in kept
    assert base64.b64encode(b"hunter2")[:8] not in kept
    assert len(kept) < 50_000


def test_text_that_xml_cannot_hold_is_kept_as_a_binary_plist() -> None:
    kept = REDACTOR.plist({"DeviceName": "bell\x07", "Token": SECRET})
    assert kept.startswith(b"bplist00")
    assert SECRET not in kept
    assert plistlib.loads(kept)["DeviceName"] == "bell\x07"
