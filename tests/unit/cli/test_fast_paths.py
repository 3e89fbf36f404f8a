"""DRYDOCK_FAST_PATHS: commands read it and pass it on; their output does not depend on it."""

from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from pipeline.cli import worker
from pipeline.cli.app import app
from pipeline.cli.fast_paths import VARIABLE, fast_paths_wanted
from pipeline.embedded import server
from pipeline.signing_keys import KeyStore
from runtime.trusted_keys import Purpose
from schemas.envelope import encode
from tests import factories as make
from tests.fast_paths import fast_path_uses

VALUES = pytest.mark.parametrize(("value", "wanted"), [("on", True), ("off", False)])


def invoked(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(one) for one in arguments])


def test_fast_paths_are_on_unless_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert fast_paths_wanted() is True


@VALUES
def test_on_and_off_are_read(value: str, wanted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, value)
    assert fast_paths_wanted() is wanted


@pytest.mark.parametrize("value", ["", "OFF", "0", "false"])
def test_other_value_is_bad_usage(
    value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(VARIABLE, value)
    with pytest.raises(typer.Exit) as ended:
        fast_paths_wanted()
    assert ended.value.exit_code == 2
    error = f"drydock: DRYDOCK_FAST_PATHS is `on` or `off`, not {value!r}\n"
    assert capsys.readouterr().err == error


def test_decide_prints_the_same_without_fast_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, events = tmp_path / "policy.yaml", tmp_path / "events.jsonl"
    policy.write_text(make.POLICY_TEXT)
    known = (*make.enrolled(), make.polled(), make.full_report("26.1"), make.release("26.2"))
    events.write_bytes(b"\n".join(map(encode, known)))
    given = ("decide", "--policy", policy, "--events", events, "--now", make.NOW.isoformat())
    printed = {}
    for value in ("on", "off"):
        monkeypatch.setenv(VARIABLE, value)
        with fast_path_uses() as uses:
            done = invoked(*given, "--json")
        assert done.exit_code == 0
        assert bool(uses) is (value == "on")
        printed[value] = done.stdout
    assert '"decision":"send"' in printed["on"]
    assert printed["on"] == printed["off"]


@VALUES
def test_worker_plan_has_the_value(
    value: str, wanted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for purpose in Purpose:
        KeyStore(tmp_path / "keys").make(purpose)
    monkeypatch.setenv(VARIABLE, value)
    monkeypatch.setenv("DRYDOCK_STAMP_KEYS", "the-stamp-key-of-the-tests")
    plan = worker._plan(tmp_path / "data", tmp_path / "keys", None, None)
    assert plan.fast_paths is wanted


@VALUES
def test_run_plan_has_the_value(
    value: str, wanted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans: list[Any] = []
    monkeypatch.setattr(server, "serve", lambda plan, *_: plans.append(plan))
    monkeypatch.setenv(VARIABLE, value)
    done = invoked("run", "--data-dir", tmp_path)
    assert done.exit_code == 0, done.output
    assert plans[0].fast_paths is wanted
