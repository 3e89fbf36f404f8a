"""Executors of live sites in threads: no site waits for another, and no crash repeats an order."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from agents.journal import Journal
from agents.mac import Ack, Mac, Observation
from agents.site_access import SiteAccess
from pipeline.embedded.service import Options, Service
from pipeline.embedded.site_thread import SiteThread, SiteThreads
from schemas.jobs import Job, JobSuperseded
from schemas.results import Outcome
from tests.crash_points import Crash, CrashPoint, WatchedMac
from tests.embedded_world import POLICY, Environment, at, live, needy_macs
from tests.factories.control import halted
from tests.factories.sites import JOBS_KEY, KEYS, SITE, START, a_fleet, a_job, signed_job

WITHIN_S = 30.0
MINUTE = timedelta(minutes=1)


def eventually(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + WITHIN_S
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.002)


@dataclass
class SlowMac:
    """A Mac whose looks and orders wait for `gate`; it counts them."""

    mac: Mac
    gate: threading.Event = field(default_factory=threading.Event)
    looks: int = 0
    orders: int = 0
    begun: threading.Event = field(default_factory=threading.Event)

    def look(self, job: Job) -> Observation:
        self.looks += 1
        self.begun.set()
        assert self.gate.wait(WITHIN_S)
        return self.mac.look(job)

    def act(self, step: str, job: Job, attempt: int) -> Ack:
        self.orders += 1
        return self.mac.act(step, job, attempt)


@dataclass
class OneSite:
    """A thread for one site with one slow Mac; the test takes the results."""

    mac: SlowMac = field(default_factory=lambda: SlowMac(a_fleet().macs["MAC-1"]))
    held: bool = False
    refused_cycles: int = 0
    now: datetime = START
    notified: int = 0
    journal: Journal = field(default_factory=lambda: Journal(":memory:"))

    def __post_init__(self) -> None:
        self.thread = SiteThread(
            SITE,
            self.journal,
            KEYS,
            SiteAccess.simulated(lambda _: self.mac),
            slots=5,
            max_results=50,
            shared=SiteThreads(lambda: self.now, self._count, self._is_held),
        )
        self.thread.set_halts(())
        self.thread.tick(START)

    def _is_held(self) -> bool:
        if self.held:
            self.refused_cycles += 1
            return True
        return False

    def hold(self) -> None:
        """Hold the thread, and wait until it is: a cycle that had begun has ended."""
        self.held = True
        self.refuse_cycles(1)

    def refuse_cycles(self, count: int) -> None:
        """Wait until the thread was refused `count` further cycles."""
        end = self.refused_cycles + count

        def are_refused() -> bool:
            # Wakes the thread, which else waits for up to a minute.
            self.thread.tick(START)
            return self.refused_cycles >= end

        eventually(are_refused, "cycles are refused")

    def _count(self) -> None:
        self.notified += 1

    def outcomes(self) -> list[Outcome]:
        """Wait for results, mark them, and return their outcomes."""
        eventually(lambda: bool(self.thread.results(50)), "results")
        found = self.thread.results(50)
        self.thread.mark_published(found)
        return [item.result.outcome for item in found]

    def close(self) -> None:
        self.mac.gate.set()
        self.thread.begin_end()
        self.thread.join()
        self.journal.close()


@pytest.fixture
def site() -> Iterator[OneSite]:
    found = OneSite()
    yield found
    found.close()


def test_acceptance_is_a_result_while_the_look_still_lasts(site: OneSite) -> None:
    site.thread.submit(signed_job(a_job()), START)
    assert site.mac.begun.wait(WITHIN_S)
    assert site.outcomes() == [Outcome.ACCEPTED]
    assert site.notified == 1
    site.mac.gate.set()
    assert site.outcomes() == [Outcome.STARTED]
    assert site.mac.orders == 1


def test_inputs_return_at_once_while_a_mac_does_not_respond(site: OneSite) -> None:
    site.thread.submit(signed_job(a_job()), START)
    assert site.mac.begun.wait(WITHIN_S)
    job = a_job(udid="MAC-2")
    began = time.monotonic()
    site.thread.submit(signed_job(job), START)
    site.thread.supersede(JobSuperseded(job_id=job.job_id, udid="MAC-2", site=SITE), START)
    site.thread.wake(["MAC-1"], START)
    site.thread.set_halts(())
    site.thread.tick(START)
    assert len(site.journal.copy()) > 0
    assert time.monotonic() - began < WITHIN_S / 2
    assert site.mac.looks == 1


def test_look_that_lasts_is_seen_as_the_time_of_its_cycle(site: OneSite) -> None:
    site.thread.submit(signed_job(a_job()), START)
    assert site.mac.begun.wait(WITHIN_S)
    assert site.thread.cycle_s(time.monotonic() + 600) >= 600
    site.mac.gate.set()
    site.outcomes()
    eventually(lambda: site.thread.cycle_s(time.monotonic() + 600) == 0, "the cycle ends")


def test_halt_during_a_look_prevents_the_order(site: OneSite) -> None:
    site.thread.submit(signed_job(a_job()), START)
    assert site.mac.begun.wait(WITHIN_S)
    site.thread.set_halts((halted(START).data.scope,))
    site.mac.gate.set()
    assert site.outcomes() == [Outcome.ACCEPTED]
    eventually(lambda: not site.thread._inbox and site.mac.looks >= 1, "the look ends")
    site.thread.begin_end()
    site.thread.join()
    assert site.mac.orders == 0


def test_job_that_expires_during_a_look_gets_no_order(site: OneSite) -> None:
    job = a_job(expires_at=START + MINUTE)
    site.thread.submit(signed_job(job), START)
    assert site.mac.begun.wait(WITHIN_S)
    site.now = START + 2 * MINUTE
    site.mac.gate.set()
    site.outcomes()
    site.thread.begin_end()
    site.thread.join()
    assert site.mac.orders == 0


def test_full_volume_holds_the_site(site: OneSite) -> None:
    site.hold()
    site.thread.submit(signed_job(a_job()), START)
    # The first of them can have begun before the job came.
    site.refuse_cycles(2)
    assert site.mac.looks == 0
    site.held = False
    assert site.mac.begun.wait(WITHIN_S)


def test_exception_of_the_thread_is_raised_by_tick(site: OneSite) -> None:
    # A connection that is closed while the thread uses it can crash the process.
    site.hold()
    site.journal.close()
    site.held = False
    site.thread.submit(signed_job(a_job()), START)
    eventually(lambda: site.thread.next_wake(START) == START, "the failure is due")
    with pytest.raises(Exception, match="closed"):
        site.thread.tick(START)


def test_results_that_were_not_marked_come_again_in_the_next_life(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    first = OneSite(journal=Journal(path))
    first.thread.submit(signed_job(a_job()), START)
    eventually(lambda: bool(first.thread.results(50)), "the acceptance")
    first.close()
    second = OneSite(journal=Journal(path))
    assert Outcome.ACCEPTED in second.outcomes()
    second.close()


# --- the service with threads ---


@dataclass
class LockedMac:
    """A Mac of a simulated fleet, which the test's thread advances."""

    mac: Mac
    lock: threading.Lock

    def look(self, job: Job) -> Observation:
        with self.lock:
            return self.mac.look(job)

    def act(self, step: str, job: Job, attempt: int) -> Ack:
        with self.lock:
            return self.mac.act(step, job, attempt)


