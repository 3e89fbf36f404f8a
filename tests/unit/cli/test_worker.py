"""The command `drydock worker` before it reaches Kafka."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.cli.app import app
from pipeline.signing_keys import KeyStore
from runtime.folder_lock import locked_folder
from runtime.trusted_keys import Purpose


def test_data_directory_in_use_by_another_worker_is_refused(tmp_path: Path) -> None:
    KeyStore(tmp_path / "keys").make(Purpose.JOBS)
    KeyStore(tmp_path / "keys").make(Purpose.CONTROL)
    given = ["--data-dir", str(tmp_path / "data"), "--keys", str(tmp_path / "keys")]
    with locked_folder(tmp_path / "data"):
        runner = CliRunner(env={"DRYDOCK_STAMP_KEYS": "the-stamp-key-of-the-tests"})
        done = runner.invoke(app, ["worker", *given])
    assert done.exit_code == 2
    assert done.stderr.splitlines() == [
        f"drydock: another worker works in {tmp_path / 'data'}: give each worker its own --data-dir"
    ]


@pytest.mark.parametrize("keys", [None, "", "too-short", "the-stamp-key-of-the-tests,short"])
def test_worker_without_a_good_stamp_key_does_not_start(keys: str | None, tmp_path: Path) -> None:
    KeyStore(tmp_path / "keys").make(Purpose.JOBS)
    KeyStore(tmp_path / "keys").make(Purpose.CONTROL)
    given = ["--data-dir", str(tmp_path / "data"), "--keys", str(tmp_path / "keys")]
    done = CliRunner(env={"DRYDOCK_STAMP_KEYS": keys}).invoke(app, ["worker", *given])
    assert done.exit_code == 2
    assert "DRYDOCK_STAMP_KEYS needs a key of at least 16 characters" in done.stderr
