"""`agent try` reads a Mac with a real OpenSSH server, by a configuration file."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from agents.cli import app
from agents.config import try_mac
from tests.ssh.bench import SERIAL, MacBench


@pytest.fixture
def config(bench: MacBench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(try_mac, "paths_of", lambda _: bench.paths)
    path, server = tmp_path / "agent.yaml", bench.server
    path.write_text(
        "sites:\n  london:\n    time_zone: UTC\n    methods: [softwareupdate]\n    ssh:\n"
        f"      user: {server.user}\n      port: {server.port}\n      key: {server.key}\n"
        f"      known_hosts: {server.known_hosts}\n      addresses: {{{SERIAL}: 127.0.0.1}}\n"
        "      connect_timeout_s: 30\n"
        "      volume_owner: {user: itadmin, password: env:UNUSED}\n"
    )
    return path


def test_facts_are_shown_and_saved_without_the_serial_number(
    bench: MacBench, config: Path, tmp_path: Path
) -> None:
    bench.set(console="jappleseed")
    saved = tmp_path / "outputs.json"
    done = CliRunner().invoke(
        app, ["try", SERIAL, "--config", str(config), "--save", str(saved)], catch_exceptions=False
    )
    assert done.exit_code == 0, done.stderr
    lines = done.stdout.splitlines()
    assert f"serial number: {SERIAL}" in lines
    assert {"macOS: 26.6", "the account owns the volume: yes", "enrolled: no"} <= set(lines)
    assert json.loads(saved.read_text())["system"].startswith("ProductName:")
    assert SERIAL not in saved.read_text()
    assert "jappleseed" not in saved.read_text()
    assert not bench.tasks.exists()


def test_other_mac_at_the_address_exits_1(bench: MacBench, config: Path) -> None:
    bench.set(serial="C02ANOTHER01")
    done = CliRunner().invoke(app, ["try", SERIAL, "--config", str(config)])
    assert (done.exit_code, done.stdout) == (1, "")
    assert "the Mac at this address is C02ANOTHER01" in done.stderr
