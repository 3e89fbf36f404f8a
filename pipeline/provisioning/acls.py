"""The access that each program needs in Kafka, as access control lists. Pure.

A cluster with an authorizer refuses what no list allows (`allow.everyone.if.no.acl.found=false`,
Kafka's default). Each program has a login of its own; the login of a site's agent has the topics of
this site alone. Read, Write, Alter and Delete include Describe.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from pipeline.provisioning.plan import PREFIX
from schemas.topics import (
    ADVISORIES,
    ATTEMPTS,
    CHECKINS,
    CONTROL,
    DEAD_LETTERS,
    DECISIONS,
    DISPATCH,
    DISPATCH_STATE,
    FEEDS,
    HALTS,
    INPUT_TOPICS,
    INVENTORY,
    JOBS,
    ORDERS,
    QUERIES,
    RESULTS,
    STATE,
    Topic,
    attempts_topic,
    jobs_topic,
    queries_topic,
)

_JOBS_PREFIX: Final = JOBS.name.partition("{site}")[0]
CLUSTER_NAME: Final = "kafka-cluster"
# The defaults of the programs' settings.
FEEDS_GROUP: Final = "drydock-feeds"
WORKER_GROUP: Final = "drydock-worker"
FEEDS_TRANSACTION: Final = "drydock.feeds"


class Resource(StrEnum):
    """A kind of resource, by Kafka's own names."""

    TOPIC = "topic"
    GROUP = "group"
    TRANSACTIONAL_ID = "transactional_id"
    CLUSTER = "cluster"


class Operation(StrEnum):
    """An operation on a resource, by Kafka's own names."""

    READ = "read"
    WRITE = "write"
    CREATE = "create"
    ALTER = "alter"
    DESCRIBE = "describe"
    DESCRIBE_CONFIGS = "describe_configs"
    ALTER_CONFIGS = "alter_configs"


@dataclass(frozen=True, slots=True, order=True)
class Access:
    """One operation that a principal is allowed, from every host.

    `principal` is `User:` and the name of a login. `is_prefix`: `name` is the beginning of the
    names of resources.
    """

    principal: str
    resource: Resource
    name: str
    operation: Operation
    is_prefix: bool = False


class Program(StrEnum):
    """A user of Kafka. `AGENT` has one login for each site."""

    GATEWAY = "gateway"
    FEEDS = "feeds"
    WORKER = "worker"
    AGENT = "agent"
    OPERATOR = "operator"
    TOPICS = "topics"
    QUERY = "query"
    ON_CALL = "on-call"


def default_login(program: Program, site: str = "") -> str:
    """Return the name of a login: `drydock-worker`, `drydock-agent-london`."""
    return f"drydock-{program}-{site}" if site else f"drydock-{program}"


def wanted_access(sites: Sequence[str], logins: Mapping[str, str]) -> list[Access]:
    """Return the access of every program, sorted.

    `logins` has the logins that differ from `default_login`, by the name of the program; that of an
    agent is `agent.<site>`.
    """
    found: list[Access] = []
    for program, access in _ACCESS.items():
        login = logins.get(program, default_login(program))
        found += access(_Grant(f"User:{login}"))
    for site in sites:
        login = logins.get(f"{Program.AGENT}.{site}", default_login(Program.AGENT, site))
        found += _agent(_Grant(f"User:{login}"), site)
    return sorted(set(found))


@dataclass(frozen=True, slots=True)
class _Grant:
    """Makes the access of one principal."""

    principal: str

    def topics(self, operation: Operation, topics: Iterable[Topic | str]) -> list[Access]:
        names = [one if isinstance(one, str) else one.name for one in topics]
        return [Access(self.principal, Resource.TOPIC, name, operation) for name in names]

    def prefixed(self, operation: Operation, prefix: str) -> Access:
        return Access(self.principal, Resource.TOPIC, prefix, operation, is_prefix=True)

    def group(self, name: str) -> Access:
        return Access(self.principal, Resource.GROUP, name, Operation.READ)

    def transaction(self, name: str, *, is_prefix: bool = False) -> Access:
        resource = Resource.TRANSACTIONAL_ID
        return Access(self.principal, resource, name, Operation.WRITE, is_prefix)

    def cluster(self, operation: Operation) -> Access:
        return Access(self.principal, Resource.CLUSTER, CLUSTER_NAME, operation)


def _gateway(it: _Grant) -> list[Access]:
    return it.topics(Operation.WRITE, (*INPUT_TOPICS, DEAD_LETTERS))


def _feeds(it: _Grant) -> list[Access]:
    return [
        *it.topics(Operation.WRITE, (ADVISORIES, DEAD_LETTERS, FEEDS)),
        *it.topics(Operation.READ, (FEEDS,)),
        it.group(FEEDS_GROUP),
        it.transaction(FEEDS_TRANSACTION),
    ]


def _worker(it: _Grant) -> list[Access]:
    own = (ORDERS, RESULTS, DISPATCH, STATE, DISPATCH_STATE, HALTS)
    return [
        *it.topics(Operation.READ, (*INPUT_TOPICS, CONTROL, *own)),
        *it.topics(Operation.WRITE, (*own, DECISIONS, DEAD_LETTERS)),
        # The topics of all sites: a site can be added while workers run.
        it.prefixed(Operation.WRITE, _JOBS_PREFIX),
        it.prefixed(Operation.WRITE, QUERIES.name.partition("{site}")[0]),
        it.group(WORKER_GROUP),
    ]


def _agent(it: _Grant, site: str) -> list[Access]:
    group = f"drydock.agent.{site}"
    own = attempts_topic(site)
    read = (jobs_topic(site), queries_topic(site), own, CONTROL, HALTS, CHECKINS, INVENTORY)
    return [
        *it.topics(Operation.READ, read),
        *it.topics(Operation.WRITE, (own, RESULTS, DEAD_LETTERS)),
        it.group(group),
        it.group(f"{group}.queries"),
        it.transaction(ATTEMPTS.name.partition("{site}")[0] + f"{site}.", is_prefix=True),
    ]


def _operator(it: _Grant) -> list[Access]:
    return [
        *it.topics(Operation.READ, (CONTROL, HALTS)),
        *it.topics(Operation.WRITE, (CONTROL,)),
        # `halt` compares the name of a site with those that have a job topic.
        it.prefixed(Operation.DESCRIBE, _JOBS_PREFIX),
    ]


def _topics(it: _Grant) -> list[Access]:
    operations = (
        *(Operation.CREATE, Operation.ALTER, Operation.DESCRIBE),
        *(Operation.DESCRIBE_CONFIGS, Operation.ALTER_CONFIGS),
    )
    return [
        *(it.prefixed(operation, PREFIX) for operation in operations),
        it.cluster(Operation.DESCRIBE),
    ]


def _query(it: _Grant) -> list[Access]:
    read = (*INPUT_TOPICS, CONTROL, HALTS, ORDERS, RESULTS, DECISIONS, DEAD_LETTERS)
    return it.topics(Operation.READ, read)


def _on_call(it: _Grant) -> list[Access]:
    return [it.prefixed(Operation.READ, PREFIX)]


_ACCESS: Final[Mapping[Program, Callable[[_Grant], list[Access]]]] = {
    Program.GATEWAY: _gateway,
    Program.FEEDS: _feeds,
    Program.WORKER: _worker,
    Program.OPERATOR: _operator,
    Program.TOPICS: _topics,
    Program.QUERY: _query,
    Program.ON_CALL: _on_call,
}
