"""The queries of a site, from the topic of a real broker to the one agent that leads."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from unittest.mock import Mock

import pytest
from kafka import KafkaAdminClient, KafkaProducer  # type: ignore[import-untyped]

from agents.consumer_group import GroupMember
from agents.mdm.queries import MacQueries, QueryOutcome, QuerySender
from agents.query_reader import QueryReader, queries_group
from pipeline.payload_signing import sign_query
from runtime.kafka import KafkaConnection
from runtime.logs import make_log
from schemas.queries import MacQuery, QueryKind
from schemas.topics import queries_topic
from tests.factories.sites import JOBS_KEY, KEYS, STRANGER_KEY
from tests.kafka.brokers import KafkaCluster
from tests.kafka.topics import make_topics
from tests.waiting import wait_until

LIMIT_S = 60.0
BUDGET = {"main": 60_000}


def now() -> datetime:
    return datetime.now(UTC)


class Agent:
    """A reader with its sender; `sent` are the Macs that it queried."""

    def __init__(self, bootstrap: str, site: str, budget: dict[str, int]) -> None:
        self.sent: list[str] = []
        self.minutes: Counter[datetime] = Counter()
        self.outcomes: list[QueryOutcome] = []
        self.may_send = threading.Event()
        self.may_send.set()
        queries = Mock(spec=MacQueries)
        queries.send.side_effect = self._send
        self.sender = QuerySender(
            queries, budget, now, lambda outcome, _: self.outcomes.append(outcome), make_log()
        )
        member = GroupMember(site, "one", session_s=6.0)
        self.reader = QueryReader(
            *(KafkaConnection(bootstrap=bootstrap), member, self.sender),
            *(lambda: KEYS, now, make_log()),
        )

    def _send(self, query: MacQuery) -> QueryOutcome:
        self.may_send.wait(LIMIT_S)
        self.sent.append(query.udid)
        self.minutes[now().replace(second=0, microsecond=0)] += 1
        return QueryOutcome.SENT

    def stop(self) -> None:
        """Leave the group, then end the sender."""
        self.reader.stop()
        self.reader.join(LIMIT_S)
        self.sender.stop()


@contextmanager
def running(bootstrap: str, site: str, budget: dict[str, int] | None = None) -> Iterator[Agent]:
    agent = Agent(bootstrap, site, budget or BUDGET)
    agent.sender.start()
    agent.reader.start()
    try:
        yield agent
    finally:
        agent.may_send.set()
        agent.stop()


def a_query(udid: str, site: str, *, expires_in: timedelta = timedelta(hours=1)) -> MacQuery:
    return MacQuery(
        udid=udid,
        site=site,
        server="main",
        kind=QueryKind.DEVICE_INFORMATION,
        known_us=0,
        due_at=now(),
        expires_at=now() + expires_in,
    )


def has_waiting(agent: Agent) -> bool:
    return agent.sender.first_offset() is not None


def sent_by(agents: Iterable[Agent]) -> list[str]:
    return [udid for agent in agents for udid in agent.sent]


def has_sent(agents: Iterable[Agent], udid: str) -> bool:
    return udid in sent_by(agents)


def is_stable(admin: KafkaAdminClient, group: str, members: int) -> bool:
    described = admin.describe_groups([group])[group]
    return described["group_state"] == "Stable" and len(described["members"]) == members


@pytest.fixture
def publish(kafka: KafkaCluster) -> Iterator[Callable[..., None]]:
    producer = KafkaProducer(bootstrap_servers=kafka.bootstrap)

    def send(topic_site: str, *queries: MacQuery, key: object = JOBS_KEY) -> None:
        for query in queries:
            value = sign_query(query, key).model_dump_json().encode()  # type: ignore[arg-type]
            producer.send(queries_topic(topic_site), key=query.udid.encode(), value=value).get(30)

    yield send
    producer.close()


def test_one_agent_leads_and_another_one_continues_after_it(
    kafka: KafkaCluster, publish: Callable[..., None]
) -> None:
    site = "leading"
    make_topics(kafka.bootstrap, site)
    with (
        running(kafka.bootstrap, site) as first,
        running(kafka.bootstrap, site) as second,
    ):
        publish(site, a_query("M1", site))
        wait_until(lambda: first.sent + second.sent == ["M1"], LIMIT_S, "M1 is not queried")
        # What the leader has not sent when it ends is sent by the next one.
        for agent in (first, second):
            agent.may_send.clear()
        publish(site, a_query("M2", site), a_query("M3", site))
        wait_until(lambda: any(map(has_waiting, (first, second))), LIMIT_S, "M2 does not wait")
        leader, other = (first, second) if has_waiting(first) else (second, first)
        other.may_send.set()
        leader.reader.stop()
        leader.reader.join(LIMIT_S)
        wait_until(lambda: {"M2", "M3"} <= {*other.sent}, LIMIT_S, "nobody continues")
        assert (first.sent + second.sent).count("M1") == 1
        leader.may_send.set()


def test_rebalance_does_not_repeat_what_was_sent(
    kafka: KafkaCluster, publish: Callable[..., None]
) -> None:
    site = "rebalanced"
    make_topics(kafka.bootstrap, site)
    admin = KafkaAdminClient(bootstrap_servers=kafka.bootstrap)
    group = queries_group(site)
    # Each agent joins before a timed commit covers what was sent.
    with closing(admin), ExitStack() as stack:
        agents: list[Agent] = []
        for number in range(4):
            agents.append(stack.enter_context(running(kafka.bootstrap, site)))
            publish(site, a_query(f"M{number}", site))
            wait_until(partial(is_stable, admin, group, len(agents)), LIMIT_S, "no member more")
            wait_until(partial(has_sent, agents, f"M{number}"), LIMIT_S, "not queried")
        assert sorted(sent_by(agents)) == ["M0", "M1", "M2", "M3"]


def test_restarted_agent_does_not_repeat_what_was_sent(
    kafka: KafkaCluster, publish: Callable[..., None]
) -> None:
    site = "restarted"
    make_topics(kafka.bootstrap, site)
    publish(site, a_query("M1", site))
    with running(kafka.bootstrap, site) as agent:
        wait_until(lambda: agent.sent == ["M1"], LIMIT_S, "M1 is not queried")
    publish(site, a_query("M2", site))
    with running(kafka.bootstrap, site) as agent:
        wait_until(lambda: agent.sent == ["M2"], LIMIT_S, "M2 is not queried")


def test_queries_that_are_not_signed_for_the_site_or_have_expired_are_not_sent(
    kafka: KafkaCluster, publish: Callable[..., None]
) -> None:
    site = "signed"
    make_topics(kafka.bootstrap, site)
    publish(site, a_query("FORGED", site), key=STRANGER_KEY)
    publish(site, a_query("ELSEWHERE", "other"))
    publish(site, a_query("OLD", site, expires_in=timedelta(seconds=-1)))
    publish(site, a_query("M1", site))
    with running(kafka.bootstrap, site) as agent:
        wait_until(lambda: bool(agent.sent), LIMIT_S, "M1 is not queried")
        time.sleep(1)
        assert agent.sent == ["M1"]
        assert agent.outcomes.count(QueryOutcome.REFUSED) == 2


def test_budget_holds_and_the_rest_waits(kafka: KafkaCluster, publish: Callable[..., None]) -> None:
    site = "budget"
    make_topics(kafka.bootstrap, site)
    publish(site, *(a_query(f"M{number}", site) for number in range(20)))
    with running(kafka.bootstrap, site, {"main": 3}) as agent:
        wait_until(lambda: len(agent.sent) >= 3, LIMIT_S, "no Mac is queried")
        # At least: after a rebalance the last records are read again.
        wait_until(
            lambda: len({*agent.sent}) + agent.sender.waiting() >= 20, LIMIT_S, "queries lost"
        )
        # A query can be popped in one minute and sent in the next.
        assert sum(agent.minutes.values()) <= 3 * (len(agent.minutes) + 1)
