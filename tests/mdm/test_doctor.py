"""`drydock doctor` on the real servers: what it sees, and that it changes nothing."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.cli.app import app
from tests.mdm.servers import KMFDDM_KEY, NANOMDM_KEY, MdmServers


def diagnose(folder: Path, servers: MdmServers) -> tuple[int, list[tuple[str, str]]]:
    """Return the exit code, and level and message of each line."""
    config = folder / "agent.yaml"
    config.write_text(f"""
sites:
  london:
    time_zone: Europe/London
    mdm_servers:
      - name: main
        kind: nanomdm
        url: {servers.nanomdm.url}
        login: env:NANOMDM_API_KEY
        ddm: {{url: "{servers.kmfddm.url}", login: env:KMFDDM_API_KEY}}
    methods: [ddm]
""")
    done = CliRunner().invoke(app, ["doctor", "--config", str(config), "--json"])
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    return done.exit_code, [(row["level"], row["message"]) for row in rows]


def test_right_logins_are_accepted(
    servers: MdmServers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NANOMDM_API_KEY", NANOMDM_KEY)
    monkeypatch.setenv("KMFDDM_API_KEY", KMFDDM_KEY)
    code, found = diagnose(tmp_path, servers)
    assert code == 0
    assert [message for level, message in found if level == "ok"] == [
        "NanoMDM responds, version unknown",
        "NanoMDM accepts the login",
        "KMFDDM responds, version unknown",
        "KMFDDM accepts the login",
    ]


def test_wrong_logins_are_errors(
    servers: MdmServers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NANOMDM_API_KEY", KMFDDM_KEY)
    monkeypatch.setenv("KMFDDM_API_KEY", NANOMDM_KEY)
    code, found = diagnose(tmp_path, servers)
    assert code == 1
    assert [message for level, message in found if level == "error"] == [
        f"{servers.nanomdm.url} refuses the login of nanomdm: check `login`",
        f"{servers.kmfddm.url} refuses the login of kmfddm: check `login`",
    ]
