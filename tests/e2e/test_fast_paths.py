"""The embedded form stores and reads the same bytes with and without fast paths."""

import shutil
import sqlite3
from collections import Counter
from datetime import timedelta
from pathlib import Path

import pytest

from pipeline.demo.drive import play
from pipeline.demo.embedded import EmbeddedForm
from pipeline.demo.scenario import ADVISORY_AT, build, policy_text
from pipeline.embedded.log import Log
from pipeline.replay.counterfactual import counterfactual
from pipeline.replay.verify import verify
from pipeline.signing_keys import KeyStore
from runtime.trusted_keys import Purpose
from schemas.envelope import JobIssuedEvent, decode
from tests.fast_paths import fast_path_uses

MACS, SEED, STEP, UNTIL = 26, 7, timedelta(hours=1), ADVISORY_AT + timedelta(days=6)
# The fast paths that the embedded form uses.
FAST_PATHS = {"construct_unchecked", "json_bytes", "reevaluate_after_send"}


def ran(folder: Path, keys: Path, *, fast_paths: bool) -> Counter[str]:
    """Run the demo with these keys; return the number of uses of each fast path."""
    shutil.copytree(keys, folder / "keys")
    with fast_path_uses() as uses:
        form = EmbeddedForm(folder, build(SEED, MACS), SEED, fast_paths=fast_paths)
        try:
            for _ in play(form, KeyStore(keys).signer(Purpose.APPROVALS), STEP, UNTIL):
                pass
        finally:
            form.close()
    return uses


def databases(folder: Path) -> dict[str, list[str]]:
    """Return the content of each SQLite file under the folder, as SQL statements by path.

    Without the setting that names the file, which differs in every folder.
    """
    found = {}
    for path in sorted(folder.rglob("*.sqlite")):
        with sqlite3.connect(path) as connection:
            found[str(path.relative_to(folder))] = [
                line
                for line in connection.iterdump()
                if not line.startswith("INSERT INTO \"settings\" VALUES('file'")
            ]
        connection.close()
    return found


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return the data directories of the same demo with fast paths and without."""
    root = tmp_path_factory.mktemp("demo")
    for purpose in Purpose:
        KeyStore(root / "keys").make(purpose)
    fast, plain = root / "fast", root / "plain"
    assert set(ran(fast, root / "keys", fast_paths=True)) == FAST_PATHS
    assert not ran(plain, root / "keys", fast_paths=False)
    return fast, plain


def test_store_and_journals_have_the_same_bytes(folders: tuple[Path, Path]) -> None:
    fast, plain = map(databases, folders)
    assert len(fast) > 1
    assert fast.keys() == plain.keys()
    for name, rows in fast.items():
        assert rows == plain[name], name


def test_signed_jobs_have_the_same_bytes(folders: tuple[Path, Path]) -> None:
    signed = []
    for folder in folders:
        with Log.open(folder) as log:
            events = [decode(row.body) for row in log.entries() if row.kind == "event"]
        signed.append([one.data.signed for one in events if isinstance(one, JobIssuedEvent)])
    assert signed[0]
    assert signed[0] == signed[1]


@pytest.mark.parametrize("fast_paths", [True, False], ids=["on", "off"])
def test_log_verifies_with_and_without_fast_paths(
    folders: tuple[Path, Path], *, fast_paths: bool
) -> None:
    fast, plain = folders
    # Each form reads the log of the other.
    with Log.open(plain if fast_paths else fast) as log, fast_path_uses() as uses:
        report = verify(log, state=log, fast_paths=fast_paths)
    assert report.difference is None
    assert report.decisions > MACS
    assert bool(uses) is fast_paths


def test_counterfactual_is_the_same_with_and_without_fast_paths(folders: tuple[Path, Path]) -> None:
    other = policy_text().replace("high: 10d", "high: 1d")
    with Log.open(folders[0]) as log:
        fast = counterfactual(log, other)
        with fast_path_uses() as uses:
            plain = counterfactual(log, other, fast_paths=False)
    assert fast.changes
    assert fast == plain
    assert not uses
