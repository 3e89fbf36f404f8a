"""Faults that take long or need a server run with `make faults` only."""

import os
import warnings

import pytest

with warnings.catch_warnings():
    # kafka-python 3.0.12 reads its protocol with a call that Python 3.11 and 3.12 deprecate.
    warnings.simplefilter("ignore", DeprecationWarning)
    from tests.kafka.broker_fixtures import (
        empty_kafka,
        kafka,
        leaky_clients,
        own_broker,
        three_brokers,
    )
    from tests.toxiproxy import toxiproxy

__all__ = ["empty_kafka", "kafka", "leaky_clients", "own_broker", "three_brokers", "toxiproxy"]
ALL = os.environ.get("DRYDOCK_FAULTS") == "all"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if ALL:
        return
    folder = str(__file__).removesuffix("conftest.py")
    left_out = [
        item
        for item in items
        if str(item.path).startswith(folder) and item.get_closest_marker("slow")
    ]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in set(left_out)]
