"""Workers on a real broker: after any crash no event is lost and no job is issued twice."""

import hashlib
import json
import random
import shutil
import sqlite3
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from pipeline.processors.rows import EPOCH_KEY
from schemas.envelope import CloudEvent
from schemas.results import Outcome
from schemas.topics import (
    ADVISORIES,
    CHECKINS,
    CONTROL,
    DISPATCH,
    INVENTORY,
    MAX_MESSAGE_BYTES,
    ORDERS,
    RESULTS,
    STATE,
    partition_of,
)
from tests import factories
from tests.embedded_shell import EmbeddedShell
from tests.factories import HOUR, NOW
from tests.kafka.workers import PARTITIONS, WorkerProcess, Workers, eventually
from tests.scenario import in_short

UDIDS = [f"MAC-{number}" for number in range(120)]
POLICY = factories.POLICY_TEXT.replace("max_jobs: 2", "max_jobs: 1000")
START: list[CloudEvent] = [factories.policy_changed(POLICY), factories.release("26.1")]
ADVISORY: list[CloudEvent] = [factories.release("26.2")]


def enrollments(udids: Sequence[str]) -> list[CloudEvent]:
    return [each for udid in udids for each in (*factories.enrolled(udid), factories.polled(udid))]


def reports(version: str, udids: Sequence[str], minute: int = 0) -> list[CloudEvent]:
    when = NOW + minute * HOUR / 60
    return [factories.full_report(version, udid, when, serial=f"C02{udid}") for udid in udids]


def results(udids: Sequence[str]) -> list[CloudEvent]:
    when = NOW + HOUR / 2
    return [factories.resulted(factories.job(udid=udid), Outcome.ACTED, when) for udid in udids]


def compare_with_embedded(workers: Workers, events: Sequence[CloudEvent], folder: Path) -> None:
    """Assert that state, decisions and jobs equal those of the embedded form for these events."""
    shell = EmbeddedShell(folder)
    shell.set_time(workers.now)
    for event in events:  # the reports of one batch would lead to one decision
        shell.accept([event])
    fleet = shell.fleet
    found = {udid: (row["device"], jobs(row["jobs"])) for udid, row in workers.state().items()}
    assert found == {
        udid: (
            json.loads(json.dumps(device.to_wire())),
            jobs(
                json.loads(json.dumps([job.to_wire() for job in fleet.job_histories.get(udid, ())]))
            ),
        )
        for udid, device in fleet.devices.items()
    }
    last = {one.decision.udid: in_short(one.decision) for one in workers.decisions()}
    assert last == {one.decision.udid: in_short(one.decision) for one in shell.records()}
    assert signed_once(workers) == {event.data.job.job_id for event in shell.issued_jobs()}
    shell.close()


