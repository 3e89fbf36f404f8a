"""Fixtures of the tests that use a real OpenSSH server."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ssh.bench import MacBench
from tests.ssh.sshd import MISSING, SSHD, Sshd, sshd


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """A running server; if OpenSSH is missing, the test is skipped, and fails in CI."""
    if not SSHD.exists() or shutil.which("ssh-keygen") is None:
        pytest.skip(MISSING)
    if not Path("/proc/self").exists():
        pytest.skip("these tests need Linux: they replace tools that a Mac has")
    with sshd(tmp_path_factory.mktemp("sshd") / "server") as running:
        yield running


@pytest.fixture
def bench(server: Sshd, tmp_path: Path) -> MacBench:
    """A Mac on macOS 26.6 with Apple silicon, which is offered 26.7 and 27."""
    return MacBench(tmp_path / "mac", server)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of this folder slow."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.slow)
