"""Stamps of records: valid for exactly the stamped bytes, under the present and older keys."""

import json

from hypothesis import given
from hypothesis import strategies as st

from pipeline.trust.stamps import Stamps
from schemas.envelope import decode, encode
from schemas.fast.report_peek import peek_report
from tests.factories.sites import osquery_report

OLD, NEW = b"old-key-of-the-fleet", b"new-key-of-the-fleet"
RAW = encode(osquery_report("MAC-1", os_version="26.1"))
STAMPED = Stamps([OLD]).stamp(RAW)


def test_stamped_record_is_the_event_and_nothing_else() -> None:
    assert decode(STAMPED) == decode(RAW)
    assert peek_report(STAMPED) == peek_report(RAW)
    assert json.loads(STAMPED).keys() - json.loads(RAW).keys() == {"stamp"}


def test_stamp_is_valid_under_each_of_the_keys() -> None:
    assert Stamps([OLD]).is_valid(STAMPED)
    assert Stamps([NEW, OLD]).is_valid(STAMPED)
    assert not Stamps([NEW]).is_valid(STAMPED)
    assert not Stamps([OLD]).is_valid(Stamps([NEW, OLD]).stamp(RAW))


@given(st.integers(0, len(STAMPED) - 1), st.integers(0, 255))
def test_changed_byte_makes_a_stamp_invalid(at: int, byte: int) -> None:
    changed = STAMPED[:at] + bytes([byte]) + STAMPED[at + 1 :]
    assert Stamps([OLD]).is_valid(changed) == (changed == STAMPED)


@given(st.binary(min_size=1, max_size=200))
def test_other_bytes_have_no_valid_stamp(raw: bytes) -> None:
    assert not Stamps([OLD]).is_valid(raw)
    assert not Stamps([OLD]).is_valid(raw + STAMPED)


def test_keys_are_not_in_the_repr() -> None:
    assert "key-of" not in repr(Stamps([OLD, NEW]))
