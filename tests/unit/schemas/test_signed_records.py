"""Signatures over the bytes of a record: which records a key proves."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.payload_signing import sign_record
from pipeline.trust.stamps import Stamps
from schemas.envelope import HaltClearedEvent, JobSupersededEvent, decode, encode
from schemas.fast.report_peek import peek_report
from schemas.signed_records import (
    CONTROL_RECORD,
    REPORT_RECORD,
    STAMP_BYTES,
    WITHDRAWAL_RECORD,
    signer_of,
    verify_record,
    without_stamp,
)
from schemas.signing import SignatureError, key_id
from tests.factories import halt_cleared, job, superseded
from tests.factories.sites import CONTROL_KEY, JOBS_KEY, KEYS, STRANGER_KEY, osquery_report

CLEARED = encode(halt_cleared())
SIGNED = sign_record(CLEARED, CONTROL_RECORD, CONTROL_KEY)


def test_signed_record_is_the_same_event_with_its_signer() -> None:
    assert isinstance(decode(SIGNED), HaltClearedEvent)
    assert decode(SIGNED) == decode(CLEARED)
    expected = key_id(CONTROL_KEY.public_key())
    assert signer_of(SIGNED) == verify_record(SIGNED, CONTROL_RECORD, KEYS.control) == expected


KEY_ID = key_id(CONTROL_KEY.public_key()).encode()
# Its two first bits are those of the last sign; the other four are no part of the signature.
ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
OTHER_LAST = ALPHABET[ALPHABET.index(SIGNED[-3:-2]) ^ 1 :][:1]

FORGED = {
    "no signature": CLEARED,
    "empty": b"",
    "a stranger's key": sign_record(CLEARED, CONTROL_RECORD, STRANGER_KEY),
    "the key of jobs": sign_record(CLEARED, CONTROL_RECORD, JOBS_KEY),
    "another type of record": sign_record(CLEARED, WITHDRAWAL_RECORD, CONTROL_KEY),
    "another time": SIGNED.replace(b"2025", b"2099").replace(b"2026", b"2099"),
    "a byte before it": b" " + SIGNED,
    "a byte after it": SIGNED + b" ",
    "a member after it": SIGNED[:-1] + b',"time":"2099-01-01T00:00:00Z"}',
    "two signatures": sign_record(SIGNED, CONTROL_RECORD, STRANGER_KEY),
    "another signature": SIGNED.replace(SIGNED[-40:-30], b"A" * 10),
    "another separator": SIGNED.replace(KEY_ID + b".", KEY_ID + b"-"),
    "another encoding of the same signature": SIGNED[:-3] + OTHER_LAST + SIGNED[-2:],
    "no base64": SIGNED.replace(SIGNED[-40:-30], b"*" * 10),
    "no ASCII": SIGNED.replace(SIGNED[-40:-30], b"\xff" * 10),
}


@pytest.mark.parametrize("forged", FORGED.values(), ids=FORGED.keys())
def test_forged_record_is_not_verified(forged: bytes) -> None:
    with pytest.raises(SignatureError):
        verify_record(forged, CONTROL_RECORD, KEYS.control)


def test_withdrawal_is_signed_with_the_key_of_jobs() -> None:
    plain = encode(superseded(job()))
    signed = sign_record(plain, WITHDRAWAL_RECORD, JOBS_KEY)
    assert isinstance(decode(signed), JobSupersededEvent)
    verify_record(signed, WITHDRAWAL_RECORD, KEYS.jobs)
    with pytest.raises(SignatureError):
        verify_record(signed, CONTROL_RECORD, KEYS.jobs)


REPORT = encode(osquery_report("MAC-1", os_version="26.1"))
SIGNED_REPORT = sign_record(REPORT, REPORT_RECORD, CONTROL_KEY)
STAMPED_REPORT = Stamps([b"a-stamp-key-of-the-tests"]).stamp(SIGNED_REPORT)


def test_stamped_and_signed_report_is_the_same_event() -> None:
    assert decode(STAMPED_REPORT) == decode(SIGNED_REPORT) == decode(REPORT)
    assert peek_report(STAMPED_REPORT) == peek_report(REPORT)
    assert without_stamp(STAMPED_REPORT) == SIGNED_REPORT
    assert without_stamp(SIGNED_REPORT) == SIGNED_REPORT


@given(st.integers(0, len(STAMPED_REPORT) - 1), st.integers(0, 255))
def test_changed_byte_of_a_report_is_noticed_before_its_stamp(at: int, byte: int) -> None:
    changed = STAMPED_REPORT[:at] + bytes([byte]) + STAMPED_REPORT[at + 1 :]
    signed = without_stamp(changed)
    if signed == SIGNED_REPORT:  # a byte within the stamp, or the byte of before
        return
    with pytest.raises(SignatureError):
        verify_record(signed, REPORT_RECORD, KEYS.control)


def test_members_in_the_place_of_the_stamp_are_not_in_the_signed_record() -> None:
    later = b'A","time":"2099-01-01T00:00:00Z","x":"AAAAA'
    forged = SIGNED_REPORT[:-1] + b',"stamp":"' + later + b'"}'
    assert len(forged) == len(SIGNED_REPORT) - 1 + STAMP_BYTES
    assert decode(forged) != decode(REPORT)
    assert without_stamp(forged) == SIGNED_REPORT
