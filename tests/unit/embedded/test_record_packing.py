"""Packed decision records: the same bytes come back, few are stored, damage is noticed."""

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pipeline.embedded.record_packing as packing
from pipeline.embedded.record_packing import list_digest, pack_record, unpack_record
from tests.unit.replay.driver import story

RECORDS = [row.body for row in story().decisions()]


def repacked(record: bytes) -> bytes:
    packed, cves = pack_record(record)
    return unpack_record(packed, {list_digest(cves): cves}.__getitem__)


def test_records_come_back_with_the_same_bytes() -> None:
    assert RECORDS
    for record in RECORDS:
        assert repacked(record) == record


def test_record_is_stored_in_a_fifth_of_its_bytes() -> None:
    packed = [pack_record(record)[0] for record in RECORDS]
    assert sum(map(len, packed)) < sum(map(len, RECORDS)) / 5


def test_long_list_of_cves_does_not_make_a_record_longer() -> None:
    record = max(RECORDS, key=lambda one: one.count(b"CVE-"))
    longer = record.replace(
        b'"cves":[', b'"cves":[' + b"".join(b'"CVE-2026-%d",' % n for n in range(500)), 1
    )
    assert len(pack_record(longer)[0]) < len(pack_record(record)[0]) + 40
    assert repacked(longer) == longer


@given(st.binary() | st.sampled_from(RECORDS).map(lambda one: one[:900]))
def test_any_bytes_come_back(record: bytes) -> None:
    assert repacked(record) == record


def test_text_that_looks_like_the_list_comes_back() -> None:
    record = RECORDS[0].replace(b'"serial":', rb'"site":"\"cves\":[","serial":', 1)
    assert repacked(record) == record


@pytest.mark.parametrize("length", [0, 1, 20, 60, -1])
def test_cut_record_is_noticed(length: int) -> None:
    packed, cves = pack_record(RECORDS[-1])
    with pytest.raises(ValueError, match="decision record"):
        unpack_record(packed[:length], lambda _: cves)


def test_record_that_is_not_packed_is_returned_unchanged() -> None:
    assert unpack_record(RECORDS[0], lambda _: b"") == RECORDS[0]


def test_dictionary_is_the_one_of_its_form() -> None:
    path = Path(packing.__file__).with_name("record_dictionary.txt")
    assert hashlib.sha256(path.read_bytes()).hexdigest() == (
        "76f0ffc216d54d3027f9c0a844d3d134afdc4bf7633a9e13424d94dc6fc1f362"
    )
