"""A job that is decoded into a struct is the entry that a dictionary gives."""

import json

import msgspec
from hypothesis import given

from pipeline.state.compact.job_row import JobRow, entry_of_row
from pipeline.state.jobs import JobEntry
from tests.strategies import entries


@given(entries())
def test_row_gives_the_entry_that_was_written(entry: JobEntry) -> None:
    raw = json.dumps(entry.to_wire()).encode()
    row = msgspec.json.decode(raw, type=JobRow)
    assert entry_of_row(row) == JobEntry.from_wire(json.loads(raw)) == entry


@given(entries())
def test_row_of_an_earlier_version_gives_the_same_entry(entry: JobEntry) -> None:
    wire = json.loads(json.dumps(entry.to_wire()))
    del wire["presumed"], wire["known_until_us"]
    assert entry_of_row(msgspec.convert(wire, JobRow)) == JobEntry.from_wire(wire)
