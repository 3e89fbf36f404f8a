"""The access of each program: no more than it needs, under the names that the programs use."""

import pytest
from typer.testing import CliRunner

from agents.consumer_group import GroupMember
from agents.query_reader import queries_group
from pipeline.cli.topics import app
from pipeline.config import FeedsSettings, WorkerSettings
from pipeline.feeds.state_store import TRANSACTIONAL_ID
from pipeline.provisioning.acls import (
    FEEDS_GROUP,
    FEEDS_TRANSACTION,
    WORKER_GROUP,
    Access,
    Operation,
    Resource,
    wanted_access,
)
from pipeline.query.time_merge import READ_TOPICS

SITES = ("london", "tokyo")
ACCESS = wanted_access(SITES, {})
WRITERS = {
    "drydock.inventory.v1": {"gateway"},
    "drydock.checkins.v1": {"gateway"},
    "drydock.advisories.v1": {"gateway", "feeds"},
    "drydock.control.v1": {"operator"},
    "drydock.orders.v1": {"worker"},
    "drydock.jobs.": {"worker"},
    "drydock.decisions.v1": {"worker"},
    "drydock.attempts.london.v1": {"agent-london"},
}


@pytest.mark.parametrize("topic", WRITERS)
def test_topic_is_written_by_its_programs_alone(topic: str) -> None:
    found = {
        one.principal.removeprefix("User:drydock-")
        for one in ACCESS
        if (one.resource, one.operation) == (Resource.TOPIC, Operation.WRITE)
        and (topic.startswith(one.name) if one.is_prefix else topic == one.name)
    }
    assert found == WRITERS[topic]


def test_agent_of_a_site_has_nothing_of_another_site() -> None:
    of_london = [one for one in ACCESS if one.principal == "User:drydock-agent-london"]
    assert of_london
    assert not [one for one in of_london if "tokyo" in one.name]
    assert {one.name for one in of_london if one.is_prefix} == {"drydock.attempts.london."}


@pytest.mark.parametrize("login", ["query", "on-call"])
def test_reading_login_may_only_read_and_joins_no_group(login: str) -> None:
    found = [one for one in ACCESS if one.principal == f"User:drydock-{login}"]
    assert {(one.resource, one.operation) for one in found} == {(Resource.TOPIC, Operation.READ)}


def test_query_may_read_its_topics_and_no_others() -> None:
    found = {one.name for one in ACCESS if one.principal == "User:drydock-query"}
    assert found == {topic.name for topic in READ_TOPICS}


def test_names_are_those_of_the_programs() -> None:
    assert (FeedsSettings().group, WorkerSettings().group) == (FEEDS_GROUP, WORKER_GROUP)
    assert FEEDS_TRANSACTION == TRANSACTIONAL_ID
    groups = {GroupMember("london", "a").group, queries_group("london")}
    of_agent = [one for one in ACCESS if one.principal == "User:drydock-agent-london"]
    assert {one.name for one in of_agent if one.resource is Resource.GROUP} == groups


def test_login_of_a_program_can_be_another() -> None:
    found = wanted_access(["london"], {"worker": "w1", "agent.london": "l1"})
    principals = {one.principal for one in found}
    assert {"User:w1", "User:l1"} < principals
    assert not {"User:drydock-worker", "User:drydock-agent-london"} & principals
    assert Access("User:w1", Resource.GROUP, WORKER_GROUP, Operation.READ) in found


@pytest.mark.parametrize(
    "user", ["worker", "worker=", "nobody=x", "agent=x", "worker.london=x", "agent.paris=x"]
)
def test_login_of_another_form_is_refused(user: str) -> None:
    done = CliRunner().invoke(app, ["acl", "--sites", "london", "--user", user])
    assert done.exit_code == 2
    assert "PROGRAM=LOGIN" in done.stderr
