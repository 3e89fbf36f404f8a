"""Fixtures and settings of the integration tests, which use real servers."""

import gc
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

with warnings.catch_warnings():
    # kafka-python 3.0.12 reads its protocol with a call that Python 3.11 and 3.12 deprecate.
    warnings.simplefilter("ignore", DeprecationWarning)
    from tests.kafka.broker_fixtures import (
        empty_kafka,
        kafka,
        leaky_clients,
        three_brokers,
    )
    from tests.kafka.workers import workers

__all__ = ["empty_kafka", "kafka", "leaky_clients", "three_brokers", "workers"]
FOLDER = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of this folder slow, and ignore their warnings of unclosed sockets.

    kafka-python 3.0.12 leaves sockets open; the garbage collector may find them in any test.
    """
    for item in items:
        if item.path.is_relative_to(FOLDER):
            item.add_marker(pytest.mark.slow)
            item.add_marker(pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"))


@pytest.fixture(autouse=True, scope="module")
def _leave_nothing_open() -> Iterator[None]:
    """Collect unclosed sockets here, so that no test of another folder gets the warning."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
