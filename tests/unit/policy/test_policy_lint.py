"""Warnings about valid policies: line, path and message of each."""

from datetime import date

import pytest

from pipeline.policy.file import read_document
from pipeline.policy.lint import lint

SITE = "sites: {a: {time_zone: UTC}}\ndefault_site: a\n"
TODAY = date(2026, 1, 1)

ODD = [
    pytest.param(
        "deadlines: {exploited: 1d}\ndeferrals: {exploited: 2d}", 3, "deadlines.exploited",
        "passes before the deferral ends",
        id="deadline-before-deferral",
    ),
    pytest.param(
        "deferrals: {low: 31d}", 3, "deferrals.low", "passes before the deferral ends",
        id="deferral-after-the-default-deadline",
    ),
    pytest.param(
        "deadlines: {exploited: 8d}", 3, "deadlines.exploited", "more time than critical",
        id="exploited-is-slower-than-critical",
    ),
    pytest.param(
        "deadlines: {low: 29d}", 3, "deadlines.low", "medium has more time than low",
        id="quicker-than-a-worse-default",
    ),
    pytest.param(
        "thresholds: {cool_down: 4d}", 3, "thresholds.cool_down", "cool_down_max", id="cool-down"
    ),
    pytest.param(
        "windows: [{from: '09:00', to: '09:59'}]", 3, "windows[0]", "59 minutes", id="short-window"
    ),
    pytest.param(
        "windows: [{from: '23:45', to: '00:15'}]", 3, "windows[0]", "30 minutes",
        id="short-window-over-midnight",
    ),
    pytest.param("windows: []", 3, "windows", "no window", id="no-window"),
    pytest.param("upgrades: {to: '28'}", 3, "upgrades.to", "knows no macOS 28", id="unknown-line"),
    pytest.param(
        "upgrades: {supported_lines: ['31', '26']}", 3, "upgrades.supported_lines[0]",
        "knows no macOS 31", id="unknown-supported-line",
    ),
    pytest.param(
        "upgrades: {supported_lines: ['15'], to: '26'}", 3, "upgrades.to",
        "not one of supported_lines", id="to-a-line-that-is-not-supported",
    ),
    pytest.param(
        "upgrades: {supported_lines: []}", 3, "upgrades.supported_lines", "is empty", id="no-line"
    ),
    pytest.param("methods: {update: []}", 3, "methods.update", "ever sent", id="no-method"),
    pytest.param(
        "methods: {update: [ddm, ddm]}", 3, "methods.update[1]", "is listed twice",
        id="method-twice",
    ),
    pytest.param("mdm: {server: 'http://a.example'}", 3, "mdm.server", "https", id="plain-http"),
    pytest.param(
        "exemptions:\n  - {who: {serials: [X]}, until: 2026-01-01, why: film}", 4,
        "exemptions[0].until", "over since 2026-01-01", id="exemption-is-over",
    ),
    pytest.param(
        "exemptions:\n  - {who: {}, why: film}", 4, "exemptions[0].who", "matches no Mac",
        id="no-mac",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("text", "line", "path", "message"), ODD)
def test_valid_policy_that_is_probably_a_mistake_gets_one_warning(
    text: str, line: int, path: str, message: str
) -> None:
    (problem,) = lint(read_document(SITE + text + "\n"), TODAY)
    assert (problem.line, problem.path) == (line, path)
    assert message in problem.message


FINE = [
    pytest.param("", id="nothing-but-a-site"),
    pytest.param("deadlines: {low: 7d, routine: 7d, medium: 7d, high: 7d}", id="equal-deadlines"),
    pytest.param("windows: [{from: '09:00', to: '10:00'}]", id="an-hour"),
    pytest.param("windows: [{from: '09:00', to: '09:00'}]", id="the-whole-day"),
    pytest.param("upgrades: {to: '27'}", id="27-is-out"),
    pytest.param(
        "exemptions: [{who: {models: [x]}, until: 2026-01-02, why: f}]", id="one-day-left"
    ),
    pytest.param("exemptions: [{who: {models: [x]}, why: f}]", id="exempt-for-good"),
]


@pytest.mark.parametrize("text", FINE)
def test_reasonable_policy_gets_no_warning(text: str) -> None:
    assert lint(read_document(SITE + text + "\n"), TODAY) == ()


def test_site_that_no_mac_matches_gets_a_warning() -> None:
    text = """\
sites:
  first: {time_zone: UTC, match: {hostnames: ["LDN-*"], serials: ["C0*"]}}
  lost: {time_zone: UTC}
  second: {time_zone: UTC, match: {hostnames: ["ldn-1*"], models: ["C0*"]}}
  third: {time_zone: UTC, match: {serials: ["C02*", "D*"]}}
"""
    found = lint(read_document(text), TODAY)
    assert [(one.line, one.path) for one in found] == [
        (3, "sites.lost"),
        (4, "sites.second.match.hostnames[0]"),
        (5, "sites.third.match.serials[0]"),
    ]
    assert "'first' comes first" in found[1].message


def test_warnings_come_in_the_order_of_their_lines() -> None:
    text = "mdm: {server: 'http://a.example'}\nwindows: []\nsites: {a: {time_zone: UTC}}\n"
    assert [one.line for one in lint(read_document(text), TODAY)] == [1, 2, 3]
