"""`drydock run`: options that exclude each other, and errors of the configuration of sites."""

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from pipeline.cli.app import app

CONFIG = """\
sites:
  london:
    time_zone: Europe/London
    mdm_servers:
      - {name: main, kind: nanomdm, url: "https://mdm.test", login: env:KEY, ca_file: /none.pem}
    methods: [mdm_command]
"""


def run(folder: Path, *args: str) -> Result:
    return CliRunner().invoke(app, ["run", "--data-dir", str(folder / "data"), *args])


@pytest.mark.parametrize(
    "given",
    [
        ("--dry-run", "--simulate", "3"),
        ("--dry-run", "--config", "a.yaml"),
        ("--simulate", "3", "--config", "a.yaml"),
    ],
    ids=" ".join,
)
def test_real_simulated_and_no_macs_exclude_each_other(
    tmp_path: Path, given: tuple[str, ...]
) -> None:
    done = run(tmp_path, *given)
    assert (done.exit_code, done.stdout) == (2, "")
    assert "choose one" in done.stderr


BROKEN = {
    "missing": (None, 2, "cannot read "),
    "invalid": (CONFIG.replace("nanomdm", "nanomdn"), 1, "is not a valid configuration: 1 problem"),
    "certificates": (CONFIG, 2, "ca_file /none.pem: No such file or directory"),
}


@pytest.mark.parametrize(("text", "code", "message"), BROKEN.values(), ids=BROKEN.keys())
def test_unusable_configuration_starts_no_service(
    tmp_path: Path, text: str | None, code: int, message: str
) -> None:
    path = tmp_path / "agent.yaml"
    if text is not None:
        path.write_text(text)
    done = run(tmp_path, "--config", str(path), "--listen", "127.0.0.1:0")
    assert done.exit_code == code
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
