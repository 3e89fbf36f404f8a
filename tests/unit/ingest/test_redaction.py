"""Secrets are cut out of all kept data, and their fingerprints show a change."""

import base64
import json
import plistlib
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from pipeline.ingest.redaction import (
    FINGERPRINT_PREFIX,
    SECRET_FIELDS,
    Redactor,
    hides_document,
    is_secret,
)
from tests.unit.ingest.secret_names import SECRET_NAMES

KEY = b"0123456789abcdef"
REDACTOR = Redactor(KEY)
SECRET = b"\x00\x01secret-of-this-mac\xff"


def test_a_short_key_is_refused() -> None:
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
        "adminPass",
        "wifi_password",
        "apiToken2",
        "filevault_recovery_key",
        "Pass.word",
        "pass/word",
        "lapsPassword",
        "SecretKey",
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
        "password_age",
        "FDE_HasInstitutionalRecoveryKey",
        "SerialNumber",
    ],
)
def test_names_that_only_resemble_the_list_are_kept(name: str) -> None:
    assert not is_secret(name)


def test_a_name_with_many_separators_is_secret() -> None:
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


def test_secrets_are_cut_at_any_depth_and_the_rest_is_kept() -> None:
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
def test_secrets_are_cut_inside_the_base64_plist_of_a_webhook(fmt: plistlib.PlistFormat) -> None:
    payload = plistlib.dumps({"Token": SECRET, "UDID": "U"}, fmt=fmt)
    inner = plistlib.loads(base64.b64decode(_inner(REDACTOR.cut(_envelope(payload)))))
    assert inner == {"Token": REDACTOR.fingerprint("Token", SECRET), "UDID": "U"}


def test_secrets_are_cut_inside_the_status_report_of_a_plist_of_a_webhook() -> None:
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


def test_secrets_are_cut_inside_json_in_text_and_text_that_only_looks_like_json_is_kept() -> None:
    cut = REDACTOR.cut({"note": '{"password": "hunter2"}', "name": "[Lab] Mac 3", "x": "{a=b"})
    assert json.loads(cut["note"]) == {"password": REDACTOR.fingerprint("password", "hunter2")}
    assert cut["name"] == "[Lab] Mac 3"
    assert cut["x"].startswith(FINGERPRINT_PREFIX)


@pytest.mark.parametrize(("documents", "levels"), [(7, 60), (200, 0)], ids=["deep", "many"])
def test_documents_nested_too_deep_become_a_fingerprint(documents: int, levels: int) -> None:
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


def test_text_that_xml_cannot_represent_is_kept_as_a_binary_plist() -> None:
    kept = REDACTOR.plist({"DeviceName": "bell\x07", "Token": SECRET})
    assert kept.startswith(b"bplist00")
    assert SECRET not in kept
    assert plistlib.loads(kept)["DeviceName"] == "bell\x07"


@pytest.mark.parametrize("name", SECRET_NAMES)
def test_every_name_of_a_secret_is_cut(name: str) -> None:
    for spelling in (name, name.upper(), name.replace("_", "-"), " ".join(name)):
        assert REDACTOR.cut({spelling: "hunter2"})[spelling].startswith(FINGERPRINT_PREFIX)


def test_the_declared_list_is_the_one_that_is_tested() -> None:
    declared = [name for names in SECRET_FIELDS.values() for name in names]
    assert sorted(declared) == sorted(SECRET_NAMES)


def test_a_key_of_sixteen_bytes_is_enough_and_one_less_is_not() -> None:
    assert Redactor(KEY[:16]).fingerprint("Token", "a").startswith(FINGERPRINT_PREFIX)
    with pytest.raises(ValueError, match="16 bytes"):
        Redactor(KEY[:15])


@pytest.mark.parametrize("padding", [0, 60], ids=["usual length", "long"])
def test_a_name_with_a_document_in_base64_is_cut_with_its_value(padding: int) -> None:
    document = json.dumps({"password": "hunter2", "pad": "x" * padding}).encode()
    name = base64.b64encode(document).decode()
    cut = REDACTOR.cut({name: "of hunter2", "UDID": "U"})
    assert cut == {
        REDACTOR.fingerprint("name", name): REDACTOR.fingerprint("value", "of hunter2"),
        "UDID": "U",
    }


