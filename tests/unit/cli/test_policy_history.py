"""`drydock policy show`, `history` and `diff` on the log of a service."""

import json
from datetime import timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from pipeline.cli.app import app
from pipeline.embedded import control_events
from pipeline.embedded.server import ADMIN_TOKEN
from pipeline.embedded.service import Service
from pipeline.policy.file import policy_digest
from tests.drydock_process import running
from tests.embedded_world import POLICY
from tests.factories.sites import JOBS_KEY, KEYS, START

OTHER = POLICY + "# shorter\n"
HOUR = timedelta(hours=1)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory in which a second policy replaced the first after an hour."""
    folder = tmp_path_factory.mktemp("policies")
    service = Service.open(folder, now=START, signer=JOBS_KEY, trust=KEYS, policy_text=POLICY)
    later = control_events.policy_changed(OTHER, "ada", START + HOUR, "a shorter text")
    service.accept((later,), (), START + HOUR)
    service.close()
    return folder


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["policy", *arguments])


def at(data_dir: Path) -> tuple[str, str]:
    return "--data-dir", str(data_dir)


def test_policy_in_force_is_shown_with_author_and_reason(data_dir: Path) -> None:
    found = json.loads(run("show", *at(data_dir), "--json").stdout)
    assert (found["text"], found["by"], found["why"]) == (OTHER, "ada", "a shorter text")
    printed = run("show", *at(data_dir)).stdout
    assert "by ada: a shorter text" in printed
    assert printed.endswith("# shorter\n")


def test_policy_of_a_past_time_is_shown(data_dir: Path) -> None:
    before = (START + HOUR / 2).isoformat()
    assert json.loads(run("show", *at(data_dir), "--at", before, "--json").stdout)["text"] == POLICY
    none = run("show", *at(data_dir), "--at", (START - HOUR).isoformat())
    assert (none.exit_code, "no policy was in force" in none.stderr) == (2, True)


def test_history_lists_the_policies_oldest_first(data_dir: Path) -> None:
    rows = [
        json.loads(line) for line in run("history", *at(data_dir), "--json").stdout.splitlines()
    ]
    assert [row["digest"] for row in rows] == [policy_digest(POLICY), policy_digest(OTHER)]
    assert [row["why"] for row in rows] == [None, "a shorter text"]
    assert "a shorter text" in run("history", *at(data_dir)).stdout


@pytest.mark.parametrize("after", [[], [policy_digest(OTHER)[:12]]], ids=["in force", "digest"])
def test_difference_of_two_policies_is_printed(data_dir: Path, after: list[str]) -> None:
    found = run("diff", policy_digest(POLICY), *after, *at(data_dir))
    assert found.exit_code == 0, found.output
    assert [line for line in found.stdout.splitlines() if line.startswith("+")][1:] == [
        "+# shorter"
    ]


def test_files_are_compared_and_an_unknown_policy_is_an_error(
    data_dir: Path, tmp_path: Path
) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(OTHER)
    assert run("diff", str(file), policy_digest(OTHER), *at(data_dir)).stdout == ""
    unknown = run("diff", "0123456789ab", str(file))
    assert (unknown.exit_code, "no policy 0123456789ab" in unknown.stderr) == (2, True)


def test_policies_of_a_service_are_those_of_its_data_directory(data_dir: Path) -> None:
    token = ("--token-file", str(data_dir / "keys" / ADMIN_TOKEN))
    commands = (
        ("show",),
        ("show", "--at", (START + HOUR / 2).isoformat(), "--json"),
        ("history",),
        ("history", "--json"),
        ("diff", policy_digest(POLICY)),
    )
    with running(data_dir) as it:
        for command in commands:
            local, remote = run(*command, *at(data_dir)), run(*command, "--server", it.url, *token)
            assert (remote.exit_code, remote.stdout) == (0, local.stdout), remote.stderr
            assert local.stdout


def test_service_is_not_asked_about_two_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRYDOCK_SERVER", "http://127.0.0.1:1")
    files = [tmp_path / "one.yaml", tmp_path / "two.yaml"]
    for file, text in zip(files, (POLICY, OTHER), strict=True):
        file.write_text(text)
    found = run("diff", *map(str, files))
    assert (found.exit_code, "+# shorter" in found.stdout) == (0, True), found.stderr
