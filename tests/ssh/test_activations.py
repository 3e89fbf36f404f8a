"""Activations at a real OpenSSH server: carried out once, proved by their test, without a trace."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agents.mac import AckKind, InstallState, Observation
from agents.preflight import Limits, Unfit, fitness
from agents.ssh.activations import Activation
from agents.ssh.mac import SshMacs
from schemas.activations import activation_intent
from schemas.jobs import Action, Job, Method
from schemas.results import ErrorCode, Outcome
from tests.factories.sites import START, a_job
from tests.ssh.bench import SERIAL, MacBench, processes_of
from tests.ssh.ssh_site import SshSite

LICENCE = "licence-key '1\"$x"


def activate(generation: int = 0, name: str = "office") -> Job:
    return a_job(
        Action.ACTIVATE,
        Method.ACTIVATION_COMMAND,
        serial=SERIAL,
        target=None,
        intent=activation_intent(name, 1),
        generation=generation,
    )


def office(bench: MacBench, command: str, **changes: Any) -> dict[str, Activation]:
    """Return the activation `office`: it is there while the Mac has the file `licence`."""
    folder = bench.folder
    script = f"cd '{folder}'; echo run >>runs; {command}"
    values: dict[str, Any] = {
        "test": ("/usr/bin/test", "-e", str(folder / "licence")),
        "command": ("/bin/bash", "-c", script),
        "timeout_s": 60,
        "secret": lambda: LICENCE,
    }
    return {"office": Activation(**(values | changes))}


READS = "cat >licence"


def ended(macs: SshMacs, job: Job) -> Observation:
    for _ in range(100):
        seen = macs.look(job)
        if seen.is_activated or seen.progress.state is InstallState.FAILED:
            return seen
        time.sleep(0.1)
    raise AssertionError("the activation does not end")


def test_command_gets_its_secret_and_the_test_proves_it(bench: MacBench, tmp_path: Path) -> None:
    macs = bench.macs(activations=office(bench, READS))
    assert not macs.look(activate()).is_activated
    for _ in range(3):
        assert macs.act("activate", activate(), 1).kind is AckKind.ACCEPTED
    assert ended(macs, activate()).is_activated
    assert bench.lines("licence") == [LICENCE]
    assert bench.lines("runs") == ["run"]


def test_activation_that_is_there_is_not_repeated(bench: MacBench) -> None:
    bench.set(licence="from elsewhere")
    macs = bench.macs(activations=office(bench, READS))
    macs.act("activate", activate(), 1)
    assert ended(macs, activate()).is_activated
    assert bench.lines("runs") == []
    assert bench.lines("licence") == ["from elsewhere"]


def test_next_job_of_an_activation_begins_with_its_test(bench: MacBench) -> None:
    macs = bench.macs(activations=office(bench, READS))
    for generation in range(2):
        macs.act("activate", activate(generation), 1)
        assert ended(macs, activate(generation)).is_activated
    assert bench.lines("runs") == ["run"]


def test_secret_is_in_no_list_of_processes_and_no_file(bench: MacBench) -> None:
    command = 'read -r key; echo "$key"; echo "$key" >&2; sleep 1; : >licence'
    macs = bench.macs(activations=office(bench, command))
    macs.act("activate", activate(), 1)
    seen: list[str] = []
    while not macs.look(activate()).is_activated:
        seen += processes_of(bench.folder)
    assert seen
    assert not any(LICENCE in one for one in seen)
    files = [path for path in bench.folder.rglob("*") if path.is_file()]
    assert [path.name for path in files if LICENCE.encode() in path.read_bytes()] == []
    assert LICENCE not in repr(ended(macs, activate()))


FAILURES: dict[str, tuple[str, dict[str, Any], str]] = {
    "the command fails": ("exit 3", {}, "which ended with 3"),
    "the command does nothing": ("exit 0", {}, "which ended with 0"),
    "it does not end": ("exec /bin/sleep 600", {"timeout_s": 3}, "in time"),
    "it is cut off": ("kill -9 $PPID; kill -9 $(ps -o ppid= -p $PPID)", {}, ""),
}


@pytest.mark.parametrize(("command", "changes", "detail"), FAILURES.values(), ids=FAILURES)
def test_failure_is_named(
    bench: MacBench, command: str, changes: dict[str, Any], detail: str
) -> None:
    macs = bench.macs(activations=office(bench, command, **changes))
    macs.act("activate", activate(), 1)
    seen = ended(macs, activate())
    assert not seen.is_activated
    assert seen.progress.error_code is ErrorCode.ACTIVATION_FAILED
    assert detail in seen.progress.detail


def unreadable() -> str | None:
    return None


@pytest.mark.parametrize(
    ("job", "secret", "code"),
    [
        (activate(name="unknown"), None, ErrorCode.UNSUPPORTED),
        (activate(), unreadable, ErrorCode.ACTIVATION_FAILED),
        (activate(), lambda: "two\nlines", ErrorCode.ACTIVATION_FAILED),
    ],
    ids=["not configured", "unreadable secret", "secret of two lines"],
)
def test_activation_that_cannot_begin_touches_nothing(
    bench: MacBench, job: Job, secret: Callable[[], str | None] | None, code: ErrorCode
) -> None:
    macs = bench.macs(activations=office(bench, READS, secret=secret))
    unfit = fitness(job, macs.look(job), Limits(), START)
    assert isinstance(unfit, Unfit)
    assert unfit.error_code is code
    assert macs.act("activate", job, 1).error_code is code
    assert list(bench.tasks.glob("*")) == []


def test_user_at_the_screen_does_not_delay_it(bench: MacBench) -> None:
    bench.set(console="jane")
    assert not bench.macs(activations=office(bench, READS)).look(activate()).busy


@pytest.mark.parametrize(
    ("command", "outcome"),
    [(READS, Outcome.ACTED), ("exit 1", Outcome.FAILED)],
    ids=["success", "failure"],
)
def test_job_ends_by_the_success_test_and_its_journal_has_no_secret(
    bench: MacBench, tmp_path: Path, command: str, outcome: Outcome
) -> None:
    activations = office(bench, command)
    site = SshSite(
        bench, tmp_path, lambda _: None, job=activate(), macs=bench.macs(activations=activations)
    )
    assert site.run().outcome is outcome
    assert bench.lines("runs") == ["run"]
    for path in tmp_path.glob("journal*"):
        assert LICENCE.encode() not in path.read_bytes()
