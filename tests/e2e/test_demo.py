"""`drydock demo` as a process, with a small fleet."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.demo.scenario import PARTS, build

SMALL = "40"
pytestmark = pytest.mark.slow  # each test runs the demo, or shares a run of it


def _drydock(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from pipeline.cli import main; main()", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def _demo(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return _drydock("demo", "--json", "--devices", SMALL, "--data-dir", str(folder), *arguments)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("demo") / "data"
    done = _demo(folder)
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout)


def test_only_macs_that_no_job_can_patch_stay_exposed(ran: tuple[Path, dict[str, Any]]) -> None:
    _, summary = ran
    expected = sum(part.stays_exposed for part in build(1, int(SMALL)).parts.values())
    assert 0 < expected < summary["exposed_before"]
    assert summary["exposed_after"] == summary["exposed_expected"] == expected
    assert summary["unexpectedly_left"] == []
    assert summary["ok"] is True


def test_every_action_succeeds_at_least_once(ran: tuple[Path, dict[str, Any]]) -> None:
    _, summary = ran
    succeeded = {row["action"] for row in summary["jobs"] if row["outcome"] == "succeeded"}
    assert succeeded == {"update", "upgrade", "reinstall", "reimage", "reenroll"}


def test_same_seed_gives_the_same_summary(ran: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    _, summary = ran
    assert json.loads(_demo(tmp_path / "again").stdout) == summary


def test_another_seed_gives_another_fleet() -> None:
    assert build(1, int(SMALL)).specs != build(2, int(SMALL)).specs


def test_log_of_the_demo_verifies(ran: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = ran
    done = _drydock("replay", "--data-dir", str(folder), "--verify")
    assert (done.returncode, "0 differences" in done.stdout) == (0, True), done.stderr


def test_directory_that_is_not_from_a_demo_is_left_alone(tmp_path: Path) -> None:
    precious = tmp_path / "thesis.txt"
    precious.write_text("years of work", encoding="utf-8")
    done = _demo(tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("drydock: ")
    assert precious.read_text(encoding="utf-8") == "years of work"


@pytest.mark.parametrize(
    "arguments",
    [("--devices", "3"), ("--speed", "0"), ("--speed", "fast"), ("--speed", "nan")],
    ids=["too few Macs", "stopped clock", "no number", "not a number"],
)
def test_bad_usage_is_one_line(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = _drydock("demo", "--data-dir", str(tmp_path / "data"), *arguments)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


def test_smallest_fleet_has_every_part() -> None:
    cast = build(5, sum(part.least for part in PARTS))
    assert {part.name for part in cast.parts.values()} == {part.name for part in PARTS}


def test_report_draws_in_a_browser_without_network(
    ran: tuple[Path, dict[str, Any]],
) -> None:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium: install Debian's package of that name")
    from playwright.sync_api import sync_playwright  # noqa: PLC0415

    folder, summary = ran
    troubles: list[str] = []
    asked: list[str] = []
    with sync_playwright() as play:
        browser = play.chromium.launch(
            executable_path=chromium,
            args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"],
        )
        page = browser.new_page()
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto((folder / "report.html").as_uri())
        lines = page.locator("#exposure .scatterlayer .trace").count()
        bars = page.locator("#jobs .barlayer .point").count()
        rows = page.locator("tbody tr").count()
        browser.close()
    assert troubles == []
    assert all(url.startswith(("file:", "blob:", "data:")) for url in asked)
    assert (lines, rows) == (3, summary["exposed_after"])
    assert bars == sum(row["jobs"] for row in summary["jobs"])
