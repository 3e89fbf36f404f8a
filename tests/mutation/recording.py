"""pytest plugin of `make mutate`: lines and seconds of each test, time limits, fixed examples.

It draws Hypothesis examples by a fixed seed, and exits with HUNG_CODE if a test exceeds its time.
"""

import json
from collections.abc import Generator
from pathlib import Path
from time import monotonic
from typing import Final

import coverage
import pytest
from hypothesis import HealthCheck, settings

HUNG_CODE: Final = 70
_TIMED_OUT: Final = pytest.StashKey[bool]()
_SECONDS: Final = pytest.StashKey[dict[str, float]]()

# The same examples in each run, so that no mutant is killed by chance.
settings.register_profile(
    "mutation",
    max_examples=50,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of the files of times."""
    parser.addoption("--write-seconds", help="JSON file of the seconds that each test takes")
    parser.addoption("--read-limits", help="JSON file of the seconds that each test may take")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Give each test the limit of the file, before that of its own marker."""
    file = config.getoption("--read-limits")
    limits = {} if file is None else json.loads(Path(file).read_text())
    for item in items:
        if item.nodeid in limits:
            item.add_marker(pytest.mark.timeout(limits[item.nodeid]), append=False)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Measure the test, and name it as the context of the lines that it runs."""
    recorder = coverage.Coverage.current()
    if recorder is not None:
        recorder.switch_context(item.nodeid)
    begun = monotonic()
    try:
        return (yield)
    finally:
        item.session.stash.setdefault(_SECONDS, {})[item.nodeid] = monotonic() - begun
        if recorder is not None:
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
    """Write the seconds; exit with HUNG_CODE if a test exceeded its time: it did not fail."""
    file = session.config.getoption("--write-seconds")
    if file is not None:
        Path(file).write_text(json.dumps(session.stash.get(_SECONDS, {})))
    if session.stash.get(_TIMED_OUT, False):
        session.exitstatus = HUNG_CODE
