"""The dead letter of an unusable input, and its log line."""

import base64
from hashlib import sha256

import pytest
from structlog import ReturnLogger, wrap_logger
from structlog.testing import LogCapture

from runtime.dead_letters import log_dead_letter
from schemas.dead_letters import (
    MAX_KEPT_BYTES,
    DeadLetter,
    DeadLetterCode,
    Problem,
    encode_dead_letter,
    make_dead_letter,
)
from schemas.envelope import InvalidEvent, decode
from tests.factories import NOW


def letter_of(raw: bytes, redacted: bytes | None, code: DeadLetterCode) -> DeadLetter:
    problem = Problem(code, "no\x00 UDID" + "x" * 2_000, "$.udid")
    return make_dead_letter(
        problem, raw, source="munki", origin="webhook/munki", received_at=NOW, redacted=redacted
    )


def test_letter_describes_the_bytes_as_received_and_keeps_the_redacted_ones() -> None:
    letter = letter_of(b"secret", b"redacted", DeadLetterCode.NO_DEVICE)
    assert (letter.raw_sha256, letter.raw_size) == (sha256(b"secret").hexdigest(), 6)
    assert base64.b64decode(letter.raw or "") == b"redacted"
    assert (letter.code, letter.where) == (DeadLetterCode.NO_DEVICE, "$.udid")
    assert len(letter.detail) == 1_024
    assert letter.detail.startswith("no UDIDx")


@pytest.mark.parametrize(
    ("redacted", "is_kept"),
    [(None, False), (b"x" * MAX_KEPT_BYTES, True), (b"x" * (MAX_KEPT_BYTES + 1), False)],
    ids=["not-searched", "at-the-limit", "over-the-limit"],
)
def test_bytes_are_kept_only_if_redacted_and_small(redacted: bytes | None, is_kept: bool) -> None:
    letter = letter_of(b"raw", redacted, DeadLetterCode.BAD_VALUE)
    assert (letter.raw is not None) == is_kept
    assert (b'"raw":' in encode_dead_letter(letter)) == is_kept


def test_error_of_an_event_is_a_reason() -> None:
    with pytest.raises(InvalidEvent) as error:
        decode(b"{}")
    letter = make_dead_letter(
        error.value, b"{}", source="/test", origin="drydock.control/0/7", received_at=NOW
    )
    assert letter.code is DeadLetterCode.UNKNOWN_TYPE
    assert DeadLetter.model_validate_json(encode_dead_letter(letter)) == letter


@pytest.mark.parametrize(
    ("code", "level"), [(DeadLetterCode.BUG, "error"), (DeadLetterCode.NOT_JSON, "warning")]
)
def test_only_a_bug_is_logged_as_an_error(code: DeadLetterCode, level: str) -> None:
    captured = LogCapture()
    log_dead_letter(
        wrap_logger(ReturnLogger(), processors=[captured]), letter_of(b"raw", None, code)
    )
    (line,) = captured.entries
    assert (line["event"], line["log_level"]) == ("input dead-lettered", level)
    assert (line["error_code"], line["source"]) == (code, "munki")
