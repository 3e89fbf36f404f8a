"""Faults that take long or need a server run with `make faults` only."""

import os

import pytest

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
