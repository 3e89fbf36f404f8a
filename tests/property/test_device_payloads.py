"""Any payload of a device source becomes events or dead letters; no exception is raised."""

import os
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.ingest.sources import WEBHOOK_SOURCES
from schemas.envelope import decode, encode
from tests.unit.ingest.device_bodies import translate
from tests.unit.ingest.hostile_payloads import mutated, samples

# The number of mutations, spread over the samples: 10,000 in CI.
MUTATIONS = 10_000 if os.environ.get("CI") else 2_400


def check(source: str, raw: bytes) -> None:
    """Assert that a payload gives events or dead letters, the same ones twice, all serializable."""
    translation = translate(source, raw)
    if raw.strip():
        assert translation.events or translation.dead_letters
    assert translate(source, raw) == translation
    for event in translation.events:
        assert decode(encode(event)) == event
    for letter in translation.dead_letters:
        assert letter.model_validate_json(letter.model_dump_json()) == letter
    assert len({event.id for event in translation.events}) == len(translation.events)


@pytest.mark.parametrize("index", range(len(samples())))
def test_damaged_payloads_become_events_or_dead_letters(index: int) -> None:
    source, raw = samples()[index]
    assert translate(source, raw).events
    for number in range(MUTATIONS // len(samples()) + 1):
        check(source, mutated(raw, random.Random(f"{index}/{number}")))


@given(source=st.sampled_from(WEBHOOK_SOURCES), raw=st.binary(max_size=400))
def test_any_bytes_become_events_or_dead_letters(source: str, raw: bytes) -> None:
    check(source, raw)


_STARTS = (b"[", b"{", b"<", b"<plist>", b"bplist00")


@given(
    source=st.sampled_from(WEBHOOK_SOURCES),
    start=st.sampled_from(_STARTS),
    raw=st.binary(max_size=200),
)
def test_bytes_after_a_promising_start_become_events_or_dead_letters(
    source: str, start: bytes, raw: bytes
) -> None:
    check(source, start + raw)
