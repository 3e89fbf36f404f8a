"""Shared by all tests: the reference data, the Hypothesis profiles, and no skips in CI."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parent.parent

REFERENCE_DATA_HINT = (
    "reference data not found at {path}: set DRYDOCK_REFERENCE_DATA to a folder laid out as in"
    " CONTRIBUTING.md ('Reference data'), taken from the public repositories"
    " macadmins/sofa ba13ce9fb247, micromdm/nanomdm 1d5fcf4da9b1,"
    " osquery/osquery a5b14f63d98c, zentralopensource/zentral 0e191465b2b3"
)


def in_ci() -> bool:
    """Return True if the run must be complete: the environment has CI=true or CI=1."""
    return os.environ.get("CI", "").lower() in {"true", "1"}


for name, examples in {"default": 50, "thorough": 200}.items():
    settings.register_profile(
        name,
        max_examples=examples,
        deadline=None,
        print_blob=True,
        derandomize=in_ci(),  # a commit passes or fails each time
        suppress_health_check=[HealthCheck.too_slow],
    )
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.fixture(scope="session")
def reference_data() -> Path:
    """Folder of real payloads; if it is missing, the test is skipped, and fails in CI."""
    given = os.environ.get("DRYDOCK_REFERENCE_DATA")
    path = Path(given) if given else ROOT.parent / "shared" / "data"
    if path.is_dir():
        return path
    message = REFERENCE_DATA_HINT.format(path=path)
    if in_ci():
        pytest.fail(message, pytrace=False)
    pytest.skip(message)


def fail_if_skipped_in_ci(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Turn a skip into a failure if CI=true: a missing component must not look green.

    An expected failure (xfail) also reports as skipped and stays as it is.
    """
    if not in_ci() or not report.skipped or hasattr(report, "wasxfail"):
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
    report.outcome = "failed"
    report.longrepr = f"skipped where CI=true: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):  # type: ignore[no-untyped-def]
    """Apply `fail_if_skipped_in_ci` to each phase of a test."""
    report = yield
    fail_if_skipped_in_ci(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):  # type: ignore[no-untyped-def]
    """Apply `fail_if_skipped_in_ci` to modules that skip themselves while collected."""
    report = yield
    fail_if_skipped_in_ci(report)
    return report
