import fcntl
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.cli.app import app
from pipeline.signing_keys import KeyStore
from runtime.trusted_keys import Purpose

WRONG = {
    "site": (("--site", "Up there"), "small letters"),
    "name": (("--site", "london", "--name", "A!"), "small letters"),
    "listen": (("--site", "london", "--listen", "nowhere"), "is not HOST:PORT"),
    "bootstrap": (("--site", "london", "--bootstrap", "no address"), "DRYDOCK_KAFKA_BOOTSTRAP"),
    "no Macs": (("--site", "london", "--simulate", "127.0.0.1:1"), "no simulated Macs at"),
    "no keys": (("--site", "london"), "every job would be refused"),
}


@pytest.mark.parametrize(("given", "message"), WRONG.values(), ids=WRONG.keys())
def test_an_error_at_the_start_is_one_line(
    tmp_path: Path, given: tuple[str, ...], message: str
) -> None:
    result = CliRunner().invoke(app, ["agent", "--data-dir", str(tmp_path), *given])
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_data_directory_in_use_by_another_agent_is_refused(tmp_path: Path) -> None:
    KeyStore(tmp_path / "keys").make(Purpose.JOBS)
    with (tmp_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        given = ["agent", "--site", "london", "--data-dir", str(tmp_path)]
        result = CliRunner().invoke(app, given)
    assert result.exit_code == 2
    assert "another executor works in" in result.stderr
