"""A release that fails on a whole model family is held for that family."""

from datetime import datetime
from typing import Any

from schemas.decisions import Reason
from schemas.envelope import Event, JobResultedEvent
from schemas.results import ErrorCode, JobResult, Outcome
from tests import factories as make
from tests.reconcile_loop import accept, new_reconciler

UDIDS = tuple(f"5A0C7D9E-0000-4000-8000-0000000001{number:02}" for number in range(12))
LIMIT = 3
TEXT = make.POLICY_TEXT.replace("max_jobs: 2", "max_jobs: 50")
POLICY = TEXT + f"thresholds: {{hold_family_after: {LIMIT}}}\n"


class World:
    """A reconciler whose Macs have an open job to update to 26.2."""

    def __init__(self, *models: str, policy: str = POLICY) -> None:
        self.now = make.NOW
        self.reconciler = new_reconciler()
        self.give(make.policy_changed(policy))
        self.give(make.release("26.2"))
        self.udids = UDIDS[: len(models)]
        for udid, model in zip(self.udids, models, strict=True):
            for event in make.enrolled(udid):
                self.give(event)
            self.give(make.polled(udid))
            self.give(make.full_report(udid=udid, serial=f"C02{udid[-2:]}", model=model))

    def give(self, event: Event) -> None:
        accept(self.reconciler, event, self.now)

    def fail(self, *numbers: int, code: ErrorCode = ErrorCode.INSTALL_FAILED) -> None:
        """Let the open jobs of these Macs fail."""
        for number in numbers:
            udid = self.udids[number]
            job = self.reconciler.fleet.job_histories[udid][-1]
            result = JobResult(
                job_id=job.job_id,
                udid=udid,
                site=job.site,
                outcome=Outcome.FAILED,
                error_code=code,
            )
            self.give(make.make_event(JobResultedEvent, udid, self.now, result))

    def reasons(self) -> list[Reason]:
        return [self.reconciler.last_decisions[udid].reason for udid in self.udids]


def test_release_is_held_for_the_family_once_it_failed_on_enough_macs() -> None:
    world = World(*["Mac16,1", "Mac16,5", "Mac16,8", "Mac16,1", "Mac14,2"])
    world.fail(0, 1)
    assert world.reasons()[3] is Reason.JOB_OPEN
    world.fail(2)
    reasons = world.reasons()
    assert reasons[:4] == [Reason.RELEASE_FAILING] * 4
    assert reasons[4] is Reason.JOB_OPEN
    assert world.reconciler.findings["london", "release_failing"] == 4


def test_job_that_has_not_begun_is_withdrawn_by_the_hold() -> None:
    world = World(*["Mac16,1"] * 4)
    world.fail(0, 1, 2)
    last = world.reconciler.fleet.job_histories[world.udids[3]][-1]
    assert last.outcome is Outcome.SUPERSEDED


def test_other_failures_do_not_count() -> None:
    world = World(*["Mac16,1"] * 4)
    world.fail(0, 1, 2, code=ErrorCode.NO_DISK_SPACE)
    assert Reason.RELEASE_FAILING not in world.reasons()


def test_hold_ends_when_a_mac_of_the_family_runs_the_release() -> None:
    world = World(*["Mac16,1"] * 4)
    world.fail(0, 1, 2)
    world.give(updated(world.udids[3], world.now))
    assert Reason.RELEASE_FAILING not in world.reasons()


def test_release_that_a_mac_of_the_family_runs_is_never_held() -> None:
    world = World(*["Mac16,1"] * 4)
    world.give(updated(world.udids[3], world.now))
    world.fail(0, 1, 2)
    assert Reason.RELEASE_FAILING not in world.reasons()


def test_newer_release_is_not_held() -> None:
    world = World(*["Mac16,1"] * 4)
    world.fail(0, 1, 2)
    world.give(make.release("26.3", build="25D100"))
    assert Reason.RELEASE_FAILING not in world.reasons()


def test_operator_ends_the_hold_by_a_reset_of_the_attempts() -> None:
    world = World(*["Mac16,1"] * 4)
    world.fail(0, 1, 2)
    world.give(make.attempts_reset(world.now))
    assert Reason.RELEASE_FAILING not in world.reasons()


def test_policy_without_a_limit_holds_nothing() -> None:
    text = TEXT + "thresholds: {hold_family_after: null}\n"
    world = World(*["Mac16,1"] * 8, policy=text)
    world.fail(*range(8))
    assert Reason.RELEASE_FAILING not in world.reasons()


def test_hold_is_the_same_after_the_jobs_were_counted_again() -> None:
    world = World(*["Mac16,1"] * 4)
    world.fail(0, 1, 2)
    before = world.reconciler.situation(world.udids[3], world.now).halts
    world.reconciler.recount_jobs()
    assert world.reconciler.situation(world.udids[3], world.now).halts == before
    assert len(before) == 1


def updated(udid: str, when: datetime, **facts: Any) -> Event:
    return make.full_report("26.2", udid=udid, when=when, serial=f"C02{udid[-2:]}", **facts)


def test_partitions_that_count_alone_hold_after_one_failure_more_than_each_tolerates() -> None:
    """On Kafka: without a hold fail at most (limit - 1) Macs in each partition (operations)."""
    partitions = [World(*["Mac16,1"] * 4) for _ in range(3)]
    for world in partitions:
        world.fail(*range(LIMIT - 1))
        assert Reason.RELEASE_FAILING not in world.reasons()
    partitions[1].fail(LIMIT - 1)
    held = [Reason.RELEASE_FAILING in world.reasons() for world in partitions]
    assert held == [False, True, False]
