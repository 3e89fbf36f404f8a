"""One service for the attacks of a module; each attacks Macs of its own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.security.target import Target, release, target

SLOW = pytest.mark.slow


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of this folder as slow: each module starts a service."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(SLOW)


@pytest.fixture(scope="module")
def at(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """A service with the secrets of some senders, which knows the release 26.2."""
    with target(tmp_path_factory.mktemp("target")) as found:
        found.accept(release(), "sofa")
        yield found
