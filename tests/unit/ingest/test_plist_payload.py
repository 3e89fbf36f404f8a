"""Property lists from outside: the ones that are read, and the limited cost of hostile ones."""

import plistlib
import struct
import tracemalloc
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.ingest.plist_payload import (
    MAX_DEPTH,
    MAX_PLIST_BYTES,
    dump_plist,
    load_plist,
    looks_like_plist,
)
from pipeline.ingest.translation import PayloadError

HEAD = b'<?xml version="1.0" encoding="UTF-8"?>'
DOCTYPE = (
    b'<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN"'
    b' "http://www.apple.com/DTDs/PropertyList-1.0.dtd">'
)
VALUE = {
    "text": "é",
    "data": b"\x00\xff",
    "whole": -(2**63),
    "real": 1.5,
    "yes": True,
    "date": datetime(2026, 11, 23, 10, 0, 0),  # noqa: DTZ001 - a plist's date has no zone
    "list": [{"a": "b"}, []],
}


def code_of(raw: bytes) -> str:
    with pytest.raises(PayloadError) as caught:
        load_plist(raw)
    return caught.value.code.value


@pytest.mark.parametrize("fmt", [plistlib.FMT_XML, plistlib.FMT_BINARY], ids=["xml", "binary"])
def test_a_property_list_of_every_type_is_read(fmt: plistlib.PlistFormat) -> None:
    raw = plistlib.dumps(VALUE, fmt=fmt)
    assert looks_like_plist(raw)
    assert load_plist(raw) == VALUE


@pytest.mark.parametrize(
    "raw",
    [
        b"\xef\xbb\xbf" + HEAD + DOCTYPE + b"<plist><string>x</string></plist>",
        b"\n <plist version='1.0'><string>x</string></plist>",
        b"<!-- a note --><plist><string>x</string></plist>",
    ],
    ids=["byte-order-mark", "no-declaration", "comment"],
)
def test_xml_is_read_with_any_start_that_xml_allows(raw: bytes) -> None:
    assert load_plist(raw) == "x"


def test_a_value_that_was_read_can_be_written() -> None:
    assert load_plist(dump_plist(VALUE)) == VALUE


def entity_bomb() -> bytes:
    entities = b'<!ENTITY a "ha">' + b"".join(
        b'<!ENTITY %c "&%c;&%c;&%c;&%c;">' % (98 + i, 97 + i, 97 + i, 97 + i, 97 + i)
        for i in range(20)
    )
    return HEAD + b"<!DOCTYPE plist [" + entities + b"]><plist><string>&u;</string></plist>"


def attribute_bomb() -> bytes:
    declared = b'<!ATTLIST string a CDATA "' + b"x" * 100_000 + b'">'
    return HEAD + b"<!DOCTYPE plist [" + declared + b"]><plist>" + b"<string/>" * 1000 + b"</plist>"


def binary(objects: list[bytes], offsets: list[int] | None = None, ref_size: int = 1) -> bytes:
    """Return a binary plist of these objects; `offsets` replaces their true offsets."""
    body, lies = b"bplist00", []
    for one in objects:
        lies.append(len(body))
        body += one
    table = b"".join(struct.pack(">I", offset) for offset in offsets or lies)
    count = len(offsets or lies)
    return body + table + struct.pack(">6xBBQQQ", 4, ref_size, count, 0, len(body))


def shared_references() -> bytes:
    """Return 30 nested arrays, each with the next one twice: a walk meets 2^30 values."""
    return binary([bytes([0xA2, i + 1, i + 1]) for i in range(30)] + [b"\x09"])


def one_array_many_times() -> bytes:
    """Return 65,000 objects that are all the same array of 60,000 references."""
    big = b"\xaf\x12" + struct.pack(">I", 60_000) + struct.pack(">H", 1) * 60_000
    root = b"\xaf\x12" + struct.pack(">I", 65_000)
    root += b"".join(struct.pack(">H", i) for i in range(1, 65_001))
    start = 8 + len(root)
    return binary([root, big], [8] + [start] * 65_000, ref_size=2)


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"", "not_plist"),
        (b"{}", "not_plist"),
        (b"bplist00", "not_plist"),
        (b"bplist00" + bytes(32), "not_plist"),
        (b"bplist15" + bytes(32), "not_plist"),
        (HEAD, "not_plist"),
        (HEAD + b"<plist><dict><key>a</key></dict></plist>", "not_plist"),
        (HEAD + b"<plist><key>a</key></plist>", "not_plist"),
        (HEAD + b"<plist><integer>x</integer></plist>", "not_plist"),
        (HEAD + b"<plist><integer>" + b"9" * 5000 + b"</integer></plist>", "not_plist"),
        (HEAD + b"<plist><integer>" + b"9" * 30 + b"</integer></plist>", "bad_value"),
        (HEAD + b"<plist><date>yesterday</date></plist>", "not_plist"),
        (HEAD + b"<plist><date>2026-13-41T00:00:00Z</date></plist>", "not_plist"),
        (HEAD + b"<plist><data>A</data></plist>", "not_plist"),
        (HEAD + b"<plist><string>\xff</string></plist>", "not_utf8"),
        ('<?xml version="1.0" encoding="utf-16"?><plist/>'.encode("utf-16"), "not_plist"),
        (b'<?xml version="1.0" encoding="cp037"?><plist/>', "not_plist"),
        (entity_bomb(), "not_plist"),
        (attribute_bomb(), "not_plist"),
        (HEAD + b"<plist>" + b"<array>" * 5000 + b"</array>" * 5000 + b"</plist>", "too_deep"),
        (HEAD + b"<plist><array>" + b"<true/>" * 900_000 + b"</array></plist>", "too_large"),
        (HEAD + b" " * MAX_PLIST_BYTES, "too_large"),
        (binary([b"\xa1\x00"]), "too_deep"),
        (binary([b"\xa2\x01\x01", b"\xa1\x00"]), "too_large"),
        (shared_references(), "too_large"),
        (one_array_many_times(), "not_plist"),
        (binary([b"\xd1\x01\x01", b"\x10\x05"]), "not_plist"),
        (binary([b"\x80\x01"]), "not_plist"),
        (binary([b"\x33" + b"\x7f" * 8]), "not_plist"),
        (binary([b"\x5f\x13" + b"\xff" * 8]), "not_plist"),
        (binary([b"\x09"], [2**31]), "not_plist"),
    ],
    ids=[
        "empty", "json", "header-only", "zero-trailer", "other-version", "no-document",
        "key-without-value", "key-outside", "no-integer", "integer-too-long", "integer-too-big",
        "no-date", "impossible-date", "no-base64", "not-utf8", "utf16", "ebcdic", "entities",
        "attributes", "deep", "wide", "long", "contains-itself", "contain-each-other", "shared",
        "same-array", "key-no-string", "uid", "date-nan", "size-overflow", "offset-outside",
    ],
)  # fmt: skip
def test_an_invalid_property_list_is_refused(raw: bytes, code: str) -> None:
    assert code_of(raw) == code


