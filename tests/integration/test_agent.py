"""`drydock agent` on a real broker, with simulated Macs in another process."""

import hashlib
import json
import signal
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from schemas.topics import DEAD_LETTERS, jobs_topic
from tests.kafka.agent_site import SESSION_S, AgentSite, eventually
from tests.kafka.brokers import KafkaCluster

PARTITIONS = 4


@pytest.fixture
def site(
    kafka: KafkaCluster, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[AgentSite]:
    """A site for one test, with 8 Macs."""
    name = request.node.name.removeprefix("test_").replace("_", "-")[:50].strip("-")
    with AgentSite.at(kafka, tmp_path, name, 8) as made:
        yield made


def test_jobs_are_executed_and_reported_and_invalid_ones_become_dead_letters(
    site: AgentSite,
) -> None:
    agent = site.start("one")
    jobs = site.jobs(4)
    site.publish(("MAC-0", b"{not a job"))
    site.order(*jobs)
    site.are_done(jobs)
    assert site.acted() == sorted(job.job_id for job in jobs)
    assert site.outcomes(jobs[0]) == ["accepted", "started", "acted"]
    (letter,) = [
        found
        for found in (json.loads(record.value) for record in site.records(DEAD_LETTERS.name))
        if found["origin"].startswith(jobs_topic(site.name))
    ]
    assert "raw" not in letter, "it may have secrets"
    assert letter["raw_sha256"] == hashlib.sha256(b"{not a job").hexdigest()
    assert letter["code"] == "not_json"
    eventually(lambda: agent.metric("drydock_agent_lag_records") == 0, "all offsets committed")
    assert agent.metric('drydock_agent_results_total{outcome="acted"}') == 4
    assert agent.health()["ok"] is True
    # A finished job stays in the journal, for the next agent.
    eventually(lambda: site.phases() == ["done"] * 4, "every job is done in the journal")


def test_live_agent_supersedes_the_jobs_that_another_one_withheld(site: AgentSite) -> None:
    one = site.start("one", dry_run=True)  # on the system's clock
    now = datetime.now(UTC)
    jobs = site.jobs(4, issued_at=now, expires_at=now + timedelta(days=1))
    site.order(*jobs)
    eventually(
        lambda: all(site.outcomes(job) == ["accepted", "withheld"] for job in jobs),
        "every job is withheld",
    )
    one.signal(signal.SIGTERM)
    two = site.start("two")
    eventually(
        lambda: all(site.outcomes(job)[2:] == ["superseded"] for job in jobs),
        "every withheld job is superseded",
    )
    assert site.acted() == []
    assert two.metric('drydock_agent_results_total{outcome="superseded"}') == 4


def test_other_agent_finishes_the_jobs_of_a_killed_one(site: AgentSite) -> None:
    one, two = site.start("one"), site.start("two")
    site.is_assigned(one, 2)
    site.is_assigned(two, 2)
    # A command takes 1 s, so that the agent is killed between intent and response.
    site.macs.set_delay(1.0)
    jobs = site.prompts(8)
    site.order(*jobs)
    eventually(lambda: {"one", "two"} <= site.intending(), "both have recorded an intent")
    one.kill()
    assert site.given_up() <= site.attempts().keys()
    site.macs.set_delay(0.0)
    site.are_done(jobs)
    assert site.acted() == sorted(job.job_id for job in jobs)
    assert two.metric("drydock_agent_partitions") == PARTITIONS


def test_agent_that_was_suspended_repeats_no_action(site: AgentSite) -> None:
    one = site.start("one")
    site.is_assigned(one, PARTITIONS)
    jobs = site.prompts(4)
    site.macs.set_delay(1.0)
    site.order(*jobs)
    eventually(lambda: "intended" in site.phases(), "an intent is recorded")
    one.signal(signal.SIGSTOP)
    site.macs.set_delay(0.0)
    two = site.start("two")
    site.is_assigned(two, PARTITIONS)
    site.are_done(jobs)
    one.signal(signal.SIGCONT)
    eventually(lambda: one.metric("drydock_agent_partitions") == 2, "it is back in the group")
    more = [job for job in site.prompts(8) if job not in jobs]
    site.order(*more)
    site.are_done(more)
    assert site.acted() == sorted(job.job_id for job in [*jobs, *more])


def test_agent_keeps_its_partitions_while_a_job_takes_longer_than_a_session(
    site: AgentSite,
) -> None:
    agent = site.start("one")
    site.is_assigned(agent, PARTITIONS)
    site.macs.set_delay(SESSION_S + 2)
    jobs = site.prompts(1)
    site.order(*jobs)
    site.are_done(jobs)
    assert site.acted() == [jobs[0].job_id]
    assert agent.log_count("partition acquired") == PARTITIONS
    assert agent.log_count("partition lost") == 0


def test_restarted_agent_finishes_its_jobs_after_a_kill(site: AgentSite) -> None:
    agent = site.start("one")
    site.is_assigned(agent, PARTITIONS)
    jobs = site.jobs(4)
    site.order(*jobs)
    eventually(lambda: len(site.acted()) == 4, "every Mac is at work")
    agent.kill()
    site.start("one")
    site.are_done(jobs)
    assert site.acted() == sorted(job.job_id for job in jobs)


def test_agent_hands_over_its_jobs_on_sigterm(site: AgentSite) -> None:
    one = site.start("one", "--drain-s", "6")
    site.is_assigned(one, PARTITIONS)
    site.macs.set_delay(1.0)
    jobs = site.prompts(4)
    site.order(*jobs)
    eventually(lambda: "intended" in site.phases(), "an intent is recorded")
    two = site.start("two")
    one.signal(signal.SIGTERM)
    assert one.process.wait(timeout=10) == 0
    site.macs.set_delay(0.0)
    site.is_assigned(two, PARTITIONS)
    site.are_done(jobs)
    assert site.acted() == sorted(job.job_id for job in jobs)