def jobs(wires: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return jobs without `known_until_us`.

    It depends on the order in which the topics of reports and advisories are read.
    """
    return [{name: one[name] for name in one if name != "known_until_us"} for one in wires]


def signed_once(workers: Workers) -> set[str]:
    """Return the ids of published jobs; fail if one id has two different payloads."""
    signed: dict[str, set[str]] = {}
    for event in workers.published():
        signed.setdefault(event.data.job.job_id, set()).add(event.data.signed.payload)
    assert [job_id for job_id, payloads in signed.items() if len(payloads) > 1] == []
    return set(signed)


def test_killed_workers_lose_no_event_and_issue_no_job_twice(
    workers: Workers, tmp_path: Path
) -> None:
    seed = random.randrange(1_000_000)
    print(f"seed {seed}")  # noqa: T201 - shown if it fails
    chance = random.Random(seed)
    events = [*START, *enrollments(UDIDS), *reports("26.1", UDIDS)]

    def replace_one() -> None:
        victim = chance.choice([one for one in workers.running if one.runs])
        victim.kill()
        keeps_disk = chance.random() < 0.5
        workers.start(victim.data_dir if keeps_disk else None)

    workers.send(START)
    workers.start()
    workers.start()
    workers.send(events[len(START) :])
    replace_one()
    workers.wait_caught_up()
    # Kill a worker while it decides on an advisory.
    workers.send(ADVISORY)
    eventually(lambda: len(workers.decisions()) > len(UDIDS), "first decisions")
    replace_one()
    eventually(lambda: len(signed_once(workers)) == len(UDIDS), "all jobs are issued")
    flow = [*results(UDIDS[:80]), *reports("26.1", UDIDS[80:], 1), *reports("26.2", UDIDS[:60], 40)]
    for start in range(0, len(flow), 20):
        workers.send(flow[start : start + 20])
        if chance.random() < 0.25:
            time.sleep(chance.random() / 2)
            replace_one()
    workers.wait_caught_up(120)
    eventually(lambda: workers.lag() == 0, "all offsets are committed")
    compare_with_embedded(workers, [*events, *ADVISORY, *flow], tmp_path / "embedded")


def test_worker_that_was_suspended_changes_nothing_afterwards(
    workers: Workers, tmp_path: Path
) -> None:
    events = [*START, *enrollments(UDIDS), *reports("26.1", UDIDS)]
    workers.send(START)
    frozen = workers.start()
    other = workers.start()
    workers.send(events[len(START) :])
    workers.wait_caught_up()
    workers.send(reports("26.1", UDIDS, 1))
    frozen.freeze()
    workers.send(ADVISORY)
    # The other worker gets all partitions when the session of the frozen one ends.
    eventually(lambda: len(other.health().get("ready", ())) == 12, "taken over")
    eventually(lambda: len(signed_once(workers)) == len(UDIDS), "all jobs are issued")
    workers.send(reports("26.2", UDIDS[:60], 40))
    workers.wait_caught_up()
    frozen.thaw()
    workers.send(reports("26.2", UDIDS[60:90], 41))
    eventually(lambda: bool(frozen.health().get("ready")), "the one that was frozen works again")
    workers.wait_caught_up()
    flow = [*reports("26.1", UDIDS, 1), *ADVISORY]
    flow += [*reports("26.2", UDIDS[:60], 40), *reports("26.2", UDIDS[60:90], 41)]
    compare_with_embedded(workers, [*events, *flow], tmp_path / "embedded")


def test_standby_takes_over_and_state_survives_the_loss_of_every_disk(workers: Workers) -> None:
    workers.send([*START, *enrollments(UDIDS), *reports("26.1", UDIDS)])
    first, second = workers.start(), workers.start()
    workers.wait_caught_up()
    partitions = [name for name in first.health()["ready"] if name.startswith(STATE.name)]
    eventually(
        lambda: rows_kept(second.data_dir, partitions) == rows_owned(workers, partitions), "copies"
    )
    first.kill()
    workers.send(ADVISORY)
    workers.wait_caught_up()
    assert len(signed_once(workers)) == len(UDIDS)
    eventually(lambda: gauge(second, "drydock_exposed_devices") == len(UDIDS), "all exposed")
    assert gauge(second, "drydock_jobs_open") == len(UDIDS)
    assert second.stop() == 0
    for worker in workers.running:
        shutil.rmtree(worker.data_dir)
    workers.start()
    workers.send(reports("26.2", UDIDS, 40))
    workers.wait_caught_up()
    # Each report ended a job that only the state of the old workers had.
    outcomes = Counter(row["jobs"][0]["outcome"] for row in workers.state().values())
    assert outcomes == {Outcome.SUCCEEDED: len(UDIDS)}
    assert len(signed_once(workers)) == len(UDIDS)


def gauge(worker: WorkerProcess, name: str) -> float:
    """Return a gauge of the worker, summed over its labels."""
    families = text_string_to_metric_families(worker.get("/metrics")[1])
    return sum(one.value for each in families for one in each.samples if one.name == name)


def rows_kept(folder: Path, partitions: Sequence[str]) -> int:
    """Return the number of Macs in a worker's copies of these partitions."""
    found = 0
    for path in (folder / f"{partition}.sqlite" for partition in partitions):
        if path.exists():
            with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
                asked = db.execute("SELECT count(*) FROM rows WHERE key != ?", (EPOCH_KEY,))
                found += asked.fetchone()[0]
    return found


def rows_owned(workers: Workers, partitions: Sequence[str]) -> int:
    """Return the number of Macs in these partitions."""
    numbers = {int(partition.rpartition("/")[2]) for partition in partitions}
    return sum(partition_of(udid, PARTITIONS) in numbers for udid in UDIDS)


GARBAGE = b"\xff no event"


def test_invalid_record_becomes_a_dead_letter_with_its_origin_and_digest(
    workers: Workers,
) -> None:
    topics = (INVENTORY, CHECKINS, RESULTS, ORDERS, DISPATCH, ADVISORIES, CONTROL)
    worker = workers.start()
    workers.send([*START, *enrollments(UDIDS[:5])])
    sent = [workers.producer.send(topic.name, key=b"x", value=GARBAGE) for topic in topics]
    origins = {
        f"{m.topic}/{m.partition}/{m.offset}" for m in (each.get(timeout=30) for each in sent)
    }
    workers.send(reports("26.1", UDIDS[:5]))
    workers.wait_caught_up()
    letters = workers.dead_letters()
    assert {letter.origin for letter in letters} == origins
    # No gateway has redacted them: their bytes are not kept.
    assert {letter.raw for letter in letters} == {None}
    assert {letter.raw_sha256 for letter in letters} == {hashlib.sha256(GARBAGE).hexdigest()}
    assert len(workers.state()) == 5
    # Most records are invalid: the worker stops instead of dead-lettering the whole topic.
    for _ in range(500):
        workers.producer.send(INVENTORY.name, key=b"x", value=GARBAGE)
    workers.producer.flush()
    eventually(lambda: not worker.runs, "the worker stops")
    assert worker.process.exitcode == 1
    assert "cannot be used" in worker.log.read_text()
    dead_letters = len(workers.dead_letters()) - len(topics)
    assert dead_letters < 500
    assert workers.lag() >= 500 - dead_letters


def test_stalled_worker_is_unhealthy_until_it_progresses(workers: Workers) -> None:
    workers.stalled_after_s = 4.0
    workers.send(START)
    worker = workers.start()
    workers.wait_caught_up()
    assert worker.get("/healthz")[0] == 200
    eventually(lambda: worker.get("/readyz")[0] == 200, "ready")
    workers.set_topic(STATE.name, {"max.message.bytes": "1"})
    workers.send([*enrollments(UDIDS), *reports("26.1", UDIDS)])
    eventually(lambda: worker.get("/healthz")[0] == 503, "unhealthy")
    assert workers.lag() > 0
    workers.set_topic(STATE.name, {"max.message.bytes": str(MAX_MESSAGE_BYTES)})
    workers.wait_caught_up()
    eventually(lambda: worker.get("/healthz")[0] == 200, "healthy again")
    assert len(workers.state()) == len(UDIDS)
