"""No secret of any payload is in a published or stored record, in any encoding."""

import base64
import json
import plistlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pipeline.ingest.redaction import is_secret
from pipeline.ingest.translation import Translation
from schemas.envelope import encode
from tests.unit.ingest.device_bodies import REDACTOR, UDID, kept, plist, translate, webhook
from tests.unit.ingest.hostile_payloads import mutated, samples
from tests.unit.ingest.secret_names import SECRET_NAMES

NAMES = sorted(SECRET_NAMES)
# Long enough not to appear by chance. Not text: Hypothesis draws words of our own source.
SECRETS = st.binary(min_size=12, max_size=40).map(lambda secret: b"\xff" + secret)


def spellings(secret: bytes) -> Iterator[bytes]:
    """Yield the secret as bytes, as hex, and as base64 at each offset in a longer text."""
    yield secret
    yield secret.hex().encode()
    yield secret.hex().upper().encode()
    for shift in range(3):
        text = base64.b64encode(bytes(shift) + secret)
        # Only the characters that encode no bit of the bytes before the secret.
        inside = text[-(-shift * 8 // 6) : (shift + len(secret)) * 8 // 6]
        yield inside
        yield inside.replace(b"+", b"-").replace(b"/", b"_")


def layers(raw: bytes, depth: int = 0) -> Iterator[bytes]:
    """Yield the bytes, and the decoded bytes of each base64 text in them, to four levels."""
    yield raw
    if depth < 4:
        for found in re.findall(rb"[A-Za-z0-9+/]{16,}={0,2}", re.sub(rb"\s", b"", raw)):
            text = found.rstrip(b"=")
            whole = text[: len(text) // 4 * 4]
            yield from layers(base64.b64decode(whole), depth + 1)


def everything(translation: Translation) -> bytes:
    """Return all output of a translation, with base64 in it decoded."""
    parts: list[bytes] = []
    for item in (*translation.events, *translation.dead_letters):
        parts.append(item.model_dump_json().encode())
        parts.append(kept(item) or b"")
    parts += [encode(event) for event in translation.events]
    return b"\n".join(layer for part in parts for layer in layers(part))


def assert_removed(secret: bytes, translation: Translation) -> None:
    left = everything(translation)
    for spelling in spellings(secret):
        assert spelling not in left


@given(
    name=st.sampled_from(NAMES),
    secret=SECRETS,
    fmt=st.sampled_from([plistlib.FMT_XML, plistlib.FMT_BINARY]),
    kind=st.sampled_from(["Authenticate", "TokenUpdate", "CheckOut", "Unknown"]),
    at_depth=st.integers(0, 5),
)
def test_secret_is_removed_from_any_field_of_a_message(
    name: str, secret: bytes, fmt: plistlib.PlistFormat, kind: str, at_depth: int
) -> None:
    planted: Any = {name: secret, "also": {name: base64.b64encode(secret).decode()}}
    for _ in range(at_depth):
        planted = [planted, {"inside": planted}]
    message = {"MessageType": kind, "UDID": UDID, "planted": planted, name: secret.hex()}
    raw = webhook(f"mdm.{kind}", plist(message, fmt))
    for body in (raw, plist(message, fmt)):
        translation = translate("nanomdm", body)
        assert translation.events or translation.dead_letters
        assert_removed(secret, translation)


@given(name=st.sampled_from(NAMES), secret=SECRETS, index=st.integers(0, len(samples()) - 1))
def test_secret_added_to_any_sample_is_removed(name: str, secret: bytes, index: int) -> None:
    source, raw = samples()[index]
    assert_removed(secret, translate(source, plant(raw, name, secret)))


def plant(raw: bytes, name: str, secret: bytes) -> bytes:
    """Return the sample with a secret in every object, in inner plists too; in XML one element."""
    text = base64.b64encode(secret).decode()
    if raw.startswith(b"<?xml") and b"<plist" not in raw:
        tag = name.replace("_", "-")
        return raw.replace(b"<event>", f"<event><{tag}>{text}</{tag}>".encode())
    try:
        value = json.loads(raw)
    except ValueError:
        fmt = plistlib.FMT_BINARY if raw.startswith(b"bplist") else plistlib.FMT_XML
        return plistlib.dumps(planted(plistlib.loads(raw), name, secret), fmt=fmt)
    return json.dumps(planted(value, name, text)).encode()


def planted(value: Any, name: str, secret: Any) -> Any:
    if isinstance(value, list):
        return [planted(item, name, secret) for item in value]
    if not isinstance(value, dict):
        return value
    found = {key: planted(item, name, secret) for key, item in value.items()}
    if isinstance(found.get("raw_payload"), str):
        inner = plant(base64.b64decode(found["raw_payload"]), name, base64.b64decode(secret))
        found["raw_payload"] = base64.b64encode(inner).decode()
    return {**found, name: secret}


@given(chance=st.randoms(use_true_random=False), secret=SECRETS, index=st.integers(0, 2))
def test_secret_of_a_damaged_payload_is_removed(chance: Any, secret: bytes, index: int) -> None:
    """A payload that cannot be parsed is not kept.

    Damage to the name of the secret's field is excluded: a field of another name is no secret.
    """
    source, raw = samples()[index]
    whole = plant(raw, "Token", secret)
    damaged = mutated(whole, chance)
    assume(
        all(now >= before for now, before in zip(names_in(damaged), names_in(whole), strict=True))
    )
    assert_removed(secret, translate(source, damaged))


def names_in(raw: bytes) -> tuple[int, int]:
    """Return how often a payload has the planted field's name: outside, and in inner documents.

    The names of JSON, XML and binary property lists are counted.
    """
    outside, *within = [
        len(re.findall(rb'"Token"|>Token<|(?<![">])UToken', layer)) for layer in layers(raw)
    ]
    return outside, sum(within)


@pytest.mark.parametrize("name", ["/raw_payload", "RawPayload", "profile"])
@pytest.mark.parametrize("fmt", [plistlib.FMT_XML, plistlib.FMT_BINARY])
def test_a_document_in_base64_is_searched_in_a_field_of_any_name(
    name: str, fmt: plistlib.PlistFormat
) -> None:
    secret = b"\xffone secret"
    inner = base64.b64encode(plist({"Token": secret, "UDID": UDID}, fmt)).decode()
    wrapped = "\n".join(inner[at : at + 76] for at in range(0, len(inner), 76))
    for text in (inner, wrapped, inner.rstrip("="), inner.replace("+", "-").replace("/", "_")):
        cut = REDACTOR.cut({name: text})
        kept_document = plistlib.loads(base64.b64decode(cut[name]))
        assert kept_document["UDID"] == UDID
        assert kept_document["Token"].startswith("hmac-sha256:")


@pytest.mark.parametrize(
    "text",
    [
        "11111111-AAAA-4000-8000-000000000001",
        "W80123456789ABCDEF",
        "Macintosh Book Pro of Jonathan in Paris",
        "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        base64.b64encode(bytes(range(256))).decode()[:60],
        "com.apple.configuration.softwareupdate.enforcement",
    ],
)
def test_text_without_a_document_is_unchanged(text: str) -> None:
    assert REDACTOR.cut({"text": text, text: 1}) == {"text": text, text: 1}


def secrets_of(value: Any) -> Iterator[bytes]:
    """Yield the values of the secret fields of a parsed document and of documents inside it.

    Values under 8 bytes are left out: `apple`, a challenge of one sample, is in every topic.
    """
    if isinstance(value, list):
        for item in value:
            yield from secrets_of(item)
    if not isinstance(value, dict):
        return
    for name, item in value.items():
        if is_secret(name) and isinstance(item, str | bytes) and len(item) >= 8:
            yield item.encode() if isinstance(item, str) else item
        elif name == "raw_payload" and isinstance(item, str):
            try:
                yield from secrets_of(plistlib.loads(base64.b64decode(item)))
            except ValueError:
                continue
        elif name == "Data" and isinstance(item, bytes) and item.startswith(b"{"):
            try:
                yield from secrets_of(json.loads(item))
            except ValueError:
                continue
        else:
            yield from secrets_of(item)


def test_secrets_of_the_reference_data_are_removed(reference_data: Path) -> None:
    met = 0
    for path in sorted((reference_data / "mdm").rglob("*")):
        raw = path.read_bytes() if path.suffix in {".json", ".plist", ".mobileconfig"} else b""
        if not raw or path.name.startswith("openapi"):
            continue
        value = json.loads(raw) if path.suffix == ".json" else plistlib.loads(raw)
        source = "micromdm" if path.parent.name == "micromdm" else "nanomdm"
        translation = translate(source, raw)
        for secret in secrets_of(value):
            met += 1
            assert_removed(secret, translation)
    assert met >= 15


def test_search_finds_a_secret_that_is_present() -> None:
    secret = bytes(range(100, 130))
    for before in (b"", b"x", b"xy", b"xyz"):
        text = base64.b64encode(before + secret + b"rest")
        assert any(spelling in text for spelling in spellings(secret))
    twice = base64.b64encode(b"{" + base64.b64encode(secret) + b"}")
    assert secret in b"".join(layers(twice))


@pytest.mark.parametrize("field", ["Token", "PushMagic"])
def test_changed_secret_has_another_digest(field: str) -> None:
    def body(secret: bytes) -> bytes:
        message = {"MessageType": "TokenUpdate", "UDID": UDID, field: secret}
        (event,) = translate("nanomdm", webhook("mdm.TokenUpdate", message)).events
        envelope = json.loads(kept(event) or b"")
        inner = base64.b64decode(envelope["checkin_event"]["raw_payload"])
        found: bytes = plistlib.loads(inner)[field].encode()
        return found

    assert body(b"one") == body(b"one")
    assert body(b"one") != body(b"two")
    assert body(b"one").startswith(b"hmac-sha256:")
