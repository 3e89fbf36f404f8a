"""Laws of the queries that wait: the budget of a server, turns of the lanes, one for each Mac."""

from collections import Counter
from datetime import datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from agents.mdm.query_backlog import QueryBacklog
from schemas.queries import MacQuery, QueryKind
from tests.factories import DAY, NOW

MINUTE = timedelta(minutes=1)
BUDGETS = st.fixed_dictionaries({"a": st.integers(1, 4), "b": st.integers(1, 4)})


@st.composite
def queries(draw: st.DrawFn) -> MacQuery:
    return MacQuery(
        udid=f"M{draw(st.integers(0, 20))}",
        site="london",
        server=draw(st.sampled_from(("a", "b"))),
        kind=draw(st.sampled_from(QueryKind)),
        known_us=draw(st.integers(0, 3)),
        is_urgent=draw(st.booleans()),
        due_at=NOW,
        expires_at=NOW + DAY,
    )


LISTS = st.lists(queries(), max_size=60)


def filled(budgets: dict[str, int], asked: list[MacQuery]) -> QueryBacklog:
    backlog = QueryBacklog(budgets, 1000)
    for offset, query in enumerate(asked):
        assert backlog.add(query, offset)
    return backlog


def run(backlog: QueryBacklog, step: timedelta, until: datetime) -> list[tuple[datetime, MacQuery]]:
    """Return the queries up to this time, each with its time."""
    sent, now = [], NOW
    while now < until:
        while (waiting := backlog.pop(now)) is not None:
            sent.append((now, waiting.query))
        now += step
    return sent


@given(BUDGETS, LISTS, st.integers(5, 90))
def test_no_minute_has_more_queries_than_the_budget_of_the_server(
    budgets: dict[str, int], asked: list[MacQuery], step_s: int
) -> None:
    sent = run(filled(budgets, asked), timedelta(seconds=step_s), NOW + 2 * timedelta(hours=1))
    counts = Counter((at.replace(second=0), query.server) for at, query in sent)
    assert all(count <= budgets[str(server)] for (_, server), count in counts.items())


@given(BUDGETS, LISTS)
def test_each_mac_gets_the_last_query_of_each_kind_once(
    budgets: dict[str, int], asked: list[MacQuery]
) -> None:
    last = {(query.udid, query.kind): query for query in asked}
    backlog = filled(budgets, asked)
    assert len(backlog) == len(last)
    sent = [query for _, query in run(backlog, MINUTE, NOW + 5 * timedelta(hours=1))]
    assert {(query.udid, query.kind): query for query in sent} == last
    assert len(sent) == len(last)
    assert (len(backlog), backlog.first_offset()) == (0, None)


@given(BUDGETS, LISTS)
def test_each_query_is_sent_within_the_time_for_its_lane_at_half_the_budget(
    budgets: dict[str, int], asked: list[MacQuery]
) -> None:
    last = {(query.udid, query.kind): query for query in asked}
    lanes = Counter((query.server, query.is_urgent) for query in last.values())
    for at, query in run(filled(budgets, asked), MINUTE, NOW + 5 * timedelta(hours=1)):
        size = lanes[query.server, query.is_urgent]
        assert at <= NOW + MINUTE * -(-2 * size // budgets[str(query.server)])


@given(BUDGETS, LISTS)
def test_first_offset_is_that_of_a_query_that_still_waits(
    budgets: dict[str, int], asked: list[MacQuery]
) -> None:
    backlog = filled(budgets, asked)
    newest = {(query.udid, query.kind): offset for offset, query in enumerate(asked)}
    now = NOW
    while newest:
        assert backlog.first_offset() == min(newest.values())
        while (waiting := backlog.pop(now)) is not None:
            assert newest.pop((waiting.query.udid, waiting.query.kind)) == waiting.offset
        now += MINUTE


@given(BUDGETS, LISTS)
def test_expired_queries_are_dropped_without_use_of_the_budget(
    budgets: dict[str, int], asked: list[MacQuery]
) -> None:
    backlog = filled(budgets, asked)
    assert backlog.pop(NOW + DAY) is None
    assert len(backlog) == 0
    for query in asked[:1]:
        backlog.add(query.model_copy(update={"expires_at": NOW + 2 * DAY}))
        assert backlog.pop(NOW + DAY) is not None