PIECES = [
    pytest.param(b'{"password":', 0, True, id="start-of-json"),
    pytest.param(b'\xef\xbb\xbf [{"a": 1}]', 0, True, id="mark-and-space-before"),
    pytest.param(b"<?xml version=", 0, True, id="start-of-xml"),
    pytest.param(b"bplist00" + bytes(8), 0, True, id="start-of-a-binary-plist"),
    pytest.param(b"\xff\xfe" + b'the password": "x"', 0, True, id="readable-piece"),
    *(pytest.param(b'the password": "hunter2"', n, True, id=f"begins-{n}-in") for n in (1, 2, 3)),
    pytest.param(b"sixteen readable", 0, False, id="readable-without-a-field"),
    pytest.param(b'\xff\xfea": b\xff\xfec": d\xff', 0, False, id="pieces-too-short"),
    pytest.param(b"\xff" * 24, 0, False, id="not-readable"),
]


@pytest.mark.parametrize(("raw", "before", "hides"), PIECES)
def test_base64_of_a_piece_of_a_document_is_found(raw: bytes, before: int, hides: bool) -> None:
    text = "A" * before + base64.b64encode(raw).decode()
    assert hides_document(text) is hides
    assert hides_document(f"note: {text}!") is hides


def test_text_under_sixteen_characters_is_not_searched_for_documents() -> None:
    assert hides_document(base64.b64encode(b'{"a":"b","c"').decode())
    assert not hides_document(base64.b64encode(b'{"a":"b","c"').decode()[:15])


@pytest.mark.parametrize("empty", [None, "", b"", [], {}, True, False])
def test_an_empty_secret_is_kept(empty: Any) -> None:
    assert REDACTOR.cut({"Password": empty}) == {"Password": empty}


def test_a_fingerprint_separates_name_and_value() -> None:
    assert REDACTOR.fingerprint("ab", "c") != REDACTOR.fingerprint("a", "bc")
    assert REDACTOR.fingerprint("a", "text") == REDACTOR.fingerprint("a", b"text")
    noon = datetime(2026, 1, 20, 12, tzinfo=UTC)
    one = {"n": 1, "raw": b"r", "at": noon, "uid": 2.5}
    other = {"uid": 2.5, "at": noon, "raw": b"r", "n": 1}
    assert REDACTOR.fingerprint("a", one) == REDACTOR.fingerprint("a", other)
    for change in ({"raw": b"s"}, {"at": noon.replace(hour=13)}, {"n": 2}):
        assert REDACTOR.fingerprint("a", one) != REDACTOR.fingerprint("a", one | change)


def nested(levels: int) -> Any:
    value: Any = "text"
    for _ in range(levels):
        value = [value]
    return value


def test_nesting_is_kept_up_to_the_limit_and_cut_beyond_it() -> None:
    assert REDACTOR.cut(nested(151)) == nested(151)
    cut = REDACTOR.cut(nested(152))
    for _ in range(151):
        (cut,) = cut
    assert cut == REDACTOR.fingerprint("nested", ["text"])


def test_documents_within_documents_are_searched_four_deep() -> None:
    text = json.dumps({"password": "hunter2", "kept": 1})
    for _ in range(3):
        text = json.dumps({"inside": text})
    inside = json.loads(REDACTOR.cut(text))
    for _ in range(3):
        inside = json.loads(inside["inside"])
    assert inside == {"password": REDACTOR.fingerprint("password", "hunter2"), "kept": 1}
    deeper = json.dumps({"inside": text})
    assert b"hunter2" not in REDACTOR.json(deeper)
    assert FINGERPRINT_PREFIX.encode() in REDACTOR.json(deeper)


