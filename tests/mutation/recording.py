"""pytest plugin of `make mutate`: records which test runs which line, draws examples by seed."""

from collections.abc import Generator

import coverage
import pytest
from hypothesis import HealthCheck, settings

# The same examples in each run: a mutant is not killed by luck.
settings.register_profile(
    "mutation",
    max_examples=50,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Name the test as the context of the lines that it runs."""
    recorder = coverage.Coverage.current()
    if recorder is None:
        return (yield)
    recorder.switch_context(item.nodeid)
    try:
        return (yield)
    finally:
        recorder.switch_context("")
