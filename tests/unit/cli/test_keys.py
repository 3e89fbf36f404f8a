import json
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from typer.testing import CliRunner

from pipeline.cli.keys import app
from pipeline.payload_signing import sign_job
from pipeline.signing_keys import KeyStore, WatchedKey
from runtime.trusted_keys import KeyRing, KeysError, Purpose
from schemas.signed_payloads import verify_job
from schemas.signing import SignatureError, key_id
from tests.factories.sites import a_job

JOBS, APPROVALS = Purpose.JOBS, Purpose.APPROVALS


def test_private_key_file_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    keyid = KeyStore(tmp_path).make(JOBS)
    assert (tmp_path / f"jobs-{keyid}.pem").stat().st_mode & 0o777 == 0o600


def test_signature_of_an_old_key_is_valid_until_the_key_is_retired(tmp_path: Path) -> None:
    store = KeyStore(tmp_path)
    old = store.make(JOBS)
    order = sign_job(a_job(), store.signer(JOBS)).signed
    new = store.rotate(JOBS)
    assert store.current(JOBS) == new != old
    assert verify_job(order, KeyRing.load(tmp_path).jobs) == a_job()
    store.retire(JOBS, old)
    with pytest.raises(SignatureError):
        verify_job(order, KeyRing.load(tmp_path).jobs)
    verify_job(sign_job(a_job(), store.signer(JOBS)).signed, KeyRing.load(tmp_path).jobs)


def test_rotation_deletes_the_old_private_key(tmp_path: Path) -> None:
    store = KeyStore(tmp_path)
    store.make(JOBS)
    new = store.rotate(JOBS)
    assert [path.name for path in tmp_path.glob("*.pem")] == [f"jobs-{new}.pem"]


def test_key_of_one_purpose_is_not_valid_for_the_other(tmp_path: Path) -> None:
    store = KeyStore(tmp_path)
    store.make(JOBS)
    store.make(APPROVALS)
    ring = KeyRing.load(tmp_path)
    assert set(ring.jobs).isdisjoint(ring.approvals)
    with pytest.raises(SignatureError):
        verify_job(sign_job(a_job(), store.signer(APPROVALS)).signed, ring.jobs)


MISUSES: dict[str, Callable[[KeyStore, str], object]] = {
    "a second first key": lambda store, _: store.make(JOBS),
    "nothing to rotate": lambda store, _: store.rotate(APPROVALS),
    "nothing to sign with": lambda store, _: store.signer(APPROVALS),
    "retire the one that signs": lambda store, keyid: store.retire(JOBS, keyid),
    "retire an unknown one": lambda store, _: store.retire(JOBS, "0" * 16),
}


@pytest.mark.parametrize("misuse", MISUSES.values(), ids=MISUSES.keys())
def test_misuse_of_the_key_store_is_refused(
    misuse: Callable[[KeyStore, str], object], tmp_path: Path
) -> None:
    store = KeyStore(tmp_path)
    keyid = store.make(JOBS)
    with pytest.raises(KeysError):
        misuse(store, keyid)


AN_RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
    Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
)
UNUSABLE: dict[str, Callable[[Path], object]] = {
    "open to others": lambda file: file.chmod(0o644),
    "no key in the file": lambda file: file.write_text("x"),
    "another kind of key": lambda file: file.write_bytes(AN_RSA_KEY),
    "no file": lambda file: file.unlink(),
}


@pytest.mark.parametrize("damage", UNUSABLE.values(), ids=UNUSABLE.keys())
def test_unusable_private_key_does_not_sign(
    damage: Callable[[Path], object], tmp_path: Path
) -> None:
    store = KeyStore(tmp_path)
    damage(tmp_path / f"jobs-{store.make(JOBS)}.pem")
    with pytest.raises(KeysError):
        store.signer(JOBS)


def run(*arguments: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, arguments)
    return done.exit_code, done.stdout, done.stderr


def test_commands_make_rotate_list_and_retire_keys(tmp_path: Path) -> None:
    where = ("--dir", str(tmp_path), "--json")
    code, out, _ = run("make", *where)
    assert code == 0
    old = json.loads(out.splitlines()[0])["keyid"]
    assert run("rotate", "--purpose", "jobs", *where)[0] == 0
    listed = [json.loads(line) for line in run("list", *where)[1].splitlines()]
    assert [(key["purpose"], key["signs"]) for key in listed].count(("jobs", True)) == 1
    assert len(listed) == 3
    assert run("retire", old, *where)[0] == 0
    assert len(run("list", *where)[1].splitlines()) == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ("rotate",),
        ("retire", "x"),
        ("make", "--purpose", "sundry"),
        ("retire", "x", "--purpose", "all"),
    ],
    ids=["rotate nothing", "retire nothing", "no such purpose", "retire all"],
)
def test_command_prints_an_error_in_one_line(arguments: tuple[str, ...], tmp_path: Path) -> None:
    code, out, err = run(*arguments, "--dir", str(tmp_path))
    assert (code, out, err.count("\n")) == (2, "", 1)


def test_watched_key_follows_a_rotation(tmp_path: Path) -> None:
    store = KeyStore(tmp_path)
    store.make(Purpose.RECORDS)
    watched = WatchedKey(tmp_path, Purpose.RECORDS, pytest.fail, interval_s=0)
    old = watched.current()
    assert watched.current() is old
    new = store.rotate(Purpose.RECORDS)
    assert key_id(watched.current().public_key()) == new


def test_watched_key_signs_on_while_the_new_one_is_unusable(tmp_path: Path) -> None:
    store = KeyStore(tmp_path)
    store.make(Purpose.RECORDS)
    problems: list[str] = []
    watched = WatchedKey(tmp_path, Purpose.RECORDS, problems.append, interval_s=0)
    old = watched.current()
    new = store.rotate(Purpose.RECORDS)
    (tmp_path / f"records-{new}.pem").chmod(0o644)
    assert watched.current() is old
    assert watched.current() is old
    (problem,) = problems
    assert problem.endswith("the previous key signs")
    (tmp_path / f"records-{new}.pem").chmod(0o600)
    assert key_id(watched.current().public_key()) == new


def test_watched_key_of_a_directory_without_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeysError, match="no key for records"):
        WatchedKey(tmp_path, Purpose.RECORDS, pytest.fail)
