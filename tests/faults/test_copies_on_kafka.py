"""Damaged local copies on a real broker: agents and workers go on with all partitions."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from random import Random
from sqlite3 import connect

import pytest

from schemas.topics import STATE
from tests import factories
from tests.factories import NOW
from tests.faults import damage
from tests.kafka.agent_site import AgentSite, eventually
from tests.kafka.broker_fixtures import empty_kafka, kafka, leaky_clients
from tests.kafka.brokers import KafkaCluster
from tests.kafka.workers import Workers, workers

__all__ = ["empty_kafka", "kafka", "leaky_clients", "workers"]
PARTITIONS = 4
UDIDS = [f"MAC-{number}" for number in range(40)]
DAMAGED = 'drydock_damaged_files_total{store="journal"}'

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
]


@pytest.fixture
def site(
    kafka: KafkaCluster,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> Iterator[AgentSite]:
    name = request.node.name.partition("[")[0].removeprefix("test_").replace("_", "-")[:50]
    name += request.node.callspec.params["kind"].replace("_", "-")
    with AgentSite.at(kafka, tmp_path, name, 8) as made:
        yield made


def devices(workers: Workers) -> dict[str, object]:
    return {udid: row["device"] for udid, row in workers.state().items()}


def journals(folder: Path) -> list[Path]:
    return sorted(folder.glob("*-[0-9].sqlite"))


@pytest.mark.parametrize("kind", ["zero_header", "flip_page", "truncate"])
def test_agent_makes_a_damaged_journal_anew(site: AgentSite, kind: str) -> None:
    agent = site.start("one")
    site.is_assigned(agent, PARTITIONS)
    first = site.prompts(4)
    site.order(*first)
    site.are_done(first)
    agent.kill()
    for number, path in enumerate(journals(agent.data_dir)):
        with closing(connect(path)) as db:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        damage.DAMAGES[kind](path, Random(number))
    agent = site.start("one")
    site.is_assigned(agent, PARTITIONS)
    more = [job for job in site.prompts(8) if job not in first]
    site.order(*first, *more)
    site.are_done(more)
    assert site.acted() == sorted(job.job_id for job in [*first, *more])
    eventually(lambda: agent.metric(DAMAGED) >= 1, "the damage is counted")
    assert list(agent.data_dir.glob("*.damaged-*Z"))


def test_worker_with_damaged_stores_decides_for_all_macs(
    workers: Workers,
) -> None:
    workers.send([factories.policy_changed(), factories.release("26.1")])
    workers.send([event for udid in UDIDS for event in factories.enrolled(udid)])
    workers.send([factories.full_report("26.1", udid, NOW, serial=f"C02{udid}") for udid in UDIDS])
    worker = workers.start()
    workers.wait_caught_up()
    before = devices(workers)
    worker.kill()
    for number, path in enumerate(sorted((worker.data_dir / STATE.name).glob("*.sqlite"))):
        with closing(connect(path)) as db:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        if number % 2:
            damage.flip_page(path, Random(number))
        else:
            damage.change_text(path, b"26.1", b"26.0")
    again = workers.start(worker.data_dir)
    workers.wait_caught_up()
    workers.send([factories.full_report("26.1", UDIDS[0], NOW, serial=f"C02{UDIDS[0]}")])
    workers.wait_caught_up()
    assert again.runs
    assert devices(workers) == before
    assert list((worker.data_dir / STATE.name).glob("*.damaged-*Z"))
