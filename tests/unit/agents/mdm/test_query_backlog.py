"""Queries that wait: servers that the site lacks or does not query, room, and a new leader."""

import pytest

from agents.mdm.query_backlog import QueryBacklog
from schemas.queries import MacQuery, QueryKind
from tests.factories import DAY, HOUR, NOW

INFORMATION, SECURITY = QueryKind.DEVICE_INFORMATION, QueryKind.SECURITY_INFO


def query(udid: str = "M1", server: str | None = "a", *, is_urgent: bool = False) -> MacQuery:
    return MacQuery(
        udid=udid,
        site="london",
        server=server,
        kind=INFORMATION,
        known_us=0,
        is_urgent=is_urgent,
        due_at=NOW,
        expires_at=NOW + DAY,
    )


def udids(backlog: QueryBacklog) -> list[str]:
    """Return the Macs whose queries may be sent now, in order."""
    found = []
    while (waiting := backlog.pop(NOW)) is not None:
        found.append(waiting.query.udid)
    return found


def test_macs_with_an_open_job_and_the_others_take_turns() -> None:
    backlog = QueryBacklog({"a": 4}, 10)
    for number in range(3):
        backlog.add(query(f"M{number}"))
        backlog.add(query(f"J{number}", is_urgent=True))
    assert udids(backlog) == ["J0", "M0", "J1", "M1"]


def test_query_of_an_unnamed_server_uses_the_budget_of_the_only_one() -> None:
    backlog = QueryBacklog({"a": 1}, 10)
    backlog.add(query("M1", None))
    backlog.add(query("M2"))
    assert udids(backlog) == ["M1"]


def test_query_without_a_server_of_the_site_uses_no_budget() -> None:
    backlog = QueryBacklog({"a": 1, "b": 1}, 10)
    for number, server in enumerate((None, None, "gone", "a", "a")):
        backlog.add(query(f"M{number}", server))
    assert sorted(udids(backlog)) == ["M0", "M1", "M2", "M3"]


def test_server_with_a_budget_of_zero_gets_no_query() -> None:
    backlog = QueryBacklog({"a": 0, "b": 1}, 10)
    assert backlog.add(query())
    assert len(backlog) == 0


def test_without_room_only_a_query_that_waits_is_replaced() -> None:
    backlog = QueryBacklog({"a": 1}, 1)
    assert backlog.add(query("M1"))
    assert not backlog.add(query("M2"))
    assert backlog.add(query("M1", is_urgent=True), offset=7)
    assert backlog.first_offset() == 7


@pytest.mark.parametrize("server", ["b", None])
def test_mac_that_moved_waits_for_its_new_server_only(server: str | None) -> None:
    backlog = QueryBacklog({"a": 1, "b": 1}, 10)
    backlog.add(query())
    backlog.add(query(server=server))
    assert (len(backlog), udids(backlog)) == (1, ["M1"])


def test_cleared_backlog_keeps_the_count_of_the_minute() -> None:
    backlog = QueryBacklog({"a": 1}, 10)
    backlog.add(query("M1"))
    assert udids(backlog) == ["M1"]
    backlog.add(query("M2"))
    backlog.clear()
    assert len(backlog) == 0
    backlog.add(query("M3"))
    assert backlog.pop(NOW) is None
    waiting = backlog.pop(NOW + HOUR)
    assert waiting is not None
    assert waiting.query.udid == "M3"
