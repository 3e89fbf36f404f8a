"""What the integration tests share: real servers."""

import gc
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

with warnings.catch_warnings():
    # kafka-python 3.0.12 reads its protocol by a call that Python 3.11 and 3.12 call deprecated.
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
    """Mark this folder's tests slow. kafka-python 3.0.12 leaves sockets open, which the garbage
    collector may find in any of them."""
    for item in items:
        if item.path.is_relative_to(FOLDER):
            item.add_marker(pytest.mark.slow)
            item.add_marker(pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"))


@pytest.fixture(autouse=True, scope="module")
def _leave_nothing_open() -> Iterator[None]:
    """... and in none of another folder."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
