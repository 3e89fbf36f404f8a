"""The table of `agents.first_order`, row by row: journal, Mac, kind of job, and the step."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from agents.attempt_steps import Act, Finish, Step, Wait
from agents.first_order import CLOCK_MARGIN
from agents.journal_entry import JournalEntry, Phase
from agents.lifecycle import IN_FLIGHT, halt, leaves_an_order, next_step, supersede
from agents.mac import InstallState, Observation, Progress, order_marker
from schemas.jobs import Action, Job, Method
from schemas.macos import parse_build, parse_os_version
from schemas.results import ErrorCode, Outcome
from tests.factories.sites import NEW, START, a_job, an_erasing_job, hours

UPDATE = a_job(method=Method.DDM)
IN_PLACE = a_job(Action.REINSTALL, Method.STARTOSINSTALL)
RENEW = a_job(Action.REENROLL, Method.PROFILES_RENEW, target=None, intent="x")
OVER_MDM = an_erasing_job(Method.ERASE_DEVICE)
OVER_SSH = an_erasing_job(Method.STARTOSINSTALL)
FROM_IMAGE = an_erasing_job(Method.ASR)
ERASING = (OVER_MDM, OVER_SSH, FROM_IMAGE)
ALL = (UPDATE, IN_PLACE, RENEW, *ERASING)
NOW = START + hours(3)
BEFORE, SINCE = START - hours(50), START + hours(1)
OLD: dict[str, Any] = {"os_version": parse_os_version("26.1"), "build": parse_build("25B78")}
TARGET: dict[str, Any] = {"os_version": NEW.version, "build": NEW.build}


def entry(job: Job, *, unknown: bool, accepted_at: datetime = START) -> JournalEntry:
    return JournalEntry(
        job=job,
        accepted_at=accepted_at,
        wake_at=accepted_at,
        approved_until=START + hours(100),
        history_unknown=unknown,
    )


def look(**changes: Any) -> Observation:
    return Observation(**{**OLD, "boot_at": BEFORE, "installed_at": BEFORE, **changes})


def step_name(step: Step) -> str:
    if isinstance(step, Finish):
        return step.results[-1].error_code or step.results[-1].outcome
    if isinstance(step, Wait):
        return step.entry.phase.value
    return type(step).__name__.lower()


def marked(job: Job) -> dict[str, Any]:
    return {"marks": frozenset({entry(job, unknown=False).order_marker})}


def queued(job: Job) -> dict[str, Any]:
    return {"pending": frozenset({entry(job, unknown=False).order_marker})}


DONE = {**TARGET, "boot_at": SINCE, "installed_at": SINCE}
OTHER = {"boot_at": SINCE, "installed_at": SINCE}
LATE = START - CLOCK_MARGIN + timedelta(seconds=1)
# Each row: is the history unknown, jobs, what the Mac shows, the step.
ROWS: dict[str, tuple[tuple[bool, ...], tuple[Job, ...], dict[str, Any], str]] = {
    "done, unknown": ((True,), (IN_PLACE, *ERASING), DONE, "acted"),
    "done, known, erases": ((False,), ERASING, DONE, "history_unknown"),
    "done, known, in place": ((False,), (IN_PLACE,), DONE, "act"),
    "update done": ((True, False), (UPDATE,), TARGET, "acted"),
    "another system since, erases": ((True, False), ERASING, OTHER, "history_unknown"),
    "another system since": ((True, False), (UPDATE, IN_PLACE, RENEW), OTHER, "act"),
    "booted, unknown": ((True,), ERASING, {"boot_at": SINCE}, "history_unknown"),
    "booted, known": ((False,), ALL, {"boot_at": SINCE}, "act"),
    "booted within the margin": ((True,), ERASING, {"boot_at": LATE}, "history_unknown"),
    "booted before the margin": ((True,), ERASING, {"boot_at": START - CLOCK_MARGIN}, "act"),
    "installed in the margin": ((True,), ERASING, {"installed_at": LATE}, "history_unknown"),
    "no boot time, unknown": ((True,), ERASING, {"boot_at": None}, "history_unknown"),
    "no boot time, known": ((False,), ALL, {"boot_at": None}, "act"),
    "booted, other kinds": ((True,), (UPDATE, IN_PLACE, RENEW), {"boot_at": SINCE}, "act"),
    "no install time": ((True, False), ALL, {"installed_at": None}, "act"),
    "boot without install time": (
        (True,),
        ERASING,
        {**TARGET, "boot_at": SINCE, "installed_at": None},
        "history_unknown",
    ),
    "nothing": ((True, False), ALL, {}, "act"),
    "installing": (
        (True, False),
        ALL,
        {"progress": Progress(InstallState.INSTALLING)},
        "accepted",
    ),
}
CASES = {
    f"{name} {unknown} {job.action} {job.method}": (entry(job, unknown=unknown), shown, want)
    for name, (histories, jobs, shown, want) in ROWS.items()
    for unknown in histories
    for job in jobs
}


@pytest.mark.parametrize(("before", "shown", "want"), CASES.values(), ids=CASES.keys())
def test_first_order_follows_the_table(
    before: JournalEntry, shown: dict[str, Any], want: str
) -> None:
    step = next_step(before, look(**shown), NOW)
    assert step_name(step) == want
    if want == "history_unknown":
        assert isinstance(step, Finish)
        assert (step.entry.outcome, len(step.results)) == (Outcome.REFUSED, 1)
        assert "approve it again" in step.results[0].detail


@pytest.mark.parametrize("unknown", [False, True])
@pytest.mark.parametrize("job", [job for job in ALL if job is not RENEW], ids=lambda j: j.method)
def test_order_whose_mark_is_on_the_mac_is_watched(job: Job, unknown: bool) -> None:
    step = next_step(entry(job, unknown=unknown), look(**marked(job)), NOW)
    assert isinstance(step, Wait)
    assert step.entry.phase is Phase.WATCHING
    assert [each.outcome for each in step.results] == [Outcome.STARTED]
    finished = next_step(step.entry, look(**DONE), NOW + hours(1))
    assert step_name(finished) == "acted"


def test_prompt_whose_mark_is_on_the_mac_is_not_raised_again() -> None:
    step = next_step(entry(RENEW, unknown=True), look(**marked(RENEW)), NOW)
    assert isinstance(step, Finish)
    assert [each.outcome for each in step.results] == [Outcome.STARTED, Outcome.ACTED]


@pytest.mark.parametrize("job", [UPDATE, OVER_MDM], ids=lambda job: job.method)
def test_order_in_the_queue_of_the_server_is_waited_for(job: Job) -> None:
    step = next_step(entry(job, unknown=True), look(**queued(job)), NOW)
    assert isinstance(step, Wait)
    assert (step.entry.phase, step.entry.boot_at) == (Phase.INTENDED, BEFORE)
    assert [each.outcome for each in step.results] == [Outcome.STARTED]
    again = next_step(step.entry, look(**queued(job)), NOW + hours(1))
    assert isinstance(again, Wait)
    taken = next_step(step.entry, look(**marked(job)), NOW + hours(1))
    assert isinstance(taken, Wait)
    assert taken.entry.phase is Phase.WATCHING


@pytest.mark.parametrize("job", ERASING, ids=lambda job: job.method)
def test_erase_with_unknown_history_waits_for_orders_in_flight(job: Job) -> None:
    before = entry(job, unknown=True, accepted_at=NOW)
    step = next_step(before, look(), NOW)
    assert isinstance(step, Wait)
    assert (step.entry.phase, step.entry.wake_at) == (Phase.ACCEPTED, NOW + IN_FLIGHT)
    assert isinstance(next_step(before, look(), NOW + IN_FLIGHT), Act)


def test_repeated_order_is_not_examined_as_a_first_one() -> None:
    job = OVER_SSH
    intended = replace(
        entry(job, unknown=True),
        phase=Phase.INTENDED,
        sends=1,
        unanswered=1,
        intent_at=START + hours(1),
        boot_at=SINCE,
    )
    assert isinstance(next_step(intended, look(boot_at=SINCE), NOW), Act)


@pytest.mark.parametrize("unknown", [False, True])
def test_declaration_on_the_mac_is_given_again_with_its_time(*, unknown: bool) -> None:
    """It may be that of an earlier issue of the job, by a clock that was days ahead."""
    timed = UPDATE.model_copy(update={"enforce_at": NOW + hours(1)})
    step = next_step(entry(timed, unknown=unknown), look(**marked(timed)), NOW)
    assert isinstance(step, Act)
    assert [each.outcome for each in step.results] == [Outcome.STARTED]
    failed = Progress(InstallState.FAILED, error_code=ErrorCode.DOWNLOAD_FAILED, since=SINCE)
    step = next_step(entry(timed, unknown=unknown), look(**marked(timed), progress=failed), NOW)
    assert step_name(step) == ErrorCode.DOWNLOAD_FAILED


UNFIT: dict[str, dict[str, Any]] = {
    "downloading": {"progress": Progress(InstallState.DOWNLOADING)},
    "installing": {"progress": Progress(InstallState.INSTALLING)},
    "low disk": {"free_disk_gb": 1},
}


@pytest.mark.parametrize("shown", UNFIT.values(), ids=UNFIT.keys())
def test_declaration_on_the_mac_is_not_judged_by_its_fitness(shown: dict[str, Any]) -> None:
    timed = UPDATE.model_copy(update={"enforce_at": NOW + hours(1)})
    before = entry(timed, unknown=False)
    step = next_step(before, look(**marked(timed), **shown), NOW)
    assert isinstance(step, Act)
    assert [each.outcome for each in step.results] == [Outcome.STARTED]
    halted = halt(step.entry)
    assert isinstance(halted, Finish)
    assert halted.entry.error_code is ErrorCode.HALTED
    assert leaves_an_order(step.entry, halted.entry)


def test_declaration_on_a_mac_that_runs_the_target_is_withdrawn() -> None:
    timed = UPDATE.model_copy(update={"enforce_at": NOW + hours(1)})
    before = entry(timed, unknown=False)
    step = next_step(before, look(**marked(timed), **TARGET), NOW)
    assert isinstance(step, Finish)
    assert step_name(step) == "acted"
    assert leaves_an_order(before, step.entry)


@pytest.mark.parametrize("job", [UPDATE, IN_PLACE], ids=lambda job: job.method)
@pytest.mark.parametrize("unknown", [False, True])
def test_untouched_job_leaves_an_order_only_if_an_earlier_one_may_be_declared(
    job: Job, *, unknown: bool
) -> None:
    before = entry(job, unknown=unknown)
    assert (halt(before) is not None) == (unknown and job is UPDATE)
    ended = supersede(before, NOW)
    assert isinstance(ended, Finish)
    assert leaves_an_order(before, ended.entry) == (unknown and job is UPDATE)


def test_mark_of_another_step_of_the_attempt_counts() -> None:
    """The job was issued again with another method, as after a restored backup."""
    declared = UPDATE.model_copy(update={"enforce_at": NOW + hours(1)})
    shown = {"marks": frozenset({order_marker(UPDATE.job_id, 1, "install")})}
    step = next_step(entry(declared, unknown=True), look(**shown), NOW)
    assert step_name(step) == "watching"
    earlier = {"marks": frozenset({order_marker(UPDATE.job_id, 2, "install")})}
    assert isinstance(next_step(entry(declared, unknown=True), look(**earlier), NOW), Act)


def test_failure_that_the_mac_reports_since_the_issue_ends_a_followed_order() -> None:
    seen = Progress(InstallState.FAILED, error_code=ErrorCode.DOWNLOAD_FAILED, since=SINCE)
    step = next_step(entry(UPDATE, unknown=True), look(**marked(UPDATE), progress=seen), NOW)
    assert isinstance(step, Finish)
    assert [each.outcome for each in step.results] == [Outcome.STARTED, Outcome.FAILED]
