"""Trusted keys: what is read, left out and refused, and when it is read again."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.signing_keys import KeyStore
from runtime.trusted_keys import KeyRing, KeysError, Purpose, TrustedKeys

JOBS = Purpose.JOBS


def test_key_ring_needs_only_the_trust_folder(tmp_path: Path) -> None:
    KeyStore(tmp_path / "center").make(JOBS)
    (tmp_path / "site").mkdir()
    (tmp_path / "center" / "trust").rename(tmp_path / "site" / "trust")
    assert len(KeyRing.load(tmp_path / "site").jobs) == 1


def _renamed(file: Path) -> None:
    file.rename(file.with_name("0123456789abcdef.pub"))


def _unreadable(file: Path) -> None:
    file.unlink()
    file.mkdir()


def _dangling(file: Path) -> None:
    file.unlink()
    file.symlink_to("nothing")


UNUSABLE: dict[str, Callable[[Path], object]] = {
    "not the key of its name": _renamed,
    "no public key": lambda file: file.write_text("x"),
    "a folder": _unreadable,
    "a link to nothing": _dangling,
    "written by its group": lambda file: file.chmod(0o664),
    "written by others": lambda file: file.chmod(0o646),
    "of another user": lambda file: os.chown(file, 65534, -1),
}


@pytest.mark.parametrize("spoil", UNUSABLE.values(), ids=UNUSABLE.keys())
def test_file_that_cannot_be_used_is_left_out_and_reported(
    spoil: Callable[[Path], object], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if "user" in request.node.name and os.geteuid() != 0:
        pytest.skip("only root can give a file to another user")
    store = KeyStore(tmp_path)
    old = store.make(JOBS)
    kept = store.rotate(JOBS)
    spoil(tmp_path / "trust" / "jobs" / f"{old}.pub")
    ring = KeyRing.load(tmp_path)
    assert [*ring.jobs] == [kept]
    (problem,) = ring.problems
    assert problem.endswith("; the key is not trusted")


@pytest.mark.parametrize("folder", [".", "trust", "trust/jobs"])
def test_folder_that_others_can_write_is_refused(folder: str, tmp_path: Path) -> None:
    KeyStore(tmp_path).make(JOBS)
    (tmp_path / folder).chmod(0o777)
    with pytest.raises(KeysError, match="chmod go-w"):
        KeyRing.load(tmp_path)
    (tmp_path / folder).chmod(0o1777)  # only the owner of a file there can replace it
    assert len(KeyRing.load(tmp_path).jobs) == 1


def test_keys_are_read_again_when_one_is_added_or_removed(tmp_path: Path) -> None:
    store, problems = KeyStore(tmp_path), list[str]()
    old = store.make(JOBS)
    keys = TrustedKeys(tmp_path, problems.append, interval_s=0.0)
    first = keys.current()
    assert keys.current() is first
    new = store.rotate(JOBS)
    assert keys.current().jobs.keys() == {old, new}
    store.retire(JOBS, old)
    assert keys.current().jobs.keys() == {new}
    (tmp_path / "trust" / "jobs" / f"{old}.pub").write_text("x")
    assert keys.current().jobs.keys() == {new}
    (tmp_path / "trust").chmod(0o777)
    assert keys.current().jobs.keys() == {new}
    keys.current()
    assert len(problems) == 2
