"""Reports of Apple's content cache, in the form of Apple's OpenAPI document."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.installers.content_cache import ReportError, read_report, serves

NOON = datetime(2026, 11, 30, 12, tzinfo=UTC)
REPORT = {
    "version": 1,
    "reportDate": "2026-11-30T11:59:58Z",
    "hostname": "cache.london.example.org",
    "hardware": "Mac16,10",
    "serverGUID": "13D4D110-B2B7-4F26-8E25-CD22E58C00EE",
    "registrationState": 1,
    "startupStatus": True,
    "active": True,
    "activated": True,
    "cacheLimit": 0,
    "allowSharedCaching": True,
    "reportPeriod": 300,
    "bytesFromCacheToClient": 18_380_741_420,
}


def report(**changes: object) -> bytes:
    return json.dumps(REPORT | changes).encode()


def test_active_cache_serves_the_site_for_three_periods() -> None:
    found = read_report(report(), NOON)
    assert found.problem is None
    reports = {found.server: found}
    assert serves(reports, NOON + timedelta(seconds=899))
    assert not serves(reports, NOON + timedelta(seconds=900))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"active": False}, "not active"),
        ({"active": "true"}, "not active"),
        ({"activated": False}, "not active"),
        ({"startupStatus": False}, "not started"),
        ({"registrationState": 0}, "not registered"),
        ({"registrationState": -1}, "not registered"),
        ({"allowSharedCaching": False}, "shared content"),
        ({"cacheLimit": 20_000_000_000}, "too small"),
        ({"cacheLimit": None}, "too small"),
    ],
)
def test_cache_that_cannot_serve_installers_does_not_serve(
    change: dict[str, object], problem: str
) -> None:
    found = read_report(report(**change), NOON)
    assert found.problem is not None
    assert problem in found.problem
    assert not serves({found.server: found}, NOON)


def test_one_of_two_caches_is_enough() -> None:
    one = read_report(report(active=False), NOON)
    other = read_report(report(serverGUID="B"), NOON)
    assert serves({one.server: one, other.server: other}, NOON)


@pytest.mark.parametrize("period", [0, -5, "60", None, 10**9, True])
def test_unusable_period_counts_as_apples_default(period: object) -> None:
    found = read_report(report(reportPeriod=period), NOON)
    assert found.valid_until == NOON + timedelta(seconds=900)


@pytest.mark.parametrize("document", [b"", b"[]", b"{}", b'{"serverGUID": 1}', b"[" * 100_000])
def test_other_document_is_an_error(document: bytes) -> None:
    with pytest.raises(ReportError):
        read_report(document, NOON)


@given(
    values=st.dictionaries(
        st.sampled_from(sorted(REPORT)), st.none() | st.booleans() | st.integers() | st.text()
    )
)
def test_any_values_give_a_report_or_an_error(values: dict[str, object]) -> None:
    document = json.dumps(REPORT | values).encode()
    if isinstance(values.get("serverGUID", ""), str):
        read_report(document, NOON)
    else:
        with pytest.raises(ReportError):
            read_report(document, NOON)
