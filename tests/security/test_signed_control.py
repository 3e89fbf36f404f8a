"""A16, A22, A24 and A25: keys and files of `drydock run`."""

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.embedded.log import Log
from pipeline.signing_keys import KeyStore
from runtime.trusted_keys import Purpose
from schemas.envelope import JobIssuedEvent, decode
from tests.drydock_process import DRYDOCK, running
from tests.security.target import release, report, target

_NOTICED_WITHIN_S = 30.0


def drydock(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command."""
    return subprocess.run(
        [*DRYDOCK, *arguments], capture_output=True, text=True, check=False, timeout=120
    )


def signers(data_dir: Path) -> dict[str, str]:
    """Return the id of the key that signed the job of each Mac."""
    with Log.open(data_dir) as log:
        events = [decode(entry.body) for entry in log.entries(kind="event")]
    return {
        event.data.job.udid: event.data.signed.signatures[0].keyid
        for event in events
        if isinstance(event, JobIssuedEvent)
    }


def eventually(is_true: Callable[[], bool]) -> bool:
    """Return True once it is true, False if it is not within 30 s."""
    until = time.monotonic() + _NOTICED_WITHIN_S
    while not is_true():
        if time.monotonic() > until:
            return False
        time.sleep(0.5)
    return True


def test_a16_retired_key_signs_no_job_in_a_running_service(tmp_path: Path) -> None:
    with target(tmp_path) as at:
        at.accept(release(), "sofa")
        at.accept(report("MAC-1"), "osquery")
        keys = at.data_dir / "keys"
        old = signers(at.data_dir)["MAC-1"]
        for command in (("rotate",), ("retire", old)):
            done = drydock("keys", *command, "--dir", str(keys), "--purpose", "jobs")
            assert done.returncode == 0, done.stderr
        new = KeyStore(keys).current(Purpose.JOBS)

        def is_signed_by_the_new_key() -> bool:
            name = f"MAC-{time.monotonic_ns()}"
            at.accept(report(name), "osquery")
            return signers(at.data_dir)[name] == new

        assert eventually(is_signed_by_the_new_key)


def test_a22_service_makes_no_key_that_approves(tmp_path: Path) -> None:
    with target(tmp_path) as at:
        names = [path.name for path in (at.data_dir / "keys").rglob("*")]
    assert [name for name in names if name.startswith("approvals")] == []


def test_a24_data_directory_that_was_open_is_closed_to_others(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    data_dir.mkdir(mode=0o755)
    (data_dir / "left.txt").write_text("a report")
    (data_dir / "left.txt").chmod(0o644)
    with target(tmp_path):
        found = [data_dir, *data_dir.rglob("*")]
        open_to_others = [path for path in found if path.stat().st_mode & 0o077]
    assert [path for path in open_to_others if path.suffix != ".pub"] == []


def start_fails(data_dir: Path) -> str:
    """Return the error with which the service does not start."""
    where = ("--data-dir", str(data_dir), "--listen", "127.0.0.1:0", "--insecure-loopback")
    done = drydock("run", *where)
    assert done.returncode == 2, done.stderr
    return done.stderr


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory of a service that has run."""
    data_dir = tmp_path_factory.mktemp("started") / "data"
    with running(data_dir):
        pass
    return data_dir


SPOILED: dict[str, tuple[str, int, str]] = {
    "trust that all can write": ("keys/trust/jobs", 0o777, "chmod go-w"),
    "keys that all can write": ("keys", 0o777, "chmod go-w"),
    "a token that all can read": ("keys/admin.token", 0o644, "open to others"),
    "a redaction key that all can read": ("keys/redaction.key", 0o640, "open to others"),
}


@pytest.mark.parametrize("case", SPOILED)
def test_a25_keys_of_which_others_can_take_part_are_refused(started: Path, case: str) -> None:
    name, mode, message = SPOILED[case]
    path = started / name
    before = path.stat().st_mode & 0o777
    path.chmod(mode)
    try:
        done = drydock("halt", "all", "--data-dir", str(started))
        assert done.returncode == 0, done.stderr  # in any case
        assert message in start_fails(started)
    finally:
        path.chmod(before)


def test_a25_one_junk_key_does_not_stop_the_others(started: Path) -> None:
    (started / "keys" / "trust" / "jobs" / "0123456789abcdef.pub").write_text("junk")
    with running(started) as service:
        assert "the key is not trusted" in "".join(service.log_lines)
