"""Dead letters of a worker: what is kept of a record, and which of them stop the worker."""

import base64
import json
from typing import Any

import pytest

from pipeline.processors.dead_letter_limit import DeadLetterLimit, DeadLetterLimitExceeded
from pipeline.processors.dead_letters import dead_letter_record
from schemas.dead_letters import DeadLetter, DeadLetterCode, Problem
from tests.factories import NOW

SECRET = "Tr0ub4dor&3"
EVENT: dict[str, Any] = {
    "id": "1",
    "subject": "MAC-1",
    "data": {"udid": "MAC-1", "password": SECRET, "tries": 3, "lists": [SECRET, None, True]},
}


def kept(raw: bytes, *, is_proven: bool) -> bytes | None:
    record = dead_letter_record(
        Problem(DeadLetterCode.UNSTAMPED, "no stamp"),
        raw,
        origin="a/0/1",
        now=NOW,
        partition_count=1,
        is_proven=is_proven,
    )
    letter = DeadLetter.model_validate_json(record.value)
    return None if letter.raw is None else base64.b64decode(letter.raw)


def test_record_of_an_unknown_program_is_kept_by_names_and_types() -> None:
    found = kept(json.dumps(EVENT).encode(), is_proven=False)
    assert json.loads(found or b"") == {
        **EVENT,
        "data": {
            "udid": "MAC-1",
            "password": "(text)",
            "tries": "(number)",
            "lists": ["(text)", None, "(boolean)"],
        },
    }


@pytest.mark.parametrize(
    "raw",
    [SECRET.encode(), b"\xff" + SECRET.encode(), b"[" * 100_000, b""],
    ids=["no JSON", "no UTF-8", "too deep", "empty"],
)
def test_bytes_that_cannot_be_parsed_are_not_kept(raw: bytes) -> None:
    assert kept(raw, is_proven=False) is None


def test_long_text_in_the_place_of_a_name_is_not_kept() -> None:
    raw = json.dumps({"subject": SECRET * 100, "id": {"x": SECRET}}).encode()
    assert SECRET.encode() not in (kept(raw, is_proven=False) or b"")


def test_redacted_record_of_a_gateway_is_kept() -> None:
    raw = json.dumps(EVENT).encode()
    assert kept(raw, is_proven=True) == raw


# Batches of a worker, each with its used records and its dead letters by sender; True: it stops.
BATCHES: dict[str, tuple[list[tuple[int, dict[str, int]]], bool]] = {
    "wrong version, one sender": ([(0, {"mdm": 60}), (0, {"mdm": 60})], True),
    "wrong version, two senders": ([(5, {"mdm": 90, "jamf": 20})], True),
    "own program makes them": ([(5, {"": 100})], True),
    "few dead letters": ([(0, {"mdm": 99})], False),
    "as many used records": ([(60, {"mdm": 30, "jamf": 30}), (39, {"mdm": 39})], False),
    "one sender among others": ([(1, {"attacker": 100_000})], False),
    "one sender, at work": ([(100, {}), (0, {"attacker": 100_000})], False),
    "wrong version, used records in the batch": ([(100, {"mdm": 300, "jamf": 20})], True),
    "wrong version, used records before": ([(99, {}), (1, {"mdm": 90, "jamf": 20})], True),
    "fewer dead letters than used in the batch": ([(150, {"mdm": 60, "jamf": 60})], False),
    "one sender among many used": ([(500, {"attacker": 100_000})], False),
    "two senders, at work": ([(100, {}), (0, {"a": 50_000, "b": 50_000})], False),
}


@pytest.mark.parametrize(("batches", "stops"), BATCHES.values(), ids=BATCHES.keys())
def test_worker_stops_for_its_own_fault_and_not_for_a_sender(
    batches: list[tuple[int, dict[str, int]]], stops: bool
) -> None:
    limit = DeadLetterLimit()
    last = batches.pop()
    for batch in batches:
        limit.record(*batch)
    if stops:
        with pytest.raises(DeadLetterLimitExceeded):
            limit.record(*last)
    else:
        limit.record(*last)
