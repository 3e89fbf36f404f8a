from pathlib import Path

import pytest

from pipeline.signing_keys import KeyStore
from runtime.trusted_keys import KeyRing, KeysError, Purpose

JOBS = Purpose.JOBS


def test_key_ring_needs_only_the_trust_folder(tmp_path: Path) -> None:
    KeyStore(tmp_path / "center").make(JOBS)
    (tmp_path / "site").mkdir()
    (tmp_path / "center" / "trust").rename(tmp_path / "site" / "trust")
    assert len(KeyRing.load(tmp_path / "site").jobs) == 1


def test_public_key_under_another_name_is_refused(tmp_path: Path) -> None:
    keyid = KeyStore(tmp_path).make(JOBS)
    trusted = tmp_path / "trust" / "jobs"
    (trusted / f"{keyid}.pub").rename(trusted / "0123456789abcdef.pub")
    with pytest.raises(KeysError):
        KeyRing.load(tmp_path)


def test_file_that_is_no_public_key_is_refused(tmp_path: Path) -> None:
    keyid = KeyStore(tmp_path).make(JOBS)
    (tmp_path / "trust" / "jobs" / f"{keyid}.pub").write_text("x")
    with pytest.raises(KeysError):
        KeyRing.load(tmp_path)