def test_a_status_report_is_searched_only_beside_its_endpoint() -> None:
    unreadable = b"Token=secret"
    beside = REDACTOR.cut({"Endpoint": "status", "Data": unreadable})
    assert beside["Data"] == REDACTOR.fingerprint("Data", unreadable)
    assert REDACTOR.cut({"Data": unreadable}) == {"Data": unreadable}
    assert REDACTOR.cut({"Endpoint": "status", "Data": b""})["Data"] == b""


def test_a_redactor_with_other_readers_has_the_same_key() -> None:
    read: list[bytes] = []

    def reader(raw: bytes) -> Any:
        read.append(raw)
        return {"Token": "seen"}

    document = plistlib.dumps({"a": 1})
    cut = REDACTOR.with_readers(reader, reader).cut({"note": document})
    assert read == [document]
    assert plistlib.loads(cut["note"]) == {"Token": REDACTOR.fingerprint("Token", "seen")}


def test_json_is_written_without_spaces_and_without_escapes() -> None:
    assert REDACTOR.json({"a": ["ü", 1]}) == '{"a":["ü",1]}'.encode()


def test_a_document_in_text_that_utf_8_cannot_write_is_searched() -> None:
    cut = REDACTOR.cut('{"password": "hunter2", "name": "\ud800"}')
    assert json.loads(cut) == {"password": REDACTOR.fingerprint("password", "hunter2"), "name": "?"}
    assert REDACTOR.cut("\ud800 no document") == "\ud800 no document"


def test_a_value_that_json_cannot_write_is_fingerprinted_by_its_text() -> None:
    one, two = ({"n": Decimal(number)} for number in (1, 2))
    assert REDACTOR.fingerprint("a", one) == REDACTOR.fingerprint("a", {"n": Decimal(1)})
    assert REDACTOR.fingerprint("a", one) != REDACTOR.fingerprint("a", two)


@pytest.mark.parametrize(
    ("row", "secret"),
    [
        ({"key": "AdditionalHttpHeaders", "value": "X-Auth: abc"}, "X-Auth: abc"),
        ({"name": "db_password", "value": "hunter2", "path": "/etc/x"}, "hunter2"),
        ({"subkey": "api_key", "data": "k-123"}, "k-123"),
        ({"attribute": "Recovery Key", "content": ["AAAA"]}, "AAAA"),
    ],
)
def test_a_value_beside_the_name_of_a_secret_is_one(row: dict[str, Any], secret: str) -> None:
    kept = REDACTOR.json({"columns": row}).decode()
    assert secret not in kept
    assert FINGERPRINT_PREFIX in kept


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("<string>AB12-CD34-EF56-7890-ABCD-EF12</string>", "AB12-CD34-EF56-7890-ABCD-EF12"),
        ("recovery: ab12-cd34-ef56-7890-abcd-ef12.", "ab12-cd34"),
        ("https://munki:s3cr3t@repo.example.org/x", "s3cr3t"),
        ("smb://user:p@ss@host/share", "p@ss"),
        ("Authorization: Basic YTpi", "YTpi"),
        ("curl -H 'authorization: Token x' host", "Token x"),
        ("sent Bearer abc.def-123", "abc.def-123"),
        ("export DB_PASSWORD=hunter2", "hunter2"),
        ("client_secret: abc,", "abc"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIB\n-----END RSA PRIVATE KEY-----\n", "MIIB"),
        ("-----BEGIN PRIVATE KEY-----\nMIIC", "MIIC"),
    ],
)
def test_a_secret_in_a_text_is_known_by_its_form(text: str, secret: str) -> None:
    kept = REDACTOR.cut({"line": text})["line"]
    assert secret not in kept
    assert FINGERPRINT_PREFIX in kept
    assert REDACTOR.cut({"line": kept})["line"] == kept


@pytest.mark.parametrize(
    "text",
    [
        "https://swcdn.apple.com/content/a:b",
        "Basic Authentication failed",
        "11111111-AAAA-4000-8000-000000000001",
        "com.apple.configuration.softwareupdate",
        "Error: no password was given",
    ],
)
def test_a_text_that_only_resembles_a_secret_is_kept(text: str) -> None:
    assert REDACTOR.cut(text) == text
