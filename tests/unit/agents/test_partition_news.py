"""News about a Mac makes its jobs due at once, and no others."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from agents.mac import Ack, Mac, Observation
from schemas.jobs import Job
from schemas.topics import jobs_topic
from tests.factories.sites import a_fleet, a_job, a_spec
from tests.unit.agents.memory_kafka import SITE, Broker, Record, install
from tests.unit.agents.memory_site import MemorySite, eventually


@dataclass
class CountedMac:
    """A Mac whose looks are counted."""

    mac: Mac
    looks: Counter[str]

    def look(self, job: Job) -> Observation:
        self.looks[job.udid] += 1
        return self.mac.look(job)

    def act(self, step: str, job: Job, attempt: int) -> Ack:
        return self.mac.act(step, job, attempt)


def test_only_the_job_with_news_is_looked_at_before_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker, looks = Broker(), Counter[str]()
    install(broker, monkeypatch)
    fleet = a_fleet(a_spec("MAC-1"), a_spec("MAC-2"))
    site = MemorySite(broker, fleet, tmp_path)
    site.mac_for = lambda job: CountedMac(fleet.mac_for(job), looks)
    site.order(*(a_job(udid=udid) for udid in fleet.macs))
    runner = site.runner()
    runner.start()
    try:
        runner.offer(
            [
                Record(one.key, one.value, jobs_topic(SITE), offset)
                for offset, one in enumerate(broker.jobs)
                if one is not None
            ]
        )
        eventually(lambda: runner.touched_jobs == 2, "both jobs are under way")
        site._wait(runner)
        before = looks.copy()
        runner.wake({"MAC-2", "MAC-UNKNOWN"})
        eventually(lambda: looks["MAC-2"] > before["MAC-2"], "the Mac with news is looked at")
        assert looks["MAC-1"] == before["MAC-1"]
    finally:
        runner.stop()
        runner.join(10)
