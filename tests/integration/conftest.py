"""What the integration tests share: real servers."""

import warnings

import pytest

with warnings.catch_warnings():
    # kafka-python 3.0.12 reads its protocol by a call that Python 3.11 and 3.12 call deprecated.
    warnings.simplefilter("ignore", DeprecationWarning)
    from tests.integration.broker_fixtures import (
        empty_kafka,
        kafka,
        leaky_clients,
        three_brokers,
    )
    from tests.integration.workers import workers

__all__ = ["empty_kafka", "kafka", "leaky_clients", "three_brokers", "workers"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What leaky clients leave open may also be collected while their own test runs."""
    for item in items:
        if "leaky_clients" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"))
