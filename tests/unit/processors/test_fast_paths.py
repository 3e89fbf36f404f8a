"""A worker without fast paths writes the same bytes to every topic as one with them."""

import asyncio
from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from schemas.envelope import encode
from schemas.results import Outcome
from schemas.topics import DEAD_LETTERS, DECISIONS, INVENTORY, ORDERS, STATE
from tests import factories
from tests.factories import NOW
from tests.fast_paths import fast_path_uses
from tests.unit.processors.memory_kafka import Brokers, MemoryWorker, reading
from tests.unit.processors.test_crash_at_every_step import (
    MINUTE,
    STAGES,
    UDIDS,
    SteppingClock,
    report_results,
    send,
)

UNSIGNED = encode(factories.issued(factories.job(udid=UDIDS[5])))


def report_again(brokers: Brokers, version: str, when: datetime) -> None:
    """Each Mac sends three reports: unchanged, with another free disk space, another host name."""
    for udid in UDIDS:
        reports: tuple[dict[str, Any], ...] = (
            {},
            {"free_disk_gb": 41.5},
            {"hostname": f"h-{udid}"},
        )
        for number, fields in enumerate(reports):
            at = when + number * MINUTE
            send(brokers, factories.full_report(version, udid, at, serial=f"C02{udid}", **fields))


def send_unreadable(brokers: Brokers) -> None:
    """Two records that are no report, and an issued job without a signature."""
    for raw in (b"{", b'{"type":"drydock.inventory.reported.v1"}'):
        brokers.append(INVENTORY.name, 0, b"MAC-0", raw)
    brokers.append(ORDERS.name, 0, b"MAC-5", UNSIGNED)


async def run_stages(
    brokers: Brokers, folder: Path, clock: SteppingClock, *, fast_paths: bool
) -> None:
    """Run one process through all stages, and a second one that continues after it."""
    for number, stage in enumerate(STAGES):
        clock.now = NOW + 20 * number * MINUTE
        stage(brokers)
        if not number:
            process = MemoryWorker(brokers, folder, clock, fast_paths=fast_paths)
            await process.begin()
        process.read_broadcasts()
        await settle(process)
        # After the backlog: during the catch-up no report is remembered, so none is a repeat.
        report_again(brokers, "26.2" if stage is report_results else "26.1", clock.now)
        send_unreadable(brokers)
        await settle(process)
    process.end()
    clock.now = NOW + timedelta(hours=2)
    for event in brokers.published():
        send(brokers, factories.resulted(event.data.job, Outcome.FAILED, clock.now))
    report_again(brokers, "26.1", clock.now)
    successor = MemoryWorker(brokers, folder, clock, fast_paths=fast_paths)
    await successor.live()
    successor.end()


async def settle(process: MemoryWorker) -> None:
    while await process.round():
        pass


def play(folder: Path, *, fast_paths: bool) -> tuple[Brokers, Counter[str]]:
    """Return the topics after all stages, and the number of uses of each fast path."""
    brokers = Brokers()
    with fast_path_uses() as uses, reading(brokers):
        asyncio.run(run_stages(brokers, folder, SteppingClock(), fast_paths=fast_paths))
    return brokers, uses


def test_every_topic_has_the_same_bytes_without_fast_paths(tmp_path: Path) -> None:
    fast, uses = play(tmp_path / "fast", fast_paths=True)
    plain, plain_uses = play(tmp_path / "plain", fast_paths=False)
    assert set(uses) == {
        *("construct_unchecked", "json_bytes", "peek_report", "apply_duplicate"),
        *("reevaluate_after_send", "VerifiedCache", "peek_job"),
    }
    assert not plain_uses
    assert fast.published()
    assert all(fast.all(topic.name) for topic in (DECISIONS, ORDERS, STATE, DEAD_LETTERS))
    assert fast.topics.keys() == plain.topics.keys()
    for partition, records in fast.topics.items():
        assert records == plain.topics[partition], partition
    assert fast.committed == plain.committed
