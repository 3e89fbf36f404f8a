"""The search for secrets finds each of them, wherever a program put it."""

from pathlib import Path

import pytest

from tests.mdm.secrecy import exposed_secrets, secrets_of
from tests.mdm.servers import NANOMDM_KEY

PRIVATE_KEY = "MC4CAQAwBQYDK2VwBCIEIBt0aGUgcHJpdmF0ZSBrZXkgb2YgYSB0ZXN0"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The files of a run that exposes nothing."""
    for name in ("keys", "worker", "mdm"):
        (tmp_path / name).mkdir()
    pem = f"-----BEGIN PRIVATE KEY-----\n{PRIVATE_KEY}\n-----END PRIVATE KEY-----\n"
    (tmp_path / "keys" / "jobs-1.pem").write_text(pem)
    (tmp_path / "keys" / "admin.token").write_bytes(b"a-random-token")
    (tmp_path / "mdm" / "nanomdm.log").write_text(NANOMDM_KEY)
    (tmp_path / "worker" / "journal.sqlite").write_bytes(b"\0\1nothing\0")
    return tmp_path


def test_run_that_exposes_nothing_has_no_finding(run: Path) -> None:
    assert exposed_secrets(run, {"metrics": b"up 1"}, secrets_of(run)) == []


@pytest.mark.parametrize("secret", [NANOMDM_KEY, PRIVATE_KEY, "a-random-token"])
def test_secret_in_a_file_or_on_a_page_is_found(run: Path, secret: str) -> None:
    (run / "worker" / "journal.sqlite").write_bytes(b"\0" + secret.encode() + b"\0")
    found = exposed_secrets(run, {"metrics": f"up{{{secret}}} 1".encode()}, secrets_of(run))
    assert [each.partition(":")[0] for each in found] == ["worker/journal.sqlite", "metrics"]
