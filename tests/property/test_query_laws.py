"""Laws of the times of queries: none twice in its interval, and all that are due are asked."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from pipeline.decide.queries import EVERY, OPEN_JOB_EVERY, QueryNeed
from pipeline.reconcile.query_queue import QueryQueue
from pipeline.state.device import duration_us, to_us
from schemas.queries import MacQuery, QueryKind
from tests.factories import NOW

MINUTE = timedelta(minutes=1)
SERVERS = (("london", "a"), ("london", "b"), ("tokyo", None))
KIND = QueryKind.DEVICE_INFORMATION


@dataclass
class Fleet:
    """Macs with the time of their newest report, their server and whether they have a job."""

    queried: set[tuple[str, str | None]] = field(default_factory=lambda: set(SERVERS))
    known_us: dict[str, int] = field(default_factory=dict)
    server: dict[str, tuple[str, str | None]] = field(default_factory=dict)
    with_job: set[str] = field(default_factory=set)

    def needs(self, udid: str, _: datetime) -> Iterable[QueryNeed]:
        if udid not in self.server:
            return ()
        site, server = self.server[udid]
        has_job = udid in self.with_job
        every = duration_us(OPEN_JOB_EVERY if has_job else EVERY)
        return (QueryNeed(site, server, KIND, self.known_us[udid], every, has_job, 0),)

    def queue(self) -> QueryQueue:
        queue = QueryQueue(self.needs, lambda site, server: (site, server) in self.queried)
        for udid in self.server:
            queue.update(udid, NOW)
        return queue


@st.composite
def fleets(draw: st.DrawFn) -> Fleet:
    fleet = Fleet()
    for number in range(draw(st.integers(1, 30))):
        udid = f"M{number}"
        hours = draw(st.none() | st.integers(0, 48))
        fleet.known_us[udid] = 0 if hours is None else to_us(NOW - timedelta(hours=hours))
        fleet.server[udid] = draw(st.sampled_from(SERVERS))
        if draw(st.booleans()):
            fleet.with_job.add(udid)
    return fleet


def run(queue: QueryQueue, minutes: int, limit: int = 100) -> list[tuple[datetime, MacQuery]]:
    """Return the queries of this many minutes, each with its time."""
    asked, now = [], NOW
    while now < NOW + minutes * MINUTE:
        found = queue.pop_due(now, limit)
        assert len(found) <= limit
        asked += [(now, query) for query in found]
        now += MINUTE
    return asked


@given(fleets())
def test_query_without_an_answer_is_asked_again_only_after_its_interval(fleet: Fleet) -> None:
    last: dict[str, datetime] = {}
    for at, query in run(fleet.queue(), 180):
        every = OPEN_JOB_EVERY if query.udid in fleet.with_job else EVERY
        if query.udid in last:
            assert at - last[query.udid] >= every
        last[query.udid] = at


@given(fleets(), st.integers(1, 10))
def test_every_stale_mac_is_asked_as_soon_as_the_limit_allows(fleet: Fleet, limit: int) -> None:
    stale = {
        udid
        for udid, known_us in fleet.known_us.items()
        if not known_us
        or known_us + duration_us(OPEN_JOB_EVERY if udid in fleet.with_job else EVERY) <= to_us(NOW)
    }
    asked = run(fleet.queue(), -(-len(stale) // limit) if stale else 1, limit)
    assert {query.udid for _, query in asked} >= stale


@given(fleets(), st.lists(st.integers(0, 600), min_size=1, max_size=20))
def test_report_only_postpones_the_query(fleet: Fleet, minutes: list[int]) -> None:
    queue = fleet.queue()
    for minute in sorted(minutes):
        now = NOW + minute * MINUTE
        queue.pop_due(now, 100)
        for udid in fleet.server:
            fleet.known_us[udid] = to_us(now)
    end = NOW + max(minutes) * MINUTE
    for query in queue.pop_due(end + timedelta(days=3), 100):
        every = OPEN_JOB_EVERY if query.udid in fleet.with_job else EVERY
        assert query.due_at == end + every


@given(fleets(), st.data())
def test_answered_mac_is_not_asked_before_its_interval(fleet: Fleet, data: st.DataObject) -> None:
    queue = fleet.queue()
    udid = data.draw(st.sampled_from(sorted(fleet.server)))
    fleet.known_us[udid] = to_us(NOW)
    queue.update(udid, NOW)
    assert udid not in {query.udid for _, query in run(queue, 59)}


@given(fleets(), st.sampled_from(SERVERS))
def test_macs_of_a_site_in_dry_run_are_never_asked(
    fleet: Fleet, dry: tuple[str, str | None]
) -> None:
    fleet.queried.discard(dry)
    asked = run(fleet.queue(), 60)
    assert dry not in {fleet.server[query.udid] for _, query in asked}


@given(fleets(), st.data())
def test_mac_that_needs_no_query_any_more_is_not_asked(fleet: Fleet, data: st.DataObject) -> None:
    queue = fleet.queue()
    udid = data.draw(st.sampled_from(sorted(fleet.server)))
    del fleet.server[udid]
    if data.draw(st.booleans(), label="the queue has news of it"):
        queue.update(udid, NOW)
    others = run(queue, 60)
    assert udid not in {query.udid for _, query in others}


@given(fleets(), st.data())
def test_mac_that_moved_is_asked_by_its_new_server(fleet: Fleet, data: st.DataObject) -> None:
    queue = fleet.queue()
    for udid in sorted(fleet.server):
        fleet.server[udid] = data.draw(st.sampled_from(SERVERS))
    asked = run(queue, 60)
    assert all((query.site, query.server) == fleet.server[query.udid] for _, query in asked)


@given(fleets())
def test_next_time_is_now_only_if_there_is_work_now(fleet: Fleet) -> None:
    queue = fleet.queue()
    while queue.next_due_at(NOW) == NOW:
        queue.pop_due(NOW, 5)
    assert queue.pop_due(NOW, 5) == []
