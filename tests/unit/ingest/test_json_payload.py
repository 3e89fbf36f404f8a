"""The JSON documents that may be read, and those that are refused."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.ingest import json_payload
from pipeline.ingest.json_payload import MAX_DEPTH, MAX_OMITTED, MAX_VALUES, load_json
from pipeline.ingest.translation import MAX_PAYLOAD_BYTES, PayloadError


def nested(levels: int) -> bytes:
    return b"[" * levels + b"]" * levels


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        pytest.param(b'{"a": [1, 2.5, null, true]}', {"a": [1, 2.5, None, True]}, id="plain"),
        pytest.param(b"\xef\xbb\xbf{}", {}, id="byte-order-mark"),
        pytest.param(b'"\\ud83d\\ude00"', "\U0001f600", id="surrogate-pair"),
        pytest.param(b'["Mac \\ud83d"]', ["Mac �"], id="half-an-emoji"),
        pytest.param(b'{"\\udc00": 1}', {"�": 1}, id="half-an-emoji-key"),
        pytest.param(b'"\\\\ud83d"', "\\ud83d", id="escaped-backslash"),
        pytest.param(b'"\\u0000"', "\x00", id="nul-character-is-allowed"),
        pytest.param(b"1" * 4000, int("1" * 4000), id="long-integer"),
        pytest.param(b'{"a": {"a": 1}}', {"a": {"a": 1}}, id="same-key-in-two-objects"),
    ],
)
def test_strict_json_is_read(raw: bytes, value: Any) -> None:
    assert load_json(raw) == value


@pytest.mark.parametrize(
    ("raw", "code", "where"),
    [
        pytest.param(b"", "not_json", "line 1 column 1", id="empty"),
        pytest.param(b"{}\n{}", "not_json", "line 2 column 1", id="two-values"),
        pytest.param(b'{"a":\n 1,}', "not_json", "line 2 column 4", id="trailing-comma"),
        pytest.param(b"NaN", "not_json", "", id="nan"),
        pytest.param(b"[-Infinity]", "not_json", "", id="infinity"),
        pytest.param(b"1e999", "bad_value", "", id="float-out-of-range"),
        pytest.param(b"1" * 5000, "bad_value", "", id="integer-out-of-range"),
        pytest.param(b'{"udid": 1, "udid": 2}', "bad_shape", "", id="repeated-key"),
        pytest.param(b'"a\xff"', "not_utf8", "byte 2", id="latin-1"),
        pytest.param('{"a": 1}'.encode("utf-16"), "not_utf8", "byte 0", id="utf-16"),
        pytest.param(nested(MAX_DEPTH + 1), "too_deep", "", id="one-level-too-deep"),
        pytest.param(b"[" * 100_000, "too_deep", "", id="depth-bomb"),
        pytest.param(b'{"a":' * 100_000, "too_deep", "", id="depth-bomb-of-objects"),
    ],
)
def test_invalid_json_is_refused(raw: bytes, code: str, where: str) -> None:
    with pytest.raises(PayloadError) as refused:
        load_json(raw)
    assert (refused.value.code, refused.value.where) == (code, where)


def test_json_is_read_to_the_depth_limit() -> None:
    assert load_json(nested(MAX_DEPTH)) is not None


@pytest.mark.parametrize(
    "make_raw",
    [
        pytest.param(lambda: b'"' + b"a" * (MAX_PAYLOAD_BYTES - 1) + b'"', id="bytes"),
        pytest.param(lambda: b"[" + b"0," * MAX_VALUES + b"0]", id="values"),
    ],
)
def test_a_document_that_is_too_large_is_refused_without_parsing(
    monkeypatch: pytest.MonkeyPatch, make_raw: Callable[[], bytes]
) -> None:
    monkeypatch.setattr(json_payload, "_DECODER", None)
    with pytest.raises(PayloadError) as refused:
        load_json(make_raw())
    assert refused.value.code == "too_large"


@given(st.binary() | st.text().map(lambda text: ('{"a": [' + text).encode(errors="ignore")))
def test_any_bytes_give_a_value_or_a_payload_error(raw: bytes) -> None:
    try:
        load_json(raw)
    except PayloadError as refused:
        assert refused.detail  # noqa: PT017 - both outcomes are correct


@pytest.mark.parametrize("scalar", ["NaN", "Infinity", "-Infinity", "1e999", "9" * 5000])
def test_an_unreadable_scalar_costs_only_itself(scalar: str) -> None:
    raw = f'{{"a": {{"b": [1, {scalar}, 2]}}, "c": {scalar}, "d": "x"}}'.encode()
    omitted: list[PayloadError] = []
    assert load_json(raw, omitted) == {"a": {"b": [1, 2]}, "d": "x"}
    assert [one.where for one in omitted] == ["$.a.b[1]", "$.c"]
    with pytest.raises(PayloadError):
        load_json(raw)
    with pytest.raises(PayloadError):
        load_json(scalar.encode(), [])


def test_at_most_a_few_unreadable_scalars_are_reported() -> None:
    omitted: list[PayloadError] = []
    assert load_json(b"[" + b",".join([b"NaN"] * 1000) + b"]", omitted) == []
    assert len(omitted) == MAX_OMITTED
