"""`--server URL`: the output of the reading commands is that of the data directory."""

import json
from collections.abc import Iterator
from datetime import timedelta, timezone
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from pipeline.cli.app import app
from pipeline.embedded.reads import LETTERS_OF_A_PAGE
from pipeline.embedded.server import ADMIN_TOKEN
from pipeline.embedded.service import Service
from schemas.dead_letters import DeadLetterCode, Problem, make_dead_letter
from tests import factories as make
from tests.drydock_process import running
from tests.embedded_world import POLICY
from tests.factories.sites import JOBS_KEY, KEYS, START, osquery_report

RUN = CliRunner()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A data directory with two Macs, a job, a halt and a dead letter, and its running service."""
    folder = tmp_path_factory.mktemp("served")
    service = Service.open(folder, now=START, signer=JOBS_KEY, trust=KEYS, policy_text=POLICY)
    service.accept([make.release("26.2")], (), START)
    reports = [osquery_report(udid, os_version="26.1") for udid in ("MAC-1", "MAC-2")]
    problem = Problem(DeadLetterCode.NOT_JSON, "no JSON", "$")
    letter = make_dead_letter(
        problem, b"{", source="jamf", origin="webhook/jamf", received_at=START, redacted=b"{"
    )
    service.accept(reports, [letter], START)
    service.accept([make.halted(START, site="london")], (), START)
    service.close()
    with running(folder) as it:
        yield folder, it.url


COMMANDS = (
    *("status", "status --json", "explain MAC-1", "explain MAC-2 --json", "explain MAC-1 --at=-1m"),
    *("explain MAC-1 --entry 5", "devices list", "devices list --site london -o jsonl"),
    *("jobs list", "jobs list MAC-2 --since=-2d -o json", "halts list", "findings list -o csv"),
    *("approvals list", "dead-letters list", "dead-letters list --all --json"),
    *("dead-letters show 1", "dead-letters show 1 --json"),
)


@pytest.mark.parametrize("command", COMMANDS)
def test_output_of_the_service_is_that_of_its_data_directory(
    served: tuple[Path, str], command: str
) -> None:
    folder, url = served
    token = ["--token-file", str(folder / "keys" / ADMIN_TOKEN)]
    local = RUN.invoke(app, [*command.split(), "--data-dir", str(folder)])
    remote = RUN.invoke(app, [*command.split(), "--server", url, *token])
    assert remote.exit_code == local.exit_code, remote.stderr
    assert remote.stdout == local.stdout
    assert len(local.stdout) > 1
    assert remote.stderr == local.stderr


def get_jobs(served: tuple[Path, str], since: str) -> httpx.Response:
    folder, url = served
    token = (folder / "keys" / ADMIN_TOKEN).read_text("utf-8").strip()
    headers = {"Authorization": f"Bearer {token}"}
    return httpx.get(f"{url}/v1/lists/jobs", params={"since": since}, headers=headers)


@pytest.mark.parametrize("offset_h", [-8, 0, 8])
@pytest.mark.parametrize(("later_h", "is_listed"), [(-1, True), (0, True), (1, False)])
def test_since_is_compared_as_a_time_with_any_offset(
    served: tuple[Path, str], offset_h: int, later_h: int, is_listed: bool
) -> None:
    zone = timezone(timedelta(hours=offset_h))
    since = (START + timedelta(hours=later_h)).astimezone(zone)
    jobs = get_jobs(served, since.isoformat()).json()["rows"]
    issued = {row["issued_at"] for row in jobs}
    assert issued == ({START.isoformat()} if is_listed else set())


def test_since_outside_the_calendar_is_refused(served: tuple[Path, str]) -> None:
    response = get_jobs(served, "0001-01-01T00:00:00+08:00")
    assert response.status_code == 400
    assert "since" in response.text


@pytest.mark.parametrize(
    ("command", "detail"),
    [
        ("explain MAC-9", "no Mac is known as 'MAC-9'"),
        ("devices list ldn-9", "no Mac is known as 'ldn-9'"),
        ("devices list --site lodon", "--site: no 'lodon'; did you mean london?"),
        ("dead-letters show 7", "there is no dead letter 7"),
    ],
)
def test_wrong_name_has_the_text_of_the_data_directory(
    served: tuple[Path, str], command: str, detail: str
) -> None:
    folder, url = served
    token = ["--token-file", str(folder / "keys" / ADMIN_TOKEN)]
    for where in (["--data-dir", str(folder)], ["--server", url, *token]):
        done = RUN.invoke(app, [*command.split(), *where])
        assert (done.exit_code, detail in done.stderr) == (2, True), done.stderr
        assert "service at" not in done.stderr


def test_all_pages_of_dead_letters_are_read(
    served: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "many"
    service = Service.open(folder, now=START, signer=JOBS_KEY, trust=KEYS, policy_text=POLICY)
    codes = (DeadLetterCode.NOT_JSON, DeadLetterCode.BAD_VALUE)
    letters = [
        make_dead_letter(
            Problem(codes[number % 2], f"input {number}", "$"),
            b"{",
            source="jamf",
            origin="x",
            received_at=START,
            redacted=b"{",
        )
        for number in range(2 * LETTERS_OF_A_PAGE + 3)
    ]
    service.accept((), letters, START)
    service.close()
    with running(folder) as it:
        token = (folder / "keys" / ADMIN_TOKEN).read_text("utf-8").strip()
        monkeypatch.setenv("DRYDOCK_ADMIN_TOKEN", token)

        def numbers(*options: str) -> list[int]:
            done = RUN.invoke(app, ["dead-letters", "list", "--json", *options])
            assert done.exit_code == 0, done.stderr
            return [json.loads(line)["seq"] for line in done.stdout.splitlines()]

        for source in (("--server", it.url), ("--data-dir", str(folder))):
            assert numbers(*source) == [*range(1, len(letters) + 1)]
            assert numbers(*source, "--limit", "201") == [*range(1, 202)]
            assert numbers(*source, "--code", "bad_value", "--limit", "2") == [2, 4]
        headers = {"Authorization": f"Bearer {token}"}
        page = httpx.get(f"{it.url}/v1/dead-letters", headers=headers).json()
        assert len(page) == LETTERS_OF_A_PAGE


def test_service_is_not_read_without_its_token(
    served: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, url = served
    monkeypatch.setenv("DRYDOCK_SERVER", url)
    refused = RUN.invoke(app, ["halts", "list"])
    assert refused.exit_code == 2
    assert "give --token-file, or set DRYDOCK_ADMIN_TOKEN" in refused.stderr
    token = (folder / "keys" / ADMIN_TOKEN).read_text().strip()
    monkeypatch.setenv("DRYDOCK_ADMIN_TOKEN", token)
    assert RUN.invoke(app, ["halts", "list"]).exit_code == 0


@pytest.mark.parametrize(
    "command", ["status", "explain MAC-1", "devices list", "dead-letters list"]
)
@pytest.mark.parametrize("is_dir_first", [True, False])
def test_data_directory_and_service_together_are_refused(
    served: tuple[Path, str], command: str, is_dir_first: bool
) -> None:
    folder, url = served
    where = ["--data-dir", str(folder), "--server", url]
    words = where if is_dir_first else where[2:] + where[:2]
    done = RUN.invoke(app, [*command.split(), *words])
    assert (done.exit_code, done.stdout) == (2, "")
    assert "--data-dir and --server exclude each other" in done.stderr


def test_data_directory_counts_more_than_the_url_in_the_environment(
    served: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = served
    monkeypatch.setenv("DRYDOCK_SERVER", "http://127.0.0.1:1")
    done = RUN.invoke(app, ["halts", "list", "--data-dir", str(folder)])
    assert done.exit_code == 0, done.stderr


def test_newline_after_the_token_in_the_environment_is_ignored(
    served: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, url = served
    token = (folder / "keys" / ADMIN_TOKEN).read_text().strip()
    monkeypatch.setenv("DRYDOCK_ADMIN_TOKEN", f"{token}\n")
    done = RUN.invoke(app, ["halts", "list", "--server", url])
    assert done.exit_code == 0, done.stderr


@pytest.mark.parametrize("token", ["geheim-schlüssel", "secret\nsecret", "secret\udcff"])
@pytest.mark.parametrize("is_file", [False, True])
def test_token_that_no_header_can_have_is_refused_without_its_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, token: str, is_file: bool
) -> None:
    command = ["halts", "list", "--server", "http://127.0.0.1:1"]
    if is_file:
        file = tmp_path / "token"
        file.write_bytes(token.encode("utf-8", "surrogateescape"))
        command += ["--token-file", str(file)]
    else:
        monkeypatch.setenv("DRYDOCK_ADMIN_TOKEN", token)
    done = RUN.invoke(app, command)
    assert done.exit_code == 2
    assert "cannot read the token" in done.stderr
    assert "secret" not in done.stderr.replace(str(tmp_path), "")
    assert "geheim" not in done.stderr


def test_source_that_is_missing_or_wrong_is_named(tmp_path: Path) -> None:
    neither = RUN.invoke(app, ["status"])
    assert (neither.exit_code, "give --data-dir" in neither.stderr) == (2, True)
    wrong = RUN.invoke(app, ["status", "--server", "localhost:1"])
    assert (wrong.exit_code, "is not a URL" in wrong.stderr) == (2, True)
    down = RUN.invoke(app, ["status", "--server", "http://127.0.0.1:1"])
    assert (down.exit_code, "cannot be reached" in down.stderr) == (2, True)
    unreadable = ["status", "--server", "http://127.0.0.1:1", "--token-file", str(tmp_path / "no")]
    assert "cannot read the token" in RUN.invoke(app, unreadable).stderr
