"""An agent, a signer or a broker with a wrong clock: no job that has expired is started."""

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from agents.mac import Ack, Mac, Observation, UnreachableError
from schemas.dead_letters import DeadLetterCode
from schemas.jobs import Job
from tests.factories.sites import START, a_fleet, a_job, a_spec, hours
from tests.unit.agents.memory_kafka import Broker, install
from tests.unit.agents.memory_site import MemorySite

# At the true time START + 5 h the agent gets the job of MAC-1, and a newer one for MAC-2.
ARRIVAL = 5.0
BOTH, BEFORE, NONE = "in one batch", "before a restart", "no newer job"


@dataclass
class DeafMac:
    """A Mac that no order reaches."""

    mac: Mac

    def look(self, job: Job) -> Observation:
        return self.mac.look(job)

    def act(self, *_: Any) -> Ack:
        raise UnreachableError


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MemorySite:
    broker = Broker()
    install(broker, monkeypatch)
    made = MemorySite(broker, a_fleet(a_spec("MAC-1"), a_spec("MAC-2")), tmp_path)
    made.fleet.advance(START + hours(ARRIVAL))
    made.clock.at = made.fleet.now
    return made


@pytest.mark.parametrize(
    ("agent_h", "signer_h", "broker_h", "newer", "expires_h", "outcome"),
    [
        pytest.param(0, 0, 0, BOTH, 9, "acted", id="all right, valid"),
        pytest.param(0, 0, 0, BOTH, 2, "expired", id="all right, expired"),
        pytest.param(-4, 0, 0, BOTH, 2, "expired", id="agent behind, expired"),
        pytest.param(-4, 0, 0, BEFORE, 2, "expired", id="agent behind, restarted, expired"),
        pytest.param(-23, 0, 0, BOTH, 2, "expired", id="agent nearly a day behind, expired"),
        pytest.param(-4, 0, 0, BOTH, 9, "acted", id="agent behind, valid"),
        pytest.param(-4, 0, 0, NONE, 2, "acted", id="agent behind, and nothing proves it"),
        pytest.param(4, 0, 0, BOTH, 7, "expired", id="agent ahead, valid for less"),
        pytest.param(4, 0, 0, BOTH, 99, "acted", id="agent ahead, valid for more"),
        pytest.param(0, 240, 0, BOTH, 48, "acted", id="signer ahead, broker right"),
        pytest.param(0, 0, 240, BOTH, 48, "acted", id="broker ahead, signer right"),
        pytest.param(-4, -4, 0, BOTH, 48, "acted", id="agent and signer behind, valid"),
        pytest.param(-4, 0, -240, BOTH, 2, "acted", id="agent and broker behind"),
    ],
)
def test_job_is_started_or_expires_by_the_proven_time(
    agent_h: float,
    signer_h: float,
    broker_h: float,
    newer: str,
    expires_h: float,
    outcome: str,
    site: MemorySite,
) -> None:
    site.clock.skew = hours(agent_h)
    site.broker_skew = hours(broker_h)
    job = a_job(udid="MAC-1", issued_at=START, expires_at=START + hours(expires_h))
    issued_at = START + hours(ARRIVAL + signer_h)
    later = a_job(udid="MAC-2", issued_at=issued_at, expires_at=issued_at + timedelta(days=7))
    if newer == BEFORE:
        site.order(later)
        site.live()
    site.order(job)
    if newer == BOTH:
        site.order(later)
    site.live("one", 30)
    assert site.outcomes(job) == [outcome]
    assert (job.job_id in site.acted()) is (outcome == "acted")


@pytest.mark.parametrize("behind_h", [30, 4000])
def test_agent_more_than_a_day_behind_runs_and_refuses_no_job(
    behind_h: float, site: MemorySite
) -> None:
    """Each job is from the future by its clock, and none proves the time: all are reported."""
    site.clock.skew = -hours(behind_h)
    job = a_job(udid="MAC-1", issued_at=START, expires_at=START + hours(2))
    later_at = START + hours(ARRIVAL)
    later = a_job(udid="MAC-2", issued_at=later_at, expires_at=later_at + timedelta(days=7))
    site.order(job, later)
    site.live("one", 30)
    assert site.acted() == []
    assert site.outcomes(job) == site.outcomes(later) == []
    assert [each.code for each in site.outputs.dead_letters] == [DeadLetterCode.BAD_VALUE] * 2


def test_repeated_order_is_not_given_after_the_proven_expiry(site: MemorySite) -> None:
    """The first order is lost; a newer job then proves that the first one has expired."""
    site.clock.skew = -hours(4)
    job = a_job(udid="MAC-1", issued_at=START, expires_at=START + hours(2))
    site.order(job)
    lost = site.fleet.mac_for(job)
    site.mac_for = lambda wanted: DeafMac(lost) if wanted == job else site.fleet.mac_for(wanted)
    site.live()
    site.mac_for = site.fleet.mac_for
    site.order(a_job(udid="MAC-2", issued_at=site.clock.at, expires_at=START + hours(200)))
    site.live("one", 3)
    assert job.job_id not in site.acted()
    assert site.metric("drydock_agent_actions_blocked_total", reason="expired") >= 1
