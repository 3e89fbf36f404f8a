"""A reader of stdout that ends early, such as `head`, on a real pipe."""

import subprocess
from datetime import timedelta
from pathlib import Path

import pytest

from pipeline.embedded.service import Service
from runtime.command_output import OUTPUT_ENDED
from tests import factories as make
from tests.drydock_process import DRYDOCK
from tests.embedded_world import POLICY
from tests.factories.sites import JOBS_KEY, KEYS, START, osquery_report


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory whose list of decisions, and the story of a Mac, fill a pipe."""
    folder = tmp_path_factory.mktemp("ended")
    service = Service.open(folder, now=START, signer=JOBS_KEY, trust=KEYS, policy_text=POLICY)
    service.accept([make.release("26.2")], (), START)
    for minute in range(250):
        at = START + timedelta(minutes=minute)
        version = ("26.1", "26.2")[minute % 2]
        service.accept([osquery_report("MAC-1", os_version=version, at=at)], (), at)
    service.close()
    return folder


def exit_code_of(reader: str, data_dir: Path, *arguments: str) -> tuple[int, str]:
    """Return the exit code and the stderr of a command whose stdout a shell command reads."""
    script = f'"$@" | {reader} > /dev/null; exit ${{PIPESTATUS[0]}}'
    command = ["bash", "-c", script, "drydock", *DRYDOCK, *arguments, "--data-dir", str(data_dir)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    "command",
    ["replay", "replay --json", "explain MAC-1", "explain MAC-1 --json", "policy show"],
)
def test_command_ends_without_a_traceback_when_its_reader_ends(
    data_dir: Path, command: str
) -> None:
    code, err = exit_code_of("head -c 1", data_dir, *command.split())
    assert (code in {0, OUTPUT_ENDED}, err) == (True, "")


def test_long_output_that_was_not_read_is_not_reported_as_done(data_dir: Path) -> None:
    assert exit_code_of("head -n 1", data_dir, "replay", "--json") == (OUTPUT_ENDED, "")
    assert exit_code_of("true", data_dir, "replay") == (OUTPUT_ENDED, "")


def test_problem_is_reported_without_a_reader(data_dir: Path) -> None:
    code, err = exit_code_of("true", data_dir, "explain", "MAC-9")
    assert code == 2
    assert "no Mac is known as 'MAC-9'" in err


def test_whole_output_is_read_with_exit_0(data_dir: Path) -> None:
    assert exit_code_of("cat", data_dir, "replay", "--json") == (0, "")
