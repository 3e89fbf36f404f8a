"""The view of the topics has the content of the embedded service's data directory."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pipeline.embedded import reads
from pipeline.embedded.list_selection import ListName, Selection
from pipeline.embedded.log import Log
from pipeline.embedded.status import read_status
from pipeline.embedded.transaction import load_state
from pipeline.query.time_merge import Partition, TopicRecord
from pipeline.query.view import Trust, View
from pipeline.replay.explain import Explanation, explain
from pipeline.replay.log import read_record
from pipeline.replay.verify_topics import TopicsScope, verify_topics
from pipeline.trust.stamps import Stamps
from schemas.dead_letters import DeadLetterCode, Problem, make_dead_letter
from schemas.envelope import encode
from schemas.topics import ADVISORIES, CONTROL, DECISIONS, INVENTORY, ORDERS, RESULTS
from tests import factories as make
from tests.embedded_world import Environment, at, live, needy_macs, open_service
from tests.factories.sites import KEYS, START, critical_release, osquery_report, signed_control
from tests.unit.query.topics_of_a_log import topic_records

NOW = datetime.now(UTC)
TRUST = Trust(KEYS)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A day of needy Macs, a strike, a halt and a dead letter."""
    folder = tmp_path_factory.mktemp("embedded")
    environment = Environment.of(*needy_macs())
    service = open_service(folder, environment)
    live(service, environment, at(3))
    service.accept([make.struck(critical_release("26.1", "25B78"), at(3))], (), at(3))
    live(service, environment, at(20))
    problem = Problem(DeadLetterCode.NOT_JSON, "no JSON", "$")
    letter = make_dead_letter(
        problem, b"{", source="jamf", origin="webhook", received_at=START, redacted=b"{"
    )
    service.accept([make.halted(at(20), site="london")], [letter], at(20))
    service.close()
    return folder


def view_of(folder: Path, records: list[TopicRecord], batch: int) -> View:
    """Return a view with these records; it is closed and opened again after each batch."""
    view = View.open(folder, TRUST)
    for first in range(0, len(records), batch):
        view.close()
        view = View.open(folder, TRUST)
        # As after each start, the advisories and control events are read from the beginning.
        known = [one for one in records[:first] if view.begin_at(partition_of(one), 0, first) == 0]
        view.add([*known, *records[first : first + batch]], {})
    return view


def partition_of(record: TopicRecord) -> Partition:
    return Partition(record.topic, record.partition)


def content(log: Log, state: Any) -> dict[str, Any]:
    """Return what the commands show, without the times of receipt."""
    found: dict[str, Any] = {"status": read_status(log, NOW).to_json()}
    assert reads.status(state, NOW) == found["status"]
    del found["status"]["last_at"]
    for name in ListName:
        found[name] = reads.rows(name, Selection())(state, at(21))
    for row in found[ListName.DEVICES]:
        found_mac = explain(log, row["udid"])
        assert found_mac is not None
        found[row["udid"]] = shown(found_mac)
    found["letters"] = [one.body for one in log.dead_letters()]
    return found


def shown(found: Explanation) -> dict[str, Any]:
    return {
        "record": found.record,
        "decisions": [(one.at, one.decision) for one in found.decisions],
        "jobs": [
            (story.job, story.outcome, [s.outcome for s in story.steps]) for story in found.jobs
        ],
        "events": [one.event.id for one in found.events],
        "methods": found.methods,
        "rules": found.rules,
    }


class State:
    """A data directory, loaded."""

    def __init__(self, log: Log) -> None:
        self.store = log
        self.reconciler = load_state(log)


@pytest.mark.parametrize("batch", [7, 10_000])
def test_view_has_the_content_of_the_data_directory(
    data_dir: Path, tmp_path: Path, batch: int
) -> None:
    records = [*topic_records(data_dir)]
    assert {one.topic for one in records} > {DECISIONS.name, ORDERS.name, CONTROL.name}
    view = view_of(tmp_path, records, batch)
    named = {read_record(one).inputs.catalog_digest for one in view.store.entries(kind="decision")}
    assert all(map(view.store.has_blob, named))
    assert verify_topics(view.store, TopicsScope(), grace=timedelta(0)).difference is None
    with Log.open(data_dir) as log:
        wanted = content(log, State(log))
    assert content(view.store, view) == wanted
    view.close()
    with Log.open(tmp_path) as log:
        assert content(log, State(log)) == wanted


