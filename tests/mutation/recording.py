"""pytest plugin of `make mutate`.

It records the lines that each test runs, draws Hypothesis examples by a fixed seed, and exits with
HUNG_CODE if a test exceeds its time.
"""

from collections.abc import Generator
from typing import Final

import coverage
import pytest
from hypothesis import HealthCheck, settings

HUNG_CODE: Final = 70
_TIMED_OUT: Final = pytest.StashKey[bool]()

# The same examples in each run, so that no mutant is killed by chance.
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


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Record that pytest-timeout ended the test."""
    if call.excinfo is not None and "from pytest-timeout" in str(call.excinfo.value):
        item.session.stash[_TIMED_OUT] = True
    return (yield)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Exit with HUNG_CODE if a test exceeded its time: it did not fail."""
    if session.stash.get(_TIMED_OUT, False):
        session.exitstatus = HUNG_CODE
