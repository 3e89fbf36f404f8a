"""`drydock status` shows the state of the service."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pipeline.cli.app import app
from pipeline.cli.service_state import ServiceReport, ServiceState, read_service_state
from pipeline.embedded.server import ADDRESS_FILE
from tests.drydock_process import running
from tests.embedded_world import POLICY


def status(data_dir: Path) -> tuple[int, dict[str, Any], str]:
    done = CliRunner().invoke(app, ["status", "--data-dir", str(data_dir), "--json"])
    return done.exit_code, json.loads(done.stdout), done.stderr


@pytest.mark.slow
def test_status_of_a_service_that_runs_is_killed_or_is_stopped(tmp_path: Path) -> None:
    policy, data_dir = tmp_path / "policy.yaml", tmp_path / "data"
    policy.write_text(POLICY)
    with running(data_dir, "--policy", str(policy)) as service:
        code, found, _ = status(data_dir)
        assert (code, found["service"]["state"]) == (0, "running")
        assert found["service"]["url"] == service.url
        assert found["version"]
        service.end(signal.SIGKILL)
    code, found, err = status(data_dir)
    assert (code, found["service"]["state"]) == (1, "lost")
    assert "ended without a stop" in err
    with running(data_dir) as service:
        assert status(data_dir)[0] == 0
        assert service.end(signal.SIGTERM) == 0
    code, found, _ = status(data_dir)
    assert (code, found["service"]["state"]) == (0, "stopped")


@pytest.mark.parametrize(
    ("report", "problem"),
    [
        (ServiceReport(ServiceState.RUNNING, "u"), None),
        (ServiceReport(ServiceState.STOPPED), None),
        (
            ServiceReport(ServiceState.NOT_READY, "u", "the volume is full"),
            "the service at u is not ready: the volume is full; see its log",
        ),
        (
            ServiceReport(ServiceState.LOST, "u"),
            "the service at u ended without a stop: see its log, start drydock run",
        ),
        (
            ServiceReport(ServiceState.UNKNOWN, detail="run.json cannot be read"),
            "it is unknown if a service runs: run.json cannot be read; restart drydock run",
        ),
    ],
    ids=["running", "stopped", "full", "killed", "unknown"],
)
def test_service_that_needs_a_person_is_a_problem(
    report: ServiceReport, problem: str | None
) -> None:
    assert report.problem == problem


@pytest.mark.parametrize(
    ("written", "state"),
    [
        (b"", ServiceState.UNKNOWN),
        (b"\xff\x00", ServiceState.UNKNOWN),
        (b"[]", ServiceState.UNKNOWN),
        (b"7", ServiceState.UNKNOWN),
        (b'"text"', ServiceState.UNKNOWN),
        (b"{}", ServiceState.UNKNOWN),
        (b'{"url": null}', ServiceState.NOT_READY),
        (b'{"url": ["http"]}', ServiceState.NOT_READY),
        (b'{"url": "http://\\u0000:1"}', ServiceState.NOT_READY),
        (b'{"url": "http://127.0.0.1:port"}', ServiceState.NOT_READY),
        (b'{"url": "http://[::1"}', ServiceState.NOT_READY),
    ],
)
def test_damaged_address_file_gives_a_state(
    tmp_path: Path, written: bytes, state: ServiceState
) -> None:
    (tmp_path / ADDRESS_FILE).write_bytes(written)
    report = read_service_state(tmp_path)
    assert report.state is state
    assert report.problem


def test_address_file_that_cannot_be_opened_is_no_stop(tmp_path: Path) -> None:
    (tmp_path / ADDRESS_FILE).mkdir()
    assert read_service_state(tmp_path).state is ServiceState.UNKNOWN
