"""What a worker does after a report that it knew by its bytes is what it does after decoding it."""

from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from pipeline.processors.device_shard import DeviceShard
from pipeline.processors.facts import Facts
from pipeline.processors.terms import Terms
from pipeline.processors.work import Work
from schemas.envelope import encode
from schemas.topics import ADVISORIES, CONTROL, INTERNAL_TOPICS, INVENTORY, TOPICS
from tests import factories as make
from tests.factories.sites import JOBS_KEY, KEYS

ONE_PARTITION = {topic.name: 1 for topic in (*TOPICS, *INTERNAL_TOPICS)}
LAST = datetime(2026, 1, 20, 12, tzinfo=UTC)


class Record(NamedTuple):
    offset: int
    key: bytes | None
    value: bytes | None


def shard() -> DeviceShard:
    facts = Facts(KEYS.approvals)
    facts.take(CONTROL.name, 0, encode(make.policy_changed()))
    for offset, version in enumerate(("26.1", "26.2")):
        facts.take(ADVISORIES.name, offset, encode(make.release(version)))
    found = DeviceShard(0, facts, Terms(JOBS_KEY, KEYS.jobs, ONE_PARTITION))
    found.begin(LAST)
    return found


def encoded_report(mac: str, version: str, minute: int, facts: dict[str, Any]) -> bytes:
    when = LAST - timedelta(minutes=minute)
    return encode(make.full_report(version, mac, when, serial=f"C02{mac}", **facts))


REPORTS = st.builds(
    encoded_report,
    st.sampled_from(["MAC-A", "MAC-B"]),
    st.sampled_from(["26.1", "26.2", "26.2"]),
    st.integers(0, 3000),
    st.sampled_from([{}, {}, {"free_disk_gb": 3.5}, {"free_disk_gb": 90.0}, {"hostname": "h"}]),
)
JUNK = st.sampled_from([b"", b"{", encode(make.polled("MAC-A"))])


@given(st.lists(st.lists(st.one_of(REPORTS, REPORTS, REPORTS, JUNK), max_size=9), max_size=4))
def test_work_is_the_same_as_after_decoding(rounds: list[list[bytes]]) -> None:
    by_bytes, decoding = shard(), shard()
    for raws in rounds:
        records = [Record(offset, None, raw) for offset, raw in enumerate(raws)]
        by_bytes.take(INVENTORY.name, records, LAST)
        for record in records:
            decoding._take(INVENTORY.name, record, LAST)
        assert _output(by_bytes.collect()) == _output(decoding.collect())
    assert by_bytes.engine.fleet.devices == decoding.engine.fleet.devices


def _output(work: Work) -> Any:
    ages = {topic: round(age_s, 3) for topic, age_s in work.tally.ages.items()}
    return work.posts, work.rows, work.tally.folded, ages, work.tally.decisions, work.tally.letters
