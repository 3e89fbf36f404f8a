"""Records in a changelog that no owner wrote cost one Mac or one job at most."""

import asyncio
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from pipeline.processors.rows import EPOCH_KEY
from schemas.topics import STATE, partition_of
from tests import factories
from tests.factories import NOW, topic_of
from tests.unit.processors.memory_kafka import (
    PARTITIONS,
    Brokers,
    MemoryWorker,
    reading,
    state_of,
)

UDIDS = [f"MAC-{number}" for number in range(12)]
OF_ZERO = [udid for udid in UDIDS if partition_of(udid, PARTITIONS) == 0]


@pytest.fixture
def brokers() -> Brokers:
    """Topics with a policy, a release and Macs on an older version."""
    made = Brokers()
    made.send([factories.policy_changed(), factories.release("26.2")], topic_of)
    for udid in UDIDS:
        made.send(factories.enrolled(udid), topic_of)
    report(made, "26.1")
    return made


def report(brokers: Brokers, version: str, minutes: int = 0) -> None:
    """Let all Macs report this version."""
    at = NOW + minutes * timedelta(minutes=1)
    for udid in UDIDS:
        brokers.send([factories.full_report(version, udid, at, serial=f"C02{udid}")], topic_of)


def live(brokers: Brokers, folder: Path, minutes: int = 0) -> MemoryWorker:
    """Run a worker without files of an earlier one until it is idle."""
    worker = MemoryWorker(brokers, folder, lambda: NOW + minutes * timedelta(minutes=1))
    with reading(brokers):
        asyncio.run(worker.live())
    worker.end()
    return worker


def shows(row: Any, version: str) -> bool:
    """Return True if the row's device runs this version."""
    return f'"{version}"' in json.dumps(row["device"])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (EPOCH_KEY, None),
        (OF_ZERO[0].encode(), b'{"e":999999,"device":null,"jobs":[],"last_decision":null}'),
        (EPOCH_KEY, b'{"e":50,"broadcast":{}}'),
    ],
)
def test_new_owner_has_a_higher_epoch_than_every_row(
    name: bytes, value: bytes | None, brokers: Brokers, tmp_path: Path
) -> None:
    live(brokers, tmp_path / "first")
    live(brokers, tmp_path / "second")
    brokers.append(STATE.name, 0, name, value)
    report(brokers, "26.2", 10)
    live(brokers, tmp_path / "third", 10)
    state = state_of(brokers, tmp_path / "fourth")
    assert {udid: shows(state[udid], "26.2") for udid in OF_ZERO} == dict.fromkeys(OF_ZERO, True)
