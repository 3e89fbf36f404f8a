"""From a webhook's 200 to its job in the site's topic, at a steady rate of webhooks.

The real gateway, one real worker, and this process as the site's reader, which stamps what its
consumer gives it. Both clocks are the system's monotonic one.
"""

import json
import math
import time
from collections.abc import Sequence
from typing import Any, Final

from kafka import KafkaConsumer  # type: ignore[import-untyped]

from pipeline.processors.app import SUBSCRIBED
from schemas.topics import jobs_topic
from tests.bench.kafka_reports import Reports, facts
from tests.bench.kafka_webhooks import HMAC_KEY
from tests.bench.kafka_world import DRYDOCK, SITE, World, wait_for
from tests.integration.brokers import free_ports

TARGET_MS: Final = 250
_GROUP: Final = "drydock-worker"
_PATIENCE_S: Final = 60.0


def bench_latency(world: World, *, rate: float, seconds: float, jobs: int) -> dict[str, Any]:
    """Post for so long at this rate, `jobs` of the webhooks ordering one job each."""
    world.publish(facts())
    world.publish(Reports(figures=False, version=lambda _: "26.2").first_words())
    worker = world.worker(world.folder / "data")
    places = world.places([topic.name for topic in SUBSCRIBED])
    wait_for(lambda: world.committed(_GROUP, places) >= sum(world.ends(places).values()), "fleet")
    [port] = free_ports(1)
    spool = ("--data-dir", str(world.folder / "gateway"), "--listen", f"127.0.0.1:{port}")
    gateway = world.start(
        "gateway", *DRYDOCK, "gateway", *spool, env={"DRYDOCK_NANOMDM_HMAC_KEY": HMAC_KEY}
    )
    gateway.port = port
    wait_for(lambda: gateway.answers("/readyz"), "gateway ready")
    cpu = worker.cpu_s(), gateway.cpu_s()
    count = round(rate * seconds)
    options = ("--port", str(port), "--rate", str(rate), "--count", str(count))
    poster = world.start(
        "poster", "-m", "tests.bench.kafka_webhooks", *options, "--jobs", str(jobs)
    )
    seen = _jobs_seen(world, jobs, seconds + _PATIENCE_S)
    poster.process.wait(_PATIENCE_S)
    used = worker.cpu_s() - cpu[0], gateway.cpu_s() - cpu[1]
    lines = [json.loads(line) for line in poster.log.read_text(encoding="utf-8").splitlines()]
    *told, summary = lines
    waits = [(seen[one["udid"]] - one["accepted"]) * 1e3 for one in told]
    since_sent = [(seen[one["udid"]] - one["sent"]) * 1e3 for one in told]
    worker.check()
    gateway.check()
    return {
        "webhooks": count,
        "webhooks_per_s": rate,
        "jobs": len(waits),
        "p50_ms": percentile(waits, 0.5),
        "p95_ms": percentile(waits, 0.95),
        "p99_ms": percentile(waits, 0.99),
        "worst_ms": percentile(waits, 1.0),
        "p99_ms_from_request": percentile(since_sent, 0.99),
        "worker_cores": round(used[0] / seconds, 2),
        "gateway_cores": round(used[1] / seconds, 2),
        "posting": summary,
    }


def percentile(found: Sequence[float], share: float) -> float:
    """The value that this share of them does not exceed."""
    return round(sorted(found)[max(math.ceil(len(found) * share) - 1, 0)], 1)


def _jobs_seen(world: World, jobs: int, within_s: float) -> dict[str, float]:
    """When each Mac's job could be read."""
    seen: dict[str, float] = {}
    places = world.places([jobs_topic(SITE)])
    with KafkaConsumer(**world.connection.consumer_options(), fetch_max_wait_ms=50) as consumer:
        consumer.assign(places)
        consumer.seek_to_beginning(*places)
        until = time.monotonic() + within_s
        while len(seen) < jobs and time.monotonic() < until:
            for records in consumer.poll(timeout_ms=50).values():
                now = time.monotonic()
                for record in records:
                    seen.setdefault(record.key.decode(), now)
    if len(seen) < jobs:
        raise TimeoutError(f"{jobs - len(seen)} of {jobs} jobs were not published")
    return seen
