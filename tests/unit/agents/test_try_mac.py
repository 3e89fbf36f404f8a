"""`agent try` without a Mac: usage and errors, each with its exit code."""

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from agents.cli import app

SERIAL = "C02XK1ZYJHD3"
NO_SSH = """\
sites:
  london:
    time_zone: UTC
    methods: [mdm_command]
    mdm_servers:
      - {name: main, kind: nanomdm, url: "https://mdm.example.org", login: env:KEY}
"""


def run(*args: str | Path) -> Result:
    return CliRunner().invoke(app, ["try", *map(str, args)])


def ssh_site(folder: Path, name: str = "london") -> str:
    for file in ("key", "hosts"):
        (folder / file).write_text("")
    return (
        f"  {name}:\n    time_zone: UTC\n    methods: [softwareupdate]\n"
        f"    ssh: {{user: root, key: {folder}/key, known_hosts: {folder}/hosts, port: 1,"
        f" addresses: {{{SERIAL}: 127.0.0.1}}}}\n"
    )


@pytest.mark.parametrize("sites", ["none with SSH", "two"])
def test_site_must_be_clear(tmp_path: Path, sites: str) -> None:
    two = "sites:\n" + ssh_site(tmp_path) + ssh_site(tmp_path, "tokyo")
    (tmp_path / "agent.yaml").write_text(NO_SSH if sites == "none with SSH" else two)
    done = run(SERIAL, "--config", tmp_path / "agent.yaml")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "choose a site that has `ssh`" in done.stderr


@pytest.mark.parametrize(
    ("serial", "message"),
    [(SERIAL, "key or certificate is unusable"), ("C02OTHER0001", "no address of C02OTHER0001")],
    ids=["no login", "no address"],
)
def test_mac_that_is_not_reached_exits_1(tmp_path: Path, serial: str, message: str) -> None:
    (tmp_path / "agent.yaml").write_text("sites:\n" + ssh_site(tmp_path))
    done = run(serial.lower(), "--config", tmp_path / "agent.yaml", "--site", "london")
    assert (done.exit_code, done.stdout) == (1, "")
    assert message in done.stderr
