"""The lifecycle as tables: entry, observation and delay, and the step that follows."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents import lifecycle
from agents import watching as watching_rules
from agents.attempt_steps import Act, Finish, Observe, Step, Unreachable, Wait
from agents.journal_entry import JournalEntry, Phase
from agents.lifecycle import (
    IN_FLIGHT,
    MAX_SENDS,
    NOT_NOW_LIMIT,
    NOT_NOW_POLL,
    UNREACHABLE_LIMIT,
    apply_ack,
    halt,
    next_step,
    supersede,
    withdrawing,
)
from agents.mac import Ack, AckKind, InstallState, Observation, Obstacle, Progress
from agents.watching import BEGIN_WITHIN, STALLED_AFTER
from schemas.jobs import Action, Job, Method
from schemas.macos import parse_build, parse_os_version
from schemas.results import ErrorCode, Outcome
from tests.factories.sites import NEW, START, a_job, an_erasing_job, hours

SECOND = timedelta(seconds=1)
BOOTED = START - hours(50)
OLD: dict[str, Any] = {
    "os_version": parse_os_version("26.1"),
    "build": parse_build("25B78"),
    "boot_at": BOOTED,
    "free_disk_gb": 100.0,
    "enrolled": True,
    "apple_silicon": True,
    "volume_owner": True,
}
REFUSED_LOGIN = Unreachable(Obstacle(ErrorCode.SSH_LOGIN_REFUSED, "the login is refused"))
RUNS_NEW: dict[str, Any] = {**OLD, "os_version": NEW.version, "build": NEW.build}


def look(**changes: Any) -> Observation:
    return Observation(**{**OLD, **changes})


def entry(job: Job | None = None, **changes: Any) -> JournalEntry:
    fields = {"wake_at": START, **changes}
    return JournalEntry(job=job or a_job(), accepted_at=START, **fields)


def intended(job: Job | None = None, **changes: Any) -> JournalEntry:
    fields: dict[str, Any] = {
        "phase": Phase.INTENDED,
        "sends": 1,
        "unanswered": 1,
        "intent_at": START,
        "boot_at": BOOTED,
        **changes,
    }
    return entry(job, **fields)


def watching(job: Job | None = None, **changes: Any) -> JournalEntry:
    fields: dict[str, Any] = {
        "phase": Phase.WATCHING,
        "acted_at": START,
        "changed_at": START,
        **changes,
    }
    return intended(job, **fields)


def step_name(step: Step) -> str:
    """Return a step as text: act, wait, observe, or the `outcome/code` of an end."""
    if isinstance(step, Finish):
        last = step.results[-1]
        return f"{last.outcome}/{last.error_code}" if last.error_code else last.outcome.value
    return type(step).__name__.lower()


DDM = a_job(method=Method.DDM)
LATER = a_job(method=Method.DDM, enforce_at=START + hours(48))
IN_PLACE = a_job(Action.REINSTALL, Method.STARTOSINSTALL)
ERASE = an_erasing_job(Method.STARTOSINSTALL)
RENEW = a_job(Action.REENROLL, Method.PROFILES_RENEW, target=None, intent="x")
ACTIVATE = a_job(
    Action.ACTIVATE, Method.ACTIVATION_COMMAND, target=None, intent="activation:office@1"
)
RESTART = a_job(Action.RESTART, Method.RESTART_DEVICE, target=None, intent="failing:26.2")
ERASE_DEVICE = an_erasing_job()
COMMAND = a_job(method=Method.MDM_COMMAND)
MARK = intended().order_marker
DDM_MARK = intended(DDM).order_marker
LOST = Obstacle(ErrorCode.COMMAND_LOST, "lost")
APPROVED = {"approved_until": START + hours(24)}


def downloading(since: datetime = START) -> Progress:
    return Progress(InstallState.DOWNLOADING, since=since)


def failed(since: datetime | None) -> Progress:
    return Progress(InstallState.FAILED, error_code=ErrorCode.DOWNLOAD_FAILED, since=since)


NOTHING = timedelta(0)
UNTOUCHED = {
    "looks first": (entry(), None, NOTHING, "observe"),
    "acts": (entry(), look(), NOTHING, "act"),
    "expired": (entry(), None, timedelta(days=7), "expired/expired"),
    "not yet expired": (entry(), None, timedelta(days=7) - SECOND, "observe"),
    "superseded": (entry(superseded=True), None, NOTHING, "superseded/superseded"),
    "another Mac is not erased": (
        entry(an_erasing_job(serial="C02MAC000001"), **APPROVED),
        look(serial="C02MAC000002", progress=Progress(InstallState.INSTALLING)),
        NOTHING,
        "failed/wrong_device",
    ),
    "another Mac is not reinstalled": (
        entry(a_job(Action.REINSTALL, Method.STARTOSINSTALL, serial="C02MAC000001")),
        look(serial="C02MAC000002"),
        NOTHING,
        "failed/wrong_device",
    ),
    "the job's Mac is erased": (
        entry(an_erasing_job(serial="C02MAC000001"), **APPROVED),
        look(serial="C02MAC000001"),
        NOTHING,
        "act",
    ),
    "an update does not ask for the serial number": (
        entry(a_job(serial="C02MAC000001")),
        look(serial="C02MAC000002"),
        NOTHING,
        "act",
    ),
    "already there": (entry(), Observation(**RUNS_NEW), NOTHING, "acted"),
    "newer than the target": (
        entry(),
        look(os_version=parse_os_version("26.3")),
        NOTHING,
        "acted",
    ),
    "a reinstall of what it runs acts": (entry(IN_PLACE), Observation(**RUNS_NEW), NOTHING, "act"),
    "another installation runs": (
        entry(),
        look(progress=Progress(InstallState.INSTALLING)),
        NOTHING,
        "wait",
    ),
    "an old failure is no hindrance": (entry(), look(progress=failed(None)), NOTHING, "act"),
    "nothing known is no hindrance": (entry(), Observation(), NOTHING, "act"),
    "away": (entry(), Unreachable(), NOTHING, "wait"),
    "away until a person acts": (entry(), REFUSED_LOGIN, NOTHING, "failed/ssh_login_refused"),
    "away long": (entry(away_since=START), Unreachable(), UNREACHABLE_LIMIT - SECOND, "wait"),
    "away too long": (
        entry(away_since=START),
        Unreachable(),
        UNREACHABLE_LIMIT,
        "failed/unreachable",
    ),
    "disk at the limit": (entry(), look(free_disk_gb=15.0), NOTHING, "act"),
    "disk below": (entry(), look(free_disk_gb=14.9), NOTHING, "failed/no_disk_space"),
    "battery at the limit": (
        entry(),
        look(on_ac_power=False, battery_percent=20.0),
        NOTHING,
        "act",
    ),
    "battery below": (
        entry(),
        look(on_ac_power=False, battery_percent=19.0),
        NOTHING,
        "failed/low_power",
    ),
    "battery below on AC": (entry(), look(on_ac_power=True, battery_percent=1.0), NOTHING, "act"),
    "no owner, over MDM": (entry(DDM), look(volume_owner=False), NOTHING, "act"),
    "no owner": (entry(), look(volume_owner=False), NOTHING, "failed/no_volume_owner"),
    "not enrolled, over SSH": (entry(), look(enrolled=False), NOTHING, "act"),
    "not enrolled": (entry(DDM), look(enrolled=False), NOTHING, "failed/not_enrolled"),
    "no token": (entry(DDM), look(bootstrap_token=False), NOTHING, "failed/no_bootstrap_token"),
    "a prompt needs neither disk nor power": (
        entry(RENEW),
        look(free_disk_gb=0.0, on_ac_power=False, battery_percent=1.0, enrolled=False),
        NOTHING,
        "act",
    ),
    "a restart needs neither disk nor power": (
        entry(RESTART),
        look(free_disk_gb=0.0, on_ac_power=False, battery_percent=1.0),
        NOTHING,
        "act",
    ),
    "a restart waits for an installation": (
        entry(RESTART),
        look(progress=Progress(InstallState.INSTALLING)),
        NOTHING,
        "wait",
    ),
    "approved erase": (entry(ERASE, **APPROVED), look(), NOTHING, "act"),
    "approval ran out": (entry(ERASE, **APPROVED), look(), hours(24), "refused/no_approval"),
    "never approved": (entry(ERASE), look(), NOTHING, "refused/no_approval"),
}
ASR = an_erasing_job(Method.ERASE_DEVICE)
INTENDED = {
    "looks": (intended(), None, NOTHING, "observe"),
    "mark is there": (intended(), look(marks=frozenset({MARK})), NOTHING, "wait"),
    "mark of another job": (
        intended(),
        look(marks=frozenset({"job-0/1/install"})),
        hours(1),
        "act",
    ),
    "may still arrive": (intended(), look(), IN_FLIGHT - SECOND, "wait"),
    "never arrived": (intended(), look(), IN_FLIGHT, "act"),
    "never arrived, three times": (
        intended(unanswered=MAX_SENDS),
        look(),
        IN_FLIGHT,
        "failed/unreachable",
    ),
    "erase over MDM never arrived, three times": (
        intended(ERASE_DEVICE, unanswered=MAX_SENDS, **APPROVED),
        look(),
        IN_FLIGHT,
        "failed/unreachable",
    ),
    "command over MDM never arrived, three times": (
        intended(COMMAND, unanswered=MAX_SENDS),
        look(),
        IN_FLIGHT,
        "wait",
    ),
    "command over MDM never arrived, half an hour later": (
        intended(COMMAND, unanswered=MAX_SENDS),
        look(),
        NOT_NOW_POLL,
        "act",
    ),
    "declaration never arrived, three times": (
        intended(DDM, unanswered=MAX_SENDS),
        look(),
        IN_FLIGHT,
        "wait",
    ),
    "declaration never arrived, half an hour later": (
        intended(DDM, unanswered=MAX_SENDS),
        look(),
        NOT_NOW_POLL,
        "act",
    ),
    "declaration never arrived for a day": (
        intended(DDM, unanswered=MAX_SENDS, held_since=START - UNREACHABLE_LIMIT),
        look(),
        NOT_NOW_POLL,
        "failed/unreachable",
    ),
    "never arrived, expired": (intended(), look(), timedelta(days=7), "expired/expired"),
    "never arrived, superseded": (
        intended(superseded=True),
        look(),
        IN_FLIGHT,
        "superseded/superseded",
    ),
    "never arrived, no disk now": (
        intended(),
        look(free_disk_gb=1.0),
        IN_FLIGHT,
        "failed/no_disk_space",
    ),
    "runs the target since a boot": (
        intended(),
        Observation(**{**RUNS_NEW, "boot_at": START + hours(1)}),
        hours(2),
        "acted",
    ),
    "queued at the server": (
        intended(DDM),
        look(pending=frozenset({intended(DDM).order_marker})),
        hours(30),
        "wait",
    ),
    "queued for too long": (
        intended(DDM, wake_at=START + NOT_NOW_LIMIT),
        look(pending=frozenset({intended(DDM).order_marker})),
        NOT_NOW_LIMIT,
        "failed/not_delivered",
    ),
    "queued and revocable, expired": (
        intended(DDM),
        look(pending=frozenset({DDM_MARK}), is_revocable=True),
        hours(24 * 7),
        "expired/expired",
    ),
    "queued, and not looked at for a day": (
        intended(DDM, wake_at=START + NOT_NOW_LIMIT - hours(24)),
        look(pending=frozenset({DDM_MARK})),
        NOT_NOW_LIMIT,
        "wait",
    ),
    "queued, push failed": (
        intended(DDM, wake_at=START + NOT_NOW_LIMIT),
        look(pending=frozenset({DDM_MARK}), not_delivered=Obstacle(ErrorCode.PUSH_FAILED, "410")),
        NOT_NOW_LIMIT,
        "failed/push_failed",
    ),
    "lost, may be repeated": (
        intended(DDM),
        look(lost=frozenset({DDM_MARK}), not_delivered=LOST),
        SECOND,
        "act",
    ),
    "lost, may be repeated, but the job is withdrawn": (
        intended(DDM, superseded=True),
        look(lost=frozenset({DDM_MARK}), not_delivered=LOST),
        SECOND,
        "superseded/superseded",
    ),
    "lost for the third time": (
        intended(DDM, sends=3, unanswered=3),
        look(lost=frozenset({DDM_MARK}), not_delivered=LOST),
        SECOND,
        "failed/command_lost",
    ),
    "lost, may not be repeated": (
        intended(ERASE_DEVICE, **APPROVED),
        look(lost=frozenset({intended(ERASE_DEVICE).order_marker}), not_delivered=LOST),
        SECOND,
        "failed/command_lost",
    ),
    "NotNow over MDM is not repeated": (
        intended(DDM, declined=True, held_since=START),
        look(),
        hours(30),
        "wait",
    ),
    "NotNow over SSH is repeated": (
        intended(declined=True, held_since=START),
        look(),
        SECOND,
        "act",
    ),
    "NotNow over MDM, and not looked at for a day": (
        intended(DDM, declined=True, held_since=START),
        look(),
        NOT_NOW_LIMIT,
        "wait",
    ),
    "NotNow over SSH, and not looked at for a day": (
        intended(declined=True, held_since=START),
        look(),
        NOT_NOW_LIMIT,
        "act",
    ),
    "NotNow for too long": (
        intended(declined=True, held_since=START, wake_at=START + NOT_NOW_LIMIT),
        look(),
        NOT_NOW_LIMIT,
        "failed/command_rejected",
    ),
    "repeated after NotNow, no response": (
        intended(declined=False, held_since=START - hours(1)),
        look(),
        SECOND,
        "wait",
    ),
    "away": (intended(), Unreachable(), NOTHING, "wait"),
    "away until a person acts": (intended(), REFUSED_LOGIN, NOTHING, "wait"),
    "away too long": (intended(away_since=START), Unreachable(), UNREACHABLE_LIMIT, "acted"),
    "erase: not booted since": (intended(ERASE, **APPROVED), look(), IN_FLIGHT, "act"),
    "erase: booted since, mark gone": (
        intended(ERASE, **APPROVED),
        look(boot_at=START + hours(1)),
        hours(1),
        "wait",
    ),
    "erase: boot time unknown": (
        intended(ERASE, **APPROVED),
        look(boot_at=None),
        IN_FLIGHT,
        "wait",
    ),
    "erase: never arrived, approval ran out": (
        intended(ERASE, **APPROVED),
        look(),
        hours(24),
        "refused/no_approval",
    ),
    "prompt was raised": (
        intended(RENEW),
        look(marks=frozenset({intended(RENEW).order_marker})),
        NOTHING,
        "acted",
    ),
}
RESTARTED = intended(RESTART).order_marker
INTENDED |= {
    "restart: booted, mark missing": (
        intended(RESTART),
        look(boot_at=START + hours(1)),
        hours(1),
        "acted",
    ),
    "restart: the Mac took it": (
        intended(RESTART),
        look(marks=frozenset({RESTARTED})),
        SECOND,
        "acted",
    ),
    "restart: refused": (
        intended(RESTART),
        look(marks=frozenset({RESTARTED}), progress=failed(START)),
        SECOND,
        "failed/download_failed",
    ),
    "restart: an update failed before": (
        intended(RESTART),
        look(marks=frozenset({RESTARTED}), progress=failed(START - hours(1))),
        SECOND,
        "acted",
    ),
    "restart: lost, may not be repeated": (
        intended(RESTART),
        look(lost=frozenset({RESTARTED}), not_delivered=LOST),
        SECOND,
        "failed/command_lost",
    ),
}
WATCHED = {
    "looks": (watching(), None, NOTHING, "observe"),
    "new build since a boot": (
        watching(),
        Observation(**{**RUNS_NEW, "boot_at": START + hours(1)}),
        hours(1),
        "acted",
    ),
    "new build, no boot": (watching(), Observation(**RUNS_NEW), hours(1), "wait"),
    "boot, old build": (watching(), look(boot_at=START + hours(1)), hours(1), "wait"),
    "the kernel corrects its boot time": (
        watching(),
        Observation(**{**RUNS_NEW, "boot_at": BOOTED + timedelta(seconds=9)}),
        hours(1),
        "wait",
    ),
    "wrong clock on the Mac": (
        watching(),
        Observation(**{**RUNS_NEW, "boot_at": BOOTED + hours(1)}),
        hours(1),
        "acted",
    ),
    "reinstall: a boot alone": (
        watching(IN_PLACE),
        Observation(**{**RUNS_NEW, "boot_at": START + hours(1), "installed_at": BOOTED - hours(9)}),
        hours(2),
        "wait",
    ),
    "reinstall: installed again": (
        watching(IN_PLACE),
        Observation(**{**RUNS_NEW, "boot_at": START + hours(1), "installed_at": START + hours(1)}),
        hours(2),
        "acted",
    ),
    "failed since the order": (
        watching(),
        look(progress=failed(START)),
        hours(1),
        "failed/download_failed",
    ),
    "failed before the order": (watching(), look(progress=failed(BOOTED)), hours(1), "wait"),
    "nothing yet": (watching(), look(), BEGIN_WITHIN - SECOND, "wait"),
    "nothing happened": (watching(), look(), BEGIN_WITHIN, "failed/nothing_happened"),
    "not due yet": (watching(LATER), look(), hours(48) + BEGIN_WITHIN - SECOND, "wait"),
    "due and nothing happened": (
        watching(LATER, wake_at=START + hours(48) + BEGIN_WITHIN),
        look(),
        hours(48) + BEGIN_WITHIN,
        "failed/nothing_happened",
    ),
    "stuck": (
        watching(progress=InstallState.DOWNLOADING, wake_at=START + STALLED_AFTER),
        look(progress=downloading()),
        STALLED_AFTER,
        "failed/nothing_happened",
    ),
    "nothing happened, and no look for a day": (
        watching(),
        look(),
        hours(24),
        "wait",
    ),
    "stuck, and no look for a day": (
        watching(progress=InstallState.DOWNLOADING),
        look(progress=downloading()),
        STALLED_AFTER,
        "wait",
    ),
    "slow": (
        watching(progress=InstallState.DOWNLOADING),
        look(progress=downloading()),
        STALLED_AFTER - SECOND,
        "wait",
    ),
    "left MDM": (watching(DDM), look(enrolled=False), hours(1), "failed/not_enrolled"),
    "left MDM, over SSH": (watching(), look(enrolled=False), hours(1), "wait"),
    "erased, not enrolled yet": (watching(ASR), look(enrolled=False), hours(1), "wait"),
    "reboots": (watching(), Unreachable(), hours(1), "wait"),
    "away until a person acts": (watching(), REFUSED_LOGIN, hours(1), "wait"),
    "away too long": (watching(away_since=START), Unreachable(), UNREACHABLE_LIMIT, "acted"),
    "activation, away too long": (
        watching(ACTIVATE, away_since=START),
        Unreachable(),
        UNREACHABLE_LIMIT,
        "failed/unreachable",
    ),
    "activation, its test passed": (
        watching(ACTIVATE),
        look(is_activated=True),
        hours(1),
        "acted",
    ),
    "activation, it runs": (watching(ACTIVATE), look(), hours(1), "wait"),
    "away, not due": (watching(LATER, away_since=START), Unreachable(), UNREACHABLE_LIMIT, "wait"),
    "expiry stops nothing": (watching(), look(progress=downloading()), timedelta(days=8), "wait"),
    "supersession stops nothing": (watching(superseded=True), look(), hours(1), "wait"),
}
TABLE = {
    f"{name}: {row}": case
    for name, rows in (
        ("untouched", UNTOUCHED),
        ("intended", INTENDED),
        ("watched", WATCHED),
    )
    for row, case in rows.items()
}


@pytest.mark.parametrize(
    ("before", "observation", "later", "want"), TABLE.values(), ids=TABLE.keys()
)
def test_step_after_a_look(
    before: JournalEntry, observation: Observation | Unreachable | None, later: timedelta, want: str
) -> None:
    assert step_name(next_step(before, observation, START + later)) == want


def test_time_without_looks_is_given_again_once() -> None:
    """As after a clock that was set ahead by two days."""
    before = watching(progress=InstallState.DOWNLOADING)
    seen, late = look(progress=downloading()), START + hours(48)
    step = next_step(before, seen, late)
    assert isinstance(step, Wait)
    assert late < step.entry.wake_at <= late + STALLED_AFTER
    due = replace(step.entry, wake_at=late + STALLED_AFTER)
    assert isinstance(next_step(due, seen, late + STALLED_AFTER - SECOND), Wait)
    assert step_name(next_step(due, seen, late + STALLED_AFTER)) == "failed/nothing_happened"


RESPONSES = {
    "accepted": (intended(), Ack.accepted(), "wait"),
    "not now": (intended(), Ack.not_now(), "wait"),
    "refused": (
        intended(),
        Ack.refused(ErrorCode.NO_VOLUME_OWNER),
        "failed/no_volume_owner",
    ),
    "unsupported": (intended(), Ack.refused(ErrorCode.UNSUPPORTED), "refused/unsupported"),
    "prompt raised": (intended(RENEW), Ack.accepted(), "acted"),
}


@pytest.mark.parametrize(("before", "ack", "want"), RESPONSES.values(), ids=RESPONSES.keys())
def test_step_after_a_response(before: JournalEntry, ack: Ack, want: str) -> None:
    assert step_name(apply_ack(before, ack, START)) == want


def test_accepted_order_is_watched_and_not_yet_reported() -> None:
    step = apply_ack(intended(), Ack.accepted(), START)
    assert isinstance(step, Wait)
    assert (step.entry.phase, step.results) == (Phase.WATCHING, ())


def test_repeated_order_has_the_same_name() -> None:
    step = next_step(intended(), look(), START + IN_FLIGHT)
    assert isinstance(step, Act)
    assert (step.entry.order_marker, step.entry.sends, step.results) == (MARK, 2, ())


def test_repeated_order_waits_for_its_own_response() -> None:
    put_off = apply_ack(intended(), Ack.not_now(), START)
    repeated = next_step(put_off.entry, look(), START + hours(1))
    assert isinstance(repeated, Act)
    unanswered = next_step(repeated.entry, look(), START + hours(1) + SECOND)
    assert step_name(unanswered) == "wait"


@pytest.mark.parametrize("job", [a_job(Action.REINSTALL, Method.STARTOSINSTALL), DDM])
def test_repeated_order_whose_response_is_lost_counts_from_its_intent(job: Job) -> None:
    again = next_step(intended(job), look(), START + IN_FLIGHT)
    assert isinstance(again, Act)
    seen = look(marks=frozenset({again.entry.order_marker}))
    step = next_step(again.entry, seen, START + hours(2))
    assert isinstance(step, Wait)
    assert step.entry.acted_at == START + IN_FLIGHT


@pytest.mark.parametrize("late", [NOT_NOW_LIMIT, hours(24 * 30)], ids=["two days", "a month"])
def test_order_in_the_queue_gets_the_whole_time_again_after_a_gap_of_looks(
    late: timedelta,
) -> None:
    queued = look(pending=frozenset({DDM_MARK}))
    first = next_step(intended(DDM), queued, START + late)
    assert isinstance(first, Wait)
    assert first.entry.held_since == START + late
    last = replace(first.entry, wake_at=START + late + NOT_NOW_LIMIT)
    assert step_name(next_step(last, queued, last.wake_at - SECOND)) == "wait"
    assert step_name(next_step(last, queued, last.wake_at)) == "failed/not_delivered"


def test_started_is_reported_with_the_first_intent() -> None:
    step = next_step(entry(), look(), START)
    assert isinstance(step, Act)
    assert [result.outcome.value for result in step.results] == ["started"]


@pytest.mark.parametrize(
    ("before", "want"),
    [
        pytest.param(intended(DDM), "superseded/superseded", id="declared"),
        pytest.param(watching(DDM), "superseded/superseded", id="fetched"),
        pytest.param(intended(ERASE_DEVICE), "wait", id="queued command"),
    ],
)
def test_order_of_a_superseded_job_is_withdrawn_if_its_form_can(
    before: JournalEntry, want: str
) -> None:
    step = supersede(before, START, can_withdraw=True)
    assert step_name(step) == want
    assert [one.outcome for one in step.results] == [
        "superseded" if want != "wait" else "progressed"
    ]


@pytest.mark.parametrize(
    ("before", "want"),
    [
        pytest.param(intended(DDM), "superseded/halted", id="declared"),
        pytest.param(watching(DDM), "superseded/halted", id="fetched"),
        pytest.param(intended(ERASE_DEVICE), "wait", id="queued command"),
        pytest.param(intended(ERASE_DEVICE, halted=True), None, id="reported before"),
        pytest.param(watching(ERASE_DEVICE), None, id="command under way"),
        pytest.param(intended(), None, id="over SSH"),
    ],
)
def test_order_of_a_halted_job_is_withdrawn_or_reported_once(
    before: JournalEntry, want: str | None
) -> None:
    step = halt(before)
    assert (step if step is None else step_name(step)) == want


def test_attempt_that_withdraws_its_order_keeps_its_outcome_and_is_not_touched() -> None:
    ended = replace(watching(DDM), phase=Phase.DONE, outcome=Outcome.ACTED)
    kept = withdrawing(ended, START)
    assert (kept.phase, kept.outcome, kept.touched) == (Phase.WITHDRAWING, Outcome.ACTED, False)
    assert next_step(kept, None, START) == Finish(kept, ())


def test_superseded_job_ends_if_untouched_and_runs_on_if_touched() -> None:
    assert step_name(supersede(entry(), START)) == "superseded/superseded"
    assert step_name(supersede(watching(), START)) == "wait"


def test_progress_is_reported_at_each_quarter() -> None:
    before, percents = watching(), []
    for percent in range(0, 101, 5):
        seen = Progress(InstallState.DOWNLOADING, percent=percent)
        step = next_step(before, look(progress=seen), START + timedelta(minutes=percent))
        assert isinstance(step, Wait)
        before = step.entry
        percents += [results.percent for results in step.results]
    assert percents == [0, 25, 50, 75, 100]


OPTIONAL_TIME = st.one_of(
    st.none(), st.integers(-100, 300).map(lambda number: START + hours(number))
)
LOOKS = st.builds(
    Observation,
    os_version=st.sampled_from([None, *map(parse_os_version, ("26.1", "26.2", "26.3"))]),
    boot_at=OPTIONAL_TIME,
    installed_at=OPTIONAL_TIME,
    free_disk_gb=st.sampled_from([None, 1.0, 100.0]),
    on_ac_power=st.sampled_from([None, False, True]),
    battery_percent=st.sampled_from([None, 5.0, 90.0]),
    enrolled=st.sampled_from([None, False, True]),
    marks=st.sampled_from([frozenset(), frozenset({MARK})]),
    pending=st.sampled_from([frozenset(), frozenset({MARK})]),
    progress=st.builds(Progress, st.sampled_from(InstallState), st.none(), st.none()),
)
ENTRIES = st.builds(
    lambda phase, job, sends, declined, superseded: entry(
        job,
        phase=phase,
        sends=sends,
        unanswered=sends,
        declined=declined,
        superseded=superseded,
        intent_at=None if phase is Phase.ACCEPTED else START,
        acted_at=START if phase is Phase.WATCHING else None,
        approved_until=START + hours(24),
    ),
    st.sampled_from(Phase),
    st.sampled_from([a_job(), DDM, LATER, IN_PLACE, ERASE, RENEW]),
    st.integers(0, 4),
    st.booleans(),
    st.booleans(),
)


@given(ENTRIES, st.one_of(st.none(), st.just(Unreachable()), LOOKS), st.integers(0, 400))
def test_any_entry_and_look_give_a_step_that_makes_progress(
    before: JournalEntry, observation: Observation | Unreachable | None, later: int
) -> None:
    now = START + hours(later)
    step = next_step(before, observation, now)
    if isinstance(step, Observe):
        assert observation is None
    elif isinstance(step, Wait):
        assert step.entry.wake_at > now, "a wait that does not wait"
    elif isinstance(step, Act):
        assert before.phase in (Phase.ACCEPTED, Phase.INTENDED)
        assert isinstance(observation, Observation)
        assert (
            MARK not in observation.marks
            or before.order_marker != MARK
            or before.phase is Phase.ACCEPTED
        )
    else:
        assert step.entry.phase in (Phase.DONE, Phase.WITHDRAWING)


@given(ENTRIES, st.sampled_from(AckKind))
def test_any_response_gives_a_step(before: JournalEntry, kind: AckKind) -> None:
    started = replace(before, phase=Phase.INTENDED, intent_at=START)
    step = apply_ack(started, Ack(kind), START)
    assert isinstance(step, Finish) or step.entry.wake_at > START


TIMES = {
    "IN_FLIGHT": hours(1 / 12),
    "WATCH_POLL": hours(1 / 6),
    "NOT_NOW_POLL": hours(0.5),
    "BUSY_POLL": hours(0.5),
    "ENFORCEMENT_POLL": hours(4),
    "BEGIN_WITHIN": hours(6),
    "UNREACHABLE_LIMIT": hours(24),
    "STALLED_AFTER": hours(24),
    "NOT_NOW_LIMIT": hours(48),
    "MAX_SENDS": 3,
}


@pytest.mark.parametrize(("name", "value"), TIMES.items())
def test_limits_of_an_attempt_have_their_documented_values(name: str, value: object) -> None:
    assert {**vars(lifecycle), **vars(watching_rules)}[name] == value


@pytest.mark.parametrize("phase", [Phase.ACCEPTED, Phase.INTENDED, Phase.WATCHING])
def test_away_since_is_cleared_after_a_look(phase: Phase) -> None:
    missed = intended(phase=phase, away_since=START, acted_at=START, changed_at=START)
    step = next_step(missed, look(), START + SECOND)
    assert isinstance(step, Act | Wait)
    assert step.entry.away_since is None
