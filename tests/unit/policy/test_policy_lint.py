"""Warnings about valid policies: line, path and message of each."""

from datetime import date
from pathlib import Path

import pytest

from pipeline.policy.file import read_document
from pipeline.policy.lint import lint

SITE = "sites: {a: {time_zone: UTC}}\ndefault_site: a\n"
ROOT = Path(__file__).resolve().parents[3]
TODAY = date(2026, 1, 1)

ODD = [
    pytest.param(
        "deadlines: {exploited: 4d}\ndeferrals: {exploited: 5d}", 3, "deadlines.exploited",
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
    pytest.param(
        "upgrades: {deferral: 91d}", 3, "upgrades.deferral", "90 days", id="upgrades-for-ever-later"
    ),
    pytest.param(
        "upgrades: {to: '26', deadline: 30d}", 3, "upgrades.deadline", "may have passed",
        id="upgrade-deadline-without-its-beginning",
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
        "thresholds: {battery_intel: 0.5}", 3, "thresholds.battery_intel", "did you mean 50?",
        id="battery-as-a-fraction",
    ),
    pytest.param(
        "thresholds: {disk_upgrade_gb: 15000}", 3, "thresholds.disk_upgrade_gb",
        "did you mean 15?", id="disk-in-mb",
    ),
    pytest.param(
        "thresholds: {disk_update_gb: 50}", 3, "thresholds.disk_update_gb",
        "an upgrade needs less space", id="upgrade-with-less-disk",
    ),
    pytest.param(
        "thresholds: {max_attempts: 2}", 3, "thresholds.max_attempts",
        "no update is ever replaced by a reinstall", id="attempts-end-before-the-reinstall",
    ),
    pytest.param(
        "thresholds: {reinstall_after_failures: 9}", 3, "thresholds.reinstall_after_failures",
        "max_attempts (5) is reached before", id="reinstall-after-the-last-attempt",
    ),
    pytest.param(
        "thresholds: {max_attempts: 51}", 3, "thresholds.max_attempts", "is more than 50",
        id="attempts-without-end",
    ),
    pytest.param(
        "thresholds: {cool_down_max: 31d}", 3, "thresholds.cool_down_max", "more than 30 days",
        id="cool-down-without-end",
    ),
    pytest.param(
        "thresholds: {job_expires_after: 7d}", 3, "thresholds.job_expires_after",
        "the deadline of exploited", id="one-job-uses-up-the-deadline",
    ),
    pytest.param(
        "deadlines: {exploited: 1d}", 3, "deadlines.exploited", "one lost job uses up",
        id="deadline-of-one-job",
    ),
    pytest.param(
        "windows: [{days: [sun], from: '08:00', to: '20:00'}]", 3, "windows",
        "closed for up to 156 hours", id="weekly-window-and-a-short-deadline",
    ),
    pytest.param(
        "windows:\n  - {from: '09:00', to: '12:00'}\n  - {from: '09:00', to: '12:00'}", 5,
        "windows[1]", "changes nothing", id="window-twice",
    ),
    pytest.param(
        "windows:\n  - {from: '22:00', to: '04:00'}\n  - {days: [tue], from: '01:00', to: '03:00'}",
        5, "windows[1]", "changes nothing", id="window-in-a-window",
    ),
    pytest.param(
        "thresholds: {stale_after: 1h}", 3, "thresholds.stale_after", "less than a day",
        id="stale-within-an-hour",
    ),
    pytest.param(
        "thresholds: {stale_after: 91d}", 3, "thresholds.stale_after", "more than 90 days",
        id="hardly-ever-stale",
    ),
    pytest.param(
        "mdm: {silent_after: 30m}", 3, "mdm.silent_after", "less than a day", id="silent-at-once"
    ),
    pytest.param(
        "mdm: {identity_renew_before: 365d}", 3, "mdm.identity_renew_before", "again and again",
        id="renewed-for-ever",
    ),
    pytest.param(
        "deadlines: {routine: 400d}", 3, "deadlines.routine", "more than a year", id="in-a-year"
    ),
    pytest.param(
        "deadlines: {routine: 99d}\ndeferrals: {routine: 91d}", 4, "deferrals.routine",
        "90 days that Apple allows", id="longer-than-apple-defers",
    ),
    pytest.param(
        "exemptions:\n  - {who: {serials: ['*']}, why: film}", 4,
        "exemptions[0].who.serials[0]", "whole fleet", id="everything-is-exempt",
    ),
    pytest.param(
        "exemptions:\n  - {who: {hostnames: ['^ldn-.*$']}, why: film}", 4,
        "exemptions[0].who.hostnames[0]", "did you mean 'ldn-*'?", id="regular-expression",
    ),
    pytest.param(
        "exemptions:\n  - {who: {hostnames: ['ldn-(a|b)']}, why: film}", 4,
        "exemptions[0].who.hostnames[0]", "not a regular expression", id="alternatives",
    ),
    pytest.param(
        "exemptions:\n  - {who: {serials: ['C02[0-9']}, why: film}", 4,
        "exemptions[0].who.serials[0]", "without its ]", id="open-bracket",
    ),
    pytest.param(
        "firmware:\n"
        "  - {models: ['Mac15,*'], version: '26.2', firmware: '1.2'}\n"
        "  - {models: ['Mac15,3'], version: '26.2', firmware: '1.3'}", 5,
        "firmware[1].models[0]", "firmware[0] comes first", id="firmware-twice",
    ),
    pytest.param(
        "images: [{name: a, models: ['Mac15,*'], version: '26.2', build: 25C56, firmware: '1'}]",
        3, "images[0].models[0]", "the image is never used", id="image-for-apple-silicon",
    ),
    pytest.param(
        "images: [{name: a, models: ['iMak19,*'], version: '13.7', build: 22H1, firmware: '1'}]",
        3, "images[0].models[0]", "matches no model", id="image-for-no-model",
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
    pytest.param(
        "windows: [{days: [mon, tue, wed, thu, fri], from: '19:00', to: '06:00'},"
        " {days: [sat, sun], from: '00:00', to: '00:00'}]",
        id="nights-and-weekends",
    ),
    pytest.param("deadlines: {exploited: 0d}", id="forced-at-once"),
    pytest.param("thresholds: {max_attempts: 3}", id="reinstall-with-the-last-attempt"),
    pytest.param(
        "firmware: [{models: ['Mac15,*'], version: '26.2', firmware: '1.2'},"
        " {models: ['Mac15,3'], version: '26.3', firmware: '1.3'}]",
        id="firmware-of-two-versions",
    ),
    pytest.param(
        "images: [{name: a, models: ['iMac19,*'], version: '13.7', build: 22H1, firmware: '1'}]",
        id="image-for-intel",
    ),
    pytest.param("exemptions: [{who: {serials: ['C0[0-9]*']}, why: f}]", id="range"),
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


def test_site_without_ssh_gets_a_warning_for_actions_that_need_it() -> None:
    site = "sites:\n  a:\n    time_zone: UTC\n    ssh: false\ndefault_site: a\n"
    (found,) = lint(read_document(site + "methods: {upgrade: [startosinstall]}\n"), TODAY)
    assert (found.line, found.path) == (4, "sites.a.ssh")
    assert found.message.endswith("needs it for: upgrade, reenroll")
    reached = site + "methods: {reenroll: [profiles_renew, install_profile]}\n"
    assert lint(read_document(reached), TODAY) == ()


def test_the_example_and_the_demo_have_no_warning() -> None:
    for file in ("examples/policy.yaml", "pipeline/demo/policy.yaml"):
        text = (ROOT / file).read_text("utf-8")
        assert lint(read_document(text), TODAY) == (), file


def test_warnings_come_in_the_order_of_their_lines() -> None:
    text = "mdm: {server: 'http://a.example'}\nwindows: []\nsites: {a: {time_zone: UTC}}\n"
    assert [one.line for one in lint(read_document(text), TODAY)] == [1, 2, 3]
