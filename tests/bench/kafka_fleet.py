"""A whole fleet on two workers: restore time, memory, and an advisory for a tenth of the Macs.

The state is written straight to the changelog, one row per Mac, copied from rows that a reconciler
made: to publish the events of a million Macs first takes longer than the whole measurement. One Mac
in ten lacks the release of the advisory.
"""

import asyncio
import contextlib
import shutil
import time
from datetime import UTC, datetime
from typing import Any, Final, Self

import httpx

from pipeline.processors import rows
from pipeline.processors.confirmed_producer import ConfirmedProducer, Row
from runtime.clock_skew import ClockSkew
from runtime.logs import make_log
from schemas.envelope import encode
from schemas.topics import (
    ADVISORIES,
    CONTROL,
    SITE_PARTITIONS,
    STATE,
    jobs_topic,
    partition_of,
)
from tests import factories as make
from tests.bench.core import accept_event, new_reconciler, numbered_report, udid_of
from tests.bench.kafka_world import PARTITIONS, World, cpu_of, wait_for

# A site has a capacity of 10,000 at most, so the jobs need many sites.
SITES: Final = tuple(f"site-{number:02d}" for number in range(20))
RELEASED: Final = "15.7.3"
AFFECTED_EVERY: Final = 10  # one Mac in ten
TARGETS: Final = {"recovered_s": 60.0, "jobs_published_s": 30.0}
# A higher epoch than the first two workers get on the empty cluster.
_EPOCH: Final = 100
# Number of the Mac whose rows are copied; no other Mac has it.
_PATTERN: Final = 9_999_999
_SHARES: Final = (0.01, 0.5, 0.9)
_BATCH_ROWS: Final = 20_000
_WAIT_S: Final = 600.0
_IDLE_S: Final = 3.0
# Each look at twenty topics uses CPU of the cores that are measured.
_POLL_S: Final = 0.3
_POLICY: Final = "\n".join(
    [
        "version: 1",
        "blast_radius: {jobs_per_hour: null, new_macs_per_hour: null, confirmed_only: false}",
        "sites:",
        *(f"  {site}: {{time_zone: Europe/London, max_jobs: 10000}}" for site in SITES),
        "follow_up: {compliant: false}",
        "",
    ]
)


