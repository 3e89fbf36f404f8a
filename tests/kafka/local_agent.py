"""Agents of one site in the test's process, on a real broker, with Macs that the test can hang."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Self

from agents.clock import ScaledClock
from agents.consumer_group import GroupMember
from agents.job_consumer import JobConsumer
from agents.leases import LeaseManager
from agents.mac import Ack, Mac, Observation
from agents.metrics import AgentMetrics
from agents.partition_runner import PartitionRunner
from agents.result_producer import ResultProducer
from agents.simulated import MacSpec, SimulatedFleet
from agents.site_access import SiteAccess
from agents.site_context import SiteContext
from agents.stalls import StallMonitor
from runtime.clock_skew import ClockSkew
from runtime.kafka import KafkaConnection
from runtime.logs import make_log
from runtime.retry import RetryPolicy
from schemas.jobs import Job
from tests.factories.sites import KEYS, RELEASES, START

SPEED = 240.0
SESSION_S = 6.0


class SharedMac:
    """A Mac of a fleet that several threads use, which can hang for one agent."""

    def __init__(self, mac: Mac, lock: threading.Lock, before: Callable[[], None]) -> None:
        self._mac = mac
        self._lock = lock
        self._before = before

    def look(self, job: Job) -> Observation:
        self._before()
        with self._lock:
            return self._mac.look(job)

    def act(self, step: str, job: Job, attempt: int) -> Ack:
        self._before()
        with self._lock:
            return self._mac.act(step, job, attempt)


class LocalSite:
    """The simulated Macs of a site, in scaled time, and the agents that the test starts."""

    def __init__(self, bootstrap: str, name: str, folder: Path, specs: Sequence[MacSpec]) -> None:
        self.name = name
        self.folder = folder
        self.connection = KafkaConnection(bootstrap=bootstrap)
        self.clock = ScaledClock(START, time.time(), SPEED)
        self.fleet = SimulatedFleet(specs, START, releases=RELEASES)
        self.lock = threading.Lock()
        self._stack = ExitStack()
        self._ending = threading.Event()

    @classmethod
    @contextmanager
    def at(
        cls, bootstrap: str, name: str, folder: Path, specs: Sequence[MacSpec]
    ) -> Iterator[Self]:
        """Run a site; the end of the block ends its agents."""
        site = cls(bootstrap, name, folder, specs)
        time_passes = threading.Thread(target=site._advance, daemon=True)
        time_passes.start()
        try:
            with site._stack:
                yield site
        finally:
            site._ending.set()
            time_passes.join()

    def start(self, name: str, hang: Callable[[Job], None] = lambda _: None) -> "LocalAgent":
        """Start an agent; `hang` is called before each look at a Mac and each order."""
        agent = LocalAgent(self, name, hang)
        self._stack.callback(agent.stop)
        agent.consumer.start()
        return agent

    def acted(self) -> list[str]:
        """Return the job id of each action on a Mac, sorted."""
        with self.lock:
            return sorted(job_id for _, _, job_id, _, _ in self.fleet.acted)

    def _advance(self) -> None:
        while not self._ending.wait(0.02):
            with self.lock:
                self.fleet.advance(max(self.clock.now(), self.fleet.now))


class LocalAgent:
    """One agent, without a process of its own."""

    def __init__(self, site: LocalSite, name: str, hang: Callable[[Job], None]) -> None:
        self.folder = site.folder / name
        self.folder.mkdir(exist_ok=True)
        self.metrics = AgentMetrics()
        self._results = ResultProducer(site.connection, ClockSkew(make_log()))
        context = SiteContext(
            name=site.name,
            executor_name=name,
            folder=self.folder,
            leases=LeaseManager(site.connection, site.name),
            result_producer=self._results,
            clock=site.clock,
            keys=lambda: KEYS,
            access=SiteAccess.simulated(
                lambda job: SharedMac(site.fleet.mac_for(job), site.lock, lambda: hang(job))
            ),
            halts=lambda _: (),
            metrics=self.metrics,
            log=make_log(),
        )
        self.consumer = JobConsumer(
            site.connection,
            GroupMember(site.name, name, SESSION_S),
            lambda partition, _, commit: PartitionRunner(context, partition, 50, commit),
            self.metrics,
            make_log(),
            is_kafka_up=lambda: True,
            stalls=StallMonitor(3.0, 6.0, RetryPolicy(20.0, 60.0)),
        )

    def partitions(self) -> set[int]:
        """Return the partitions with a working lease."""
        found = self.consumer.partition_statuses().items()
        return {partition for partition, status in found if status is not None}

    def stop(self) -> None:
        """Give the partitions up and end."""
        self.consumer.drain(0.0)
        self.consumer.join()
        self._results.close()
