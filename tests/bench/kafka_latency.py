"""Latency from a webhook's 200 to its job in the site's topic, at a steady rate of webhooks.

Gateways and a worker run as real processes; this process reads the site's topic. Requests,
responses and reads are timed with the system's monotonic clock. The steps in between are timed with
the timestamps of the records, which have milliseconds.
"""

import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from kafka import KafkaConsumer  # type: ignore[import-untyped]

from pipeline.processors.app import SUBSCRIBED
from schemas.topics import DISPATCH, INVENTORY, ORDERS, jobs_topic
from tests.bench.kafka_reports import Reports, facts
from tests.bench.kafka_webhooks import HMAC_KEY
from tests.bench.kafka_world import DRYDOCK, SITE, Program, World, cpu_of, wait_for
from tests.kafka.brokers import free_ports

_GROUP: Final = "drydock-worker"
_WAIT_S: Final = 60.0
_JOBS_PER_S: Final = 20
_WARM_UP_S: Final = 5.0
_BROKER: Final = 1
# A step ends with a record of this topic.
_STEPS: Final = (
    ("request_to_inventory", INVENTORY.name),
    ("inventory_to_order", ORDERS.name),
    ("order_to_dispatch", DISPATCH.name),
    ("dispatch_to_job", jobs_topic(SITE)),
)


def bench_latency(world: World, *, rate: float, seconds: float, gateways: int) -> dict[str, Any]:
    """Post webhooks at this rate after a warm-up, and return the latencies of the jobs.

    Each second, 20 of the webhooks lead to a job.
    """
    jobs = round(_JOBS_PER_S * seconds)
    worker = _worker(world)
    receivers = [_gateway(world, number) for number in range(gateways)]
    poster = _poster(world, receivers, rate, jobs)
    used = _CpuUse(world, worker, receivers)
    seen = _jobs_seen(world, jobs, _WARM_UP_S + seconds + 2 * _WAIT_S, used)
    cores = used.cores()
    poster.process.wait(_WAIT_S)
    for program in (worker, *receivers):
        program.check()
    *sent, summary = map(json.loads, poster.log.read_text(encoding="utf-8").splitlines())
    waits = [(seen[one["udid"]] - one["accepted"]) * 1e3 for one in sent]
    since_sent = [(seen[one["udid"]] - one["sent"]) * 1e3 for one in sent]
    return {
        "webhooks_per_s": rate,
        "gateways": gateways,
        "jobs": len(waits),
        **_spread(waits, 0.5, 0.95, 0.99, 1.0),
        "from_request": _spread(since_sent, 0.5, 0.99),
        "steps": _steps(world, {one["udid"]: one["sent"] for one in sent}, seen),
        "cores": cores,
        "posting": summary,
    }


def percentile(found: Sequence[float], share: float) -> float:
    """Return the value that this share of the values does not exceed, with one decimal."""
    return round(sorted(found)[max(math.ceil(len(found) * share) - 1, 0)], 1)


def _spread(found: Sequence[float], *shares: float) -> dict[str, float]:
    return {f"p{share * 100:.0f}_ms": percentile(found, share) for share in shares}


# --- the programs ---


def _worker(world: World) -> Program:
    """Start a worker, and wait until it has processed the first events of the fleet."""
    world.publish(facts())
    world.publish(Reports(telemetry=False, version=lambda _: "26.2").first_records())
    worker = world.worker(world.folder / "data")
    partitions = world.partitions([topic.name for topic in SUBSCRIBED])
    wait_for(
        lambda: world.committed(_GROUP, partitions) >= sum(world.ends(partitions).values()), "fleet"
    )
    return worker


def _gateway(world: World, number: int) -> Program:
    [port] = free_ports(1)
    folder = world.folder / f"gateway-{number}"
    options = ("--data-dir", str(folder), "--listen", f"127.0.0.1:{port}")
    env = {"DRYDOCK_NANOMDM_HMAC_KEY": HMAC_KEY}
    gateway = world.start(f"gateway-{number}", *DRYDOCK, "gateway", *options, env=env)
    gateway.port = port
    wait_for(lambda: gateway.is_ready("/readyz"), "gateway ready")
    return gateway


def _poster(world: World, gateways: Sequence[Program], rate: float, jobs: int) -> Program:
    options = {
        "--rate": rate,
        "--warm-up": round(rate * _WARM_UP_S),
        "--every": round(rate / _JOBS_PER_S),
        "--jobs": jobs,
    }
    ports = [part for gateway in gateways for part in ("--port", str(gateway.port))]
    rest = [part for name, value in options.items() for part in (name, str(value))]
    return world.start("poster", "-m", "tests.bench.kafka_webhooks", *ports, *rest)


class _CpuUse:
    """CPU use of each program, from the first job that is read to the last."""

    def __init__(self, world: World, worker: Program, gateways: Sequence[Program]) -> None:
        self._pids = {
            "broker": [world.kafka.pid(_BROKER)],
            "worker": [worker.process.pid],
            "gateways": [gateway.process.pid for gateway in gateways],
        }
        self.begin()

    def begin(self) -> None:
        self._began, self._at_first = time.monotonic(), self._now()

    def cores(self) -> dict[str, float]:
        """Return the cores that each program uses, by name."""
        took = time.monotonic() - self._began
        return {
            name: round((used - self._at_first[name]) / took, 2)
            for name, used in self._now().items()
        }

    def _now(self) -> dict[str, float]:
        used = {name: sum(map(cpu_of, pids)) for name, pids in self._pids.items()}
        return used | {"reader": time.process_time()}


# --- results ---


def _jobs_seen(world: World, jobs: int, within_s: float, used: _CpuUse) -> dict[str, float]:
    """Return the monotonic time at which each Mac's job was read. Raises TimeoutError."""
    seen: dict[str, float] = {}
    partitions = world.partitions([jobs_topic(SITE)])
    with KafkaConsumer(**world.connection.consumer_options(), fetch_max_wait_ms=50) as consumer:
        consumer.assign(partitions)
        consumer.seek_to_beginning(*partitions)
        until = time.monotonic() + within_s
        while len(seen) < jobs and time.monotonic() < until:
            for records in consumer.poll(timeout_ms=50).values():
                now = time.monotonic()
                if not seen:
                    used.begin()
                for record in records:
                    seen.setdefault(record.key.decode(), now)
    if len(seen) < jobs:
        raise TimeoutError(f"{jobs - len(seen)} of {jobs} jobs were not published")
    return seen


def _steps(
    world: World, sent: Mapping[str, float], seen: Mapping[str, float]
) -> dict[str, dict[str, float]]:
    """Return the median and p99 of each step, for the same Macs as the whole latency."""
    epoch = time.time() - time.monotonic()
    before = {udid: (at + epoch) * 1e3 for udid, at in sent.items()}
    found = {}
    for step, topic in _STEPS:
        at = dict(_broker_times(world, topic, before))
        found[step] = _spread([at[udid] - before[udid] for udid in sent], 0.5, 0.99)
        before = at
    last = [(seen[udid] + epoch) * 1e3 - before[udid] for udid in sent]
    return found | {"job_to_reader": _spread(last, 0.5, 0.99)}


def _broker_times(
    world: World, topic: str, since: Mapping[str, float]
) -> Iterator[tuple[str, float]]:
    """Yield UDID and time (ms) of each Mac's first record that is not older than `since`."""
    left = set(since)
    for record in world.read(topic):
        udid = json.loads(record.value)["subject"]
        if udid in left and record.timestamp >= int(since[udid]):
            left.discard(udid)
            yield udid, record.timestamp