class ThreadedService(Service):
    """A service whose `tick` ends when the threads of the sites wait."""

    def tick(self, now: datetime) -> None:
        super().tick(now)
        for thread in self.executors._executors.values():
            assert isinstance(thread, SiteThread)
            eventually(lambda thread=thread: _rests(thread), "the thread waits")  # type: ignore[misc]


def _rests(thread: SiteThread) -> bool:
    """Return True if the thread waits for an input or for the time, or has ended."""
    with thread._changed:
        news = thread._inbox or thread._has_news
        return thread._failure is not None or bool(thread._changed._waiters and not news)  # type: ignore[attr-defined]


@contextmanager
def threaded_service(
    folder: Path, world: Environment, moment: Callable[[str], None]
) -> Iterator[Service]:
    lock = threading.Lock()

    def mac_for(job: Job) -> Mac:
        return LockedMac(WatchedMac(world.fleet.mac_for(job), moment), lock)

    service = ThreadedService.open(
        folder,
        now=world.now,
        signer=JOBS_KEY,
        trust=KEYS,
        policy_text=POLICY,
        access=lambda _: SiteAccess.simulated(mac_for),
        options=Options(
            on_durable_write=moment, threads=SiteThreads(lambda: world.now, lambda: None)
        ),
    )
    try:
        yield service
    finally:
        service.close()


def run_until_killed(folder: Path, world: Environment, moment: Callable[[str], None]) -> None:
    with threaded_service(folder, world, moment) as service:
        live_in_threads(service, world)


def live_in_threads(service: Service, world: Environment) -> None:
    """As `live`; a thread has no due time of its own for the service, so each hour has a tick."""
    while world.now <= at(12):
        service.tick(world.now)
        live(service, world, world.now)


def check(world: Environment) -> None:
    acts = Counter(job_id for _, _, job_id, *_ in world.fleet.acted)
    assert len(acts) > 3
    assert set(acts.values()) == {1}, acts


@pytest.mark.timeout(300)
def test_service_with_threads_that_is_killed_at_any_moment_gives_each_order_once(
    tmp_path: Path,
) -> None:
    whole = CrashPoint()
    world = Environment.of(*needy_macs())
    run_until_killed(tmp_path / "whole", world, whole)
    check(world)
    assert len(whole.moments) > 40
    for number, crash_at in enumerate(range(1, len(whole.moments), len(whole.moments) // 11)):
        world = Environment.of(*needy_macs())
        folder = tmp_path / f"killed-{number}"
        with pytest.raises(Crash):
            run_until_killed(folder, world, CrashPoint(crash_at))
        run_until_killed(folder, world, lambda _: None)
        check(world)
