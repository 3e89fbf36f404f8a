"""`drydock replay --verify` of a fleet: nothing differs, and each altered record is found."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from pipeline.query.time_merge import TopicRecord
from pipeline.query.view import Trust, View
from pipeline.replay.verify import Check
from pipeline.replay.verify_topics import TopicsScope, verify_topics
from schemas.topics import DECISIONS, INVENTORY, ORDERS
from tests.embedded_world import Environment, at, live, needy_macs, open_service
from tests.factories.sites import KEYS
from tests.unit.query.topics_of_a_log import topic_records

NO_GRACE = timedelta(0)
Alter = Callable[[list[TopicRecord]], list[TopicRecord]]


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[TopicRecord]:
    """The topics of a day of needy Macs."""
    folder = tmp_path_factory.mktemp("embedded")
    environment = Environment.of(*needy_macs())
    service = open_service(folder, environment)
    live(service, environment, at(30))
    service.close()
    return [*topic_records(folder)]


@contextmanager
def viewed(folder: Path, records: list[TopicRecord]) -> Iterator[View]:
    view = View.open(folder, Trust(KEYS))
    view.add(records, {})
    yield view
    view.close()


def test_recorded_topics_have_no_difference(records: list[TopicRecord], tmp_path: Path) -> None:
    with viewed(tmp_path, records) as view:
        report = verify_topics(view.store, TopicsScope(), grace=NO_GRACE)
        assert report.difference is None
        assert report.decisions == sum(one.topic == DECISIONS.name for one in records)
        assert report.jobs > 5
        one = verify_topics(view.store, TopicsScope(at(1), at(9), "MAC-DDM", "london"))
        assert 0 < one.decisions < report.decisions
        assert one.difference is None
        assert verify_topics(view.store, TopicsScope(site="tokyo")).decisions == 0


def late(records: list[TopicRecord], topic: str) -> TopicRecord:
    """Return the first record of the topic's second half."""
    found = [one for one in records if one.topic == topic]
    return found[len(found) // 2]


def without(topic: str) -> Alter:
    return lambda records: [one for one in records if one is not late(records, topic)]


def replaced(
    records: list[TopicRecord], old: TopicRecord, change: Callable[[bytes], bytes]
) -> list[TopicRecord]:
    assert change(old.value) != old.value
    new = old._replace(value=change(old.value))
    return [new if one is old else one for one in records]


def other_verdict(records: list[TopicRecord]) -> list[TopicRecord]:
    def change(raw: bytes) -> bytes:
        return raw.replace(b'"decision":"hold"', b'"decision":"nothing"', 1)

    held = [one for one in records if b'"decision":"hold"' in one.value]
    return replaced(records, held[-1], change)


def other_report(records: list[TopicRecord]) -> list[TopicRecord]:
    """Change the free disk in each late report: decisions have the value of the old one."""
    reports = [one for one in records if one.topic == INVENTORY.name]
    for one in reports[len(reports) // 3 :]:
        fields = json.loads(one.value)
        fields["data"]["free_disk_gb"] = 77.0
        new = one._replace(value=json.dumps(fields, separators=(",", ":")).encode())
        records = [new if other is one else other for other in records]
    return records


def without_a_late_sender(records: list[TopicRecord]) -> list[TopicRecord]:
    """Drop the last decision that sends a job: its order is left."""
    sent = [one for one in records if b'{"decision":{' in one.value and b'"send"' in one.value]
    return [one for one in records if one is not sent[-1]]


@pytest.mark.parametrize(
    ("alter", "check"),
    [
        pytest.param(other_verdict, Check.FROM_RECORD, id="altered decision"),
        pytest.param(other_report, Check.FROM_LOG, id="altered reports"),
        pytest.param(without(ORDERS.name), Check.ORDERED, id="lost order"),
        pytest.param(without_a_late_sender, Check.ORDERED, id="order without a decision"),
    ],
)
def test_altered_record_is_found(
    records: list[TopicRecord], tmp_path: Path, alter: Alter, check: Check
) -> None:
    with viewed(tmp_path, alter(records)) as view:
        found = verify_topics(view.store, TopicsScope(), grace=NO_GRACE).difference
    assert found is not None
    assert found.check is check
    assert found.udid is not None


def position_of_sender(records: list[TopicRecord]) -> int:
    """Return the position of the last decision that sends a job."""
    is_sender = [b'{"decision":{' in one.value and b'"send"' in one.value for one in records]
    return max(number for number, found in enumerate(is_sender) if found)


def test_job_of_the_last_minutes_may_lack_its_order(
    records: list[TopicRecord], tmp_path: Path
) -> None:
    until_sent = records[: position_of_sender(records) + 1]
    with viewed(tmp_path, until_sent) as view:
        assert verify_topics(view.store, TopicsScope(), grace=NO_GRACE).difference is None
        found = verify_topics(
            view.store, TopicsScope(), grace=NO_GRACE, end_grace=timedelta(0)
        ).difference
        assert found is not None
        assert found.check is Check.ORDERED


def test_order_of_the_last_minutes_may_lack_its_decision(
    records: list[TopicRecord], tmp_path: Path
) -> None:
    at_sender = position_of_sender(records)
    order = next(n for n in range(at_sender, len(records)) if records[n].topic == ORDERS.name)
    left = [*records[:at_sender], *records[at_sender + 1 : order + 1]]
    with viewed(tmp_path, left) as view:
        assert verify_topics(view.store, TopicsScope(), grace=NO_GRACE).difference is None


def test_repeated_decision_of_an_issued_job_is_no_difference(
    records: list[TopicRecord], tmp_path: Path
) -> None:
    sender = records[position_of_sender(records)]
    with viewed(tmp_path, records) as view:
        view.add([sender._replace(offset=10_000)], {})
        report = verify_topics(view.store, TopicsScope(), grace=NO_GRACE)
        assert report.decisions == sum(one.topic == DECISIONS.name for one in records) + 1
        assert report.difference is None


def test_log_is_complete_after_its_start_and_not_after_a_kept_decision(
    records: list[TopicRecord], tmp_path: Path
) -> None:
    """Retention keeps the last decision of a Mac that is quiet since the first hours."""
    seen = len(records) * 2 // 3
    early, late = records[:seen], records[seen:]
    quiet = b"MAC-GONE"
    begin = [one for number, one in enumerate(early) if number < 30 or one.key != quiet]
    view = View.open(tmp_path, Trust(KEYS), keep=timedelta(hours=1))
    view.add(begin, {})
    for hours in (100, 102, 102):
        view.work(at(hours))
    view.add([one for one in late if one.key != quiet], {})
    start, entries = view.store.start_seq(), [*view.store.entries()]
    assert 0 < start < len(begin) + 1
    after = next(one for one in entries if one.seq > start)
    assert entries[0].kind == "decision"
    grace = timedelta(hours=4)
    assert entries[0].at + grace < after.at < at(30) - grace
    report = verify_topics(view.store, TopicsScope(), grace=grace)
    assert report.difference is None
    assert report.decisions == sum(one.kind == "decision" for one in entries)
    view.close()
