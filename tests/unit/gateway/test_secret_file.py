"""Files with secrets: made once, readable by their owner only."""

from pathlib import Path

import pytest

from pipeline.gateway.secret_file import random_key, read_or_make


def test_missing_file_is_made_and_then_kept(tmp_path: Path) -> None:
    path = tmp_path / "redaction.key"
    made = read_or_make(path, random_key)
    assert len(made) == 32
    assert read_or_make(path, random_key) == made
    assert path.stat().st_mode & 0o777 == 0o600
    assert [one.name for one in tmp_path.iterdir()] == ["redaction.key"]


def test_file_that_a_crash_left_behind_is_replaced(tmp_path: Path) -> None:
    (tmp_path / ".redaction.key.new").write_bytes(b"half")
    assert read_or_make(tmp_path / "redaction.key", lambda: b"whole") == b"whole"
    assert [one.name for one in tmp_path.iterdir()] == ["redaction.key"]


def test_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_or_make(tmp_path / "keys" / "redaction.key", random_key)