def test_view_knows_a_mac_whose_reports_have_left_their_topic(
    data_dir: Path, tmp_path: Path
) -> None:
    records = [one for one in topic_records(data_dir) if one.topic != INVENTORY.name]
    view = view_of(tmp_path, records, 10_000)
    rows = reads.rows(ListName.DEVICES, Selection())(view, NOW)
    assert {row["udid"] for row in rows} == {spec.udid for spec in needy_macs()}
    assert all(row["os_version"] and row["decision"] for row in rows)
    view.close()


def test_view_counts_the_jobs_whose_orders_have_left_their_topic(
    data_dir: Path, tmp_path: Path
) -> None:
    lost = {ORDERS.name, RESULTS.name}
    records = [one for one in topic_records(data_dir) if one.topic not in lost]
    view = view_of(tmp_path, records, 10_000)
    found = reads.status(view, NOW)
    assert found == read_status(view.store, NOW).to_json()
    assert found["open_jobs"]
    view.close()


@pytest.fixture
def unusable() -> list[str]:
    return []


@pytest.fixture
def view(tmp_path: Path, unusable: list[str]) -> Iterator[View]:
    stamps = Stamps([b"k" * 16])
    view = View.open(tmp_path, Trust(KEYS, stamps), lambda _, reason: unusable.append(reason))
    yield view
    view.close()


def a_record(topic: str, raw: bytes, offset: int = 0) -> TopicRecord:
    return TopicRecord(topic, 0, offset, 0, b"k", raw)


@pytest.mark.parametrize(
    ("topic", "raw", "reason"),
    [
        (INVENTORY.name, encode(osquery_report()), "no gateway or feed stamped it"),
        (ADVISORIES.name, encode(make.release("26.2")), "no gateway or feed stamped it"),
        (CONTROL.name, encode(make.halted(START, site="london")), "signature"),
        (CONTROL.name, signed_control(make.halted(START))[:-9], "JSON"),
        (DECISIONS.name, b"{}", "not a decision record"),
        (ORDERS.name, encode(osquery_report()), "does not belong here"),
    ],
    ids=["report", "advisory", "halt", "unreadable", "decision", "order"],
)
def test_record_that_a_worker_rejects_has_no_effect(
    view: View, unusable: list[str], topic: str, raw: bytes, reason: str
) -> None:
    view.add([a_record(topic, raw)], {})
    assert len(unusable) == 1
    assert reason in unusable[0]
    assert view.next_offset(Partition(topic, 0)) == 1
    assert view.store.last_seq() == 0
    assert read_status(view.store, NOW).halts == []


def test_lost_records_and_topics_created_again_are_noticed(view: View) -> None:
    partition = Partition(INVENTORY.name, 0)
    assert view.begin_at(partition, 3, 9) == 3
    view.add([a_record(INVENTORY.name, encode(osquery_report()), 4)], {})
    assert (view.begin_at(partition, 0, 9), view.lost.total()) == (5, 0)
    assert (view.begin_at(partition, 8, 9), view.lost[INVENTORY.name]) == (8, 3)
    with pytest.raises(ValueError, match="created again"):
        view.begin_at(partition, 0, 2)


@pytest.mark.parametrize("topic", [ADVISORIES.name, CONTROL.name])
def test_records_that_change_catalogues_are_read_again_and_have_effect_once(
    data_dir: Path, tmp_path: Path, topic: str
) -> None:
    records = [one for one in topic_records(data_dir) if one.topic == topic]
    view = View.open(tmp_path, TRUST)
    view.add(records, {})
    logged = view.store.last_seq()
    assert logged == len(records)
    assert view.begin_at(Partition(topic, 0), 0, 99) == 0
    view.add(records, {})
    assert view.store.last_seq() == logged
    view.close()


def test_old_entries_are_deleted_and_the_last_decision_stays(
    data_dir: Path, tmp_path: Path
) -> None:
    view = View.open(tmp_path, TRUST, keep=timedelta(days=1))
    view.add(topic_records(data_dir), {})
    before = view.store.last_seq()
    for day in range(1, 5):
        for _ in range(5):
            view.work(START + timedelta(days=day))
        view.add([a_record(CONTROL.name, signed_control(make.halted(at(day), site="x")), 99)], {})
    left = [*view.store.entries()]
    assert len(left) < before / 2
    for spec in needy_macs():
        assert view.store.last_decision(spec.udid) is not None
    view.close()