def bench_fleet(world: World, *, macs: int) -> dict[str, Any]:
    """Write the state, restore it without local copies, publish an advisory; return the figures."""
    decided = _publish_broadcast(world)
    with _TwoWorkers(world) as empty:
        bare = empty.resident_bytes()
    _delete_copies(world)
    began = time.monotonic()
    asyncio.run(_write_state(world, macs, decided))
    written_s = time.monotonic() - began
    with _TwoWorkers(world) as first:
        resident = first.resident_bytes()
    with _TwoWorkers(world) as with_copy:
        pass
    _delete_copies(world)
    with _TwoWorkers(world) as lost:
        recovery_cpu_s = lost.cpu_s()
        lost.wait_until_idle()
        advisory = _measure_advisory(world, lost, macs // AFFECTED_EVERY)
    return {
        "macs": macs,
        "rows_written_s": round(written_s, 1),
        "recovered_s": [round(one.seconds, 1) for one in (first, lost)],
        "recovery_cpu_s": recovery_cpu_s,
        "started_with_copy_s": round(with_copy.seconds, 1),
        "resident_mib": [round(one / 2**20) for one in resident],
        "bytes_per_mac": round((sum(resident) - sum(bare)) / macs),
        "advisory": advisory,
        "targets": TARGETS,
    }


class _TwoWorkers:
    """Two workers that start together; `seconds` is the time until all partitions are ready."""

    def __init__(self, world: World) -> None:
        began = time.monotonic()
        self.workers = [world.worker(world.folder / f"copy-{number}") for number in (1, 2)]
        wait_for(self._are_ready, "all partitions ready", _WAIT_S)
        self.seconds = time.monotonic() - began

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self.workers:
            worker.stop()

    def _are_ready(self) -> bool:
        """Return True if both have partitions and together they have all."""
        ready: list[int] = []
        for worker in self.workers:
            worker.check()
            with contextlib.suppress(httpx.TransportError):
                ready.append(len(worker.get("/healthz").json()["ready"]))
        return all(ready) and sum(ready) == PARTITIONS + SITE_PARTITIONS

    def cpu_s(self) -> list[float]:
        return [round(worker.cpu_s(), 1) for worker in self.workers]

    def wait_until_idle(self) -> None:
        """Wait until both are idle: a worker copies the other's state after its own."""
        used = self.cpu_s()
        while True:
            time.sleep(_IDLE_S)
            before, used = used, self.cpu_s()
            if all(now - then < 0.1 * _IDLE_S for now, then in zip(used, before, strict=True)):
                return

    def resident_bytes(self) -> list[int]:
        return [worker.resident_bytes() for worker in self.workers]


def _delete_copies(world: World) -> None:
    for folder in world.folder.glob("copy-*"):
        shutil.rmtree(folder)


def _measure_advisory(world: World, two: _TwoWorkers, affected: int) -> dict[str, Any]:
    """Publish the advisory; measure until the last of its jobs can be read."""
    partitions = world.partitions([jobs_topic(site) for site in SITES])
    cpu, broker = two.cpu_s(), cpu_of(world.kafka.pid(1))
    landed = make.release(RELEASED)
    world.publish([(ADVISORIES.name, landed.subject.encode(), encode(landed))])
    began = time.monotonic()
    reached: dict[float, float] = {}
    while (jobs := sum(world.ends(partitions).values())) < affected:
        for worker in two.workers:
            worker.check()
        if time.monotonic() - began > _WAIT_S:
            raise TimeoutError(f"{jobs} of {affected} jobs in {_WAIT_S:g} s")
        for share in _SHARES:
            if jobs >= share * affected:
                reached.setdefault(share, round(time.monotonic() - began, 1))
        time.sleep(_POLL_S)
    used = [round(after - before, 1) for after, before in zip(two.cpu_s(), cpu, strict=True)]
    return {
        "jobs": affected,
        "published_s": round(time.monotonic() - began, 1),
        "published_share_s": reached,
        "cpu_s": used,
        "cpu_us_per_job": round(sum(used) / affected * 1e6),
        "broker_cpu_s": round(cpu_of(world.kafka.pid(1)) - broker, 1),
    }


# --- the state ---


def _publish_broadcast(world: World) -> dict[str, int]:
    """Publish the policy and all releases but one; return the next offsets by topic."""
    policy = make.policy_changed(_POLICY)
    known = [make.release(version) for version in make.RELEASES if version != RELEASED]
    world.publish([(CONTROL.name, policy.subject.encode(), encode(policy))])
    world.publish((ADVISORIES.name, one.subject.encode(), encode(one)) for one in known)
    return {CONTROL.name: 1, ADVISORIES.name: len(known)}


async def _write_state(world: World, macs: int, decided: dict[str, int]) -> None:
    """Write one row per Mac to the partition of its UDID."""
    log = make_log()
    producer = ConfirmedProducer(
        world.connection, log, clock=lambda: datetime.now(UTC), skew=ClockSkew(log)
    )
    await producer.start()
    epoch_row = rows.EpochRow(_EPOCH, decided).to_row()
    epoch_rows: dict[tuple[str, int], list[Row]] = {
        (STATE.name, number): [(rows.EPOCH_KEY, epoch_row)] for number in range(PARTITIONS)
    }
    await producer.write(epoch_rows, lambda: False)
    kinds = _sample_rows()
    for start in range(0, macs, _BATCH_ROWS):
        partitions: dict[tuple[str, int], list[Row]] = {}
        for number in range(start, min(start + _BATCH_ROWS, macs)):
            udid = udid_of(number)
            row = _row(kinds[number % len(SITES), _is_affected(number)], number)
            partition = STATE.name, partition_of(udid, PARTITIONS)
            partitions.setdefault(partition, []).append((udid.encode(), row))
        await producer.write(partitions, lambda: False)
    await producer.stop()


def _is_affected(number: int) -> bool:
    return number // len(SITES) % AFFECTED_EVERY == 0


def _sample_rows() -> dict[tuple[int, bool], bytes]:
    """Return the row of an affected and of another Mac of each site."""
    now = datetime.now(UTC)
    return {
        (number, affected): _sample_row(site, "15.7.2" if affected else "26.2", now)
        for number, site in enumerate(SITES)
        for affected in (False, True)
    }


def _sample_row(site: str, version: str, now: datetime) -> bytes:
    """Return the row that a reconciler makes for a Mac from all its events."""
    reconciler, udid, when = new_reconciler(), udid_of(_PATTERN), now - make.HOUR
    known = [make.release(one) for one in make.RELEASES if one != RELEASED]
    life = (*make.enrolled(udid, now - 100 * make.DAY), make.polled(udid, when))
    first_report = numbered_report(_PATTERN, version, when, site=site)
    for event in (make.policy_changed(_POLICY), *known, *life, first_report):
        accept_event(reconciler, event, now)
    return rows.encode_device(reconciler, udid, _EPOCH, is_decided=True)


def _row(kind: bytes, number: int) -> bytes:
    """Return the row of another Mac of this kind."""
    for pattern, own in (
        (udid_of(_PATTERN), udid_of(number)),
        (f"C02{_PATTERN:07d}", f"C02{number:07d}"),
        (f"lon-{_PATTERN:06d}", f"lon-{number:06d}"),
    ):
        kind = kind.replace(pattern.encode(), own.encode())
    return kind
