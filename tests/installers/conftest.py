"""Fixtures of the tests of installers, with a real S3 server; all of these tests are slow."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from agents.installers.bucket import InstallerBucket
from tests.installers.servers import S3Server, missing_server
from tests.toxiproxy import toxiproxy

__all__ = ["toxiproxy"]
FOLDER = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of this folder slow."""
    for item in items:
        if item.path.is_relative_to(FOLDER):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real server of S3; if it is missing, the test is skipped, and fails in CI."""
    if missing := missing_server():
        pytest.skip(missing)
    server = S3Server.create(tmp_path_factory.mktemp("s3"))
    server.program.start()
    yield server
    server.program.stop()


@pytest.fixture
def bucket(s3: S3Server) -> InstallerBucket:
    """A new, empty bucket."""
    return s3.bucket()