@pytest.mark.parametrize(
    "raw",
    [entity_bomb(), attribute_bomb(), shared_references(), one_array_many_times()],
    ids=["entities", "attributes", "shared", "same-array"],
)
def test_a_bomb_costs_no_more_memory_than_a_few_times_its_size(raw: bytes) -> None:
    tracemalloc.start()
    try:
        code_of(raw)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 20 * len(raw) + 30_000_000


def test_a_property_list_is_read_to_the_depth_limit_and_refused_beyond() -> None:
    def nested(levels: int) -> bytes:
        inside = b"<array>" * levels + b"<true/>" + b"</array>" * levels
        return HEAD + b"<plist>" + inside + b"</plist>"

    load_plist(nested(MAX_DEPTH))
    assert code_of(nested(MAX_DEPTH + 1)) == "too_deep"


TEXT = st.text(st.characters(min_codepoint=32, exclude_categories=["Cs"]))
SCALARS: st.SearchStrategy[Any] = (
    TEXT
    | st.integers(-(2**63), 2**64 - 1)
    | st.booleans()
    | st.binary()
    | st.floats(allow_nan=False)
    | st.datetimes(datetime(1900, 1, 2)).map(lambda t: t.replace(microsecond=0))  # noqa: DTZ001
)
PLISTS = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(TEXT, inner),
    max_leaves=20,
)


@given(PLISTS)
def test_every_binary_plist_that_is_written_is_read(value: Any) -> None:
    assert load_plist(plistlib.dumps(value, fmt=plistlib.FMT_BINARY)) == value
    assert load_plist(dump_plist(value)) is not None or value is None


@pytest.mark.parametrize(
    ("element", "kept"),
    [
        ("<date>2030437302-06-07T24:60:-2147483648Z</date>", {}),
        ("<date>2026-13-01T00:00:00Z</date>", {}),
        ("<integer>twelve</integer>", {}),
        ("<integer>99999999999999999999999</integer>", {}),
        ("<real>1.2.3</real>", {}),
        ("<data>AAA</data>", {}),
        ("<array><string>a</string><integer>x</integer></array>", {"bad": ["a"]}),
    ],
)
def test_an_unreadable_scalar_of_xml_costs_only_itself(element: str, kept: dict[str, Any]) -> None:
    raw = f"<plist><dict><key>good</key><string>x</string><key>bad</key>{element}</dict></plist>"
    omitted: list[PayloadError] = []
    assert load_plist(raw.encode(), omitted) == {"good": "x", **kept}
    (error,) = omitted
    assert (error.code, error.where) == ("bad_value", "bad[1]" if kept else "bad")
    with pytest.raises(PayloadError):
        load_plist(raw.encode())


def test_an_unreadable_date_of_a_binary_list_costs_only_itself() -> None:
    whole = {"in": {"at": datetime(2026, 8, 6, 7), "n": 3}, "x": "y"}  # noqa: DTZ001 - a plist's
    raw = plistlib.dumps(whole, fmt=plistlib.FMT_BINARY)
    seconds = (datetime(2026, 8, 6, 7) - datetime(2001, 1, 1)).total_seconds()  # noqa: DTZ001
    for wrong in (float("nan"), float("inf"), 1e15):
        broken = raw.replace(struct.pack(">d", seconds), struct.pack(">d", wrong))
        assert broken != raw
        omitted: list[PayloadError] = []
        assert load_plist(broken, omitted) == {"in": {"n": 3}, "x": "y"}
        assert [(one.code, one.where) for one in omitted] == [("bad_value", "in.at")]


def test_a_list_that_is_broken_otherwise_is_refused() -> None:
    for raw in (
        b"<plist><dict><key>a</key></dict></plist>",
        b"<plist><integer>x</integer></plist>",
    ):
        with pytest.raises(PayloadError):
            load_plist(raw, [])
