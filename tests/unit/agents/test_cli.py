import fcntl
import json
from importlib.metadata import version
from pathlib import Path

import pytest
from typer.testing import CliRunner

from agents.cli import app as own
from pipeline.cli.app import app as drydock
from pipeline.signing_keys import KeyStore
from runtime.trusted_keys import Purpose

WRONG = {
    "site": (("--site", "Up there"), "small letters"),
    "name": (("--site", "london", "--name", "A!"), "small letters"),
    "listen": (("--site", "london", "--listen", "nowhere"), "is not HOST:PORT"),
    "bootstrap": (("--site", "london", "--bootstrap", "no address"), "DRYDOCK_KAFKA_BOOTSTRAP"),
    "no Macs": (("--site", "london", "--simulate", "127.0.0.1:1"), "no simulated Macs at"),
    "no keys": (("--site", "london"), "every job would be refused"),
    "no configuration": (("--site", "london", "--config", "/none.yaml"), "cannot read /none.yaml"),
    "both kinds of Macs": (
        ("--site", "london", "--config", "a.yaml", "--simulate", "127.0.0.1:1"),
        "choose one",
    ),
}


# The entry point of a site, and the command of `drydock`.
ENTRY_POINTS = {"drydock-agent": (own, ()), "drydock agent": (drydock, ("agent",))}


def run(entry_point: str, *given: str) -> tuple[int, str, str]:
    app, command = ENTRY_POINTS[entry_point]
    done = CliRunner().invoke(app, [*command, *given])
    return done.exit_code, done.stdout, done.stderr


@pytest.mark.parametrize("entry_point", ENTRY_POINTS)
@pytest.mark.parametrize(("given", "message"), WRONG.values(), ids=WRONG.keys())
def test_an_error_at_the_start_is_one_line(
    entry_point: str, tmp_path: Path, given: tuple[str, ...], message: str
) -> None:
    code, out, err = run(entry_point, "--data-dir", str(tmp_path), *given)
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("entry_point", ENTRY_POINTS)
def test_data_directory_in_use_by_another_agent_is_refused(
    entry_point: str, tmp_path: Path
) -> None:
    KeyStore(tmp_path / "keys").make(Purpose.JOBS)
    KeyStore(tmp_path / "keys").make(Purpose.CONTROL)
    with (tmp_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        code, _, err = run(entry_point, "--site", "london", "--data-dir", str(tmp_path))
    assert code == 2
    assert "another executor works in" in err


@pytest.mark.parametrize("entry_point", ENTRY_POINTS)
def test_live_site_without_a_key_for_records_is_refused(entry_point: str, tmp_path: Path) -> None:
    KeyStore(tmp_path / "keys").make(Purpose.JOBS)
    KeyStore(tmp_path / "keys").make(Purpose.CONTROL)
    config = tmp_path / "agent.yaml"
    server = {"name": "m", "kind": "nanomdm", "url": "http://127.0.0.1:1", "login": "env:MDM"}
    site = {"time_zone": "Europe/London", "methods": ["mdm_command"], "mdm_servers": [server]}
    config.write_text(json.dumps({"version": 1, "sites": {"london": site}}))
    where = ("--data-dir", str(tmp_path), "--config", str(config))
    code, _, err = run(entry_point, "--site", "london", *where)
    assert code == 2
    assert "no key in trust/records" in err


@pytest.mark.parametrize("entry_point", ENTRY_POINTS)
def test_version_is_printed_without_other_options(entry_point: str) -> None:
    assert run(entry_point, "--version") == (0, f"{version('drydock')}\n", "")


def test_both_entry_points_have_the_same_options() -> None:
    texts = [run(each, "--help")[1].split() for each in ENTRY_POINTS]
    first, second = (words[words.index("[OPTIONS]") :] for words in texts)
    assert first == second
    assert "--simulate" in first
