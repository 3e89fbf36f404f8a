"""Line, column, path and message of each error that a policy file can have."""

import pytest

from pipeline.policy.file import PolicyError, read_policy

SITE = "sites: {tokyo: {time_zone: Asia/Tokyo}}\n"

BROKEN = [
    pytest.param("", 1, 1, "", "the file is empty", id="empty"),
    pytest.param("# nothing\n", 1, 1, "", "the file is empty", id="comment-alone"),
    pytest.param("- sites\n", 1, 1, "", "must be a mapping", id="a-list"),
    pytest.param("version: 1\n", 1, 1, "sites", "required", id="no-sites"),
    pytest.param("sites: {}\n", 1, 8, "sites", "must not be empty", id="empty-sites"),
    pytest.param("sites:\n", 1, 1, "sites", "is empty; give it a value", id="nothing-after-a-key"),
    pytest.param(SITE + "\ndeadlines:\n", 3, 1, "deadlines", "is empty", id="empty-section"),
    pytest.param(SITE + "sitez: 1\n", 2, 1, "sitez", "did you mean 'sites'?", id="unknown-key"),
    pytest.param(
        SITE + "deadlines:\n  high: 3d\n  exploted: 3d\n", 4, 3, "deadlines.exploted",
        "unknown key; did you mean 'exploited'?", id="unknown-key-deeper",
    ),
    pytest.param(
        SITE + "windows:\n  - {from: '01:00', until: '02:00'}\n", 3, 21, "windows[0].until",
        "unknown key; keys here are days, from, to", id="unknown-key-in-a-list",
    ),
    pytest.param(
        SITE + "windows:\n  - {from: '01:00', until: '02:00'}\n", 3, 5, "windows[0].to",
        "is required and missing", id="missing-alias-in-a-list",
    ),
    pytest.param(
        "sites:\n  windows:\n    tme_zone: UTC\n", 3, 5, "sites.windows.tme_zone",
        "did you mean 'time_zone'?", id="a-site-that-is-called-windows",
    ),
    pytest.param(
        "sites:\n  tokyo: {}\n", 2, 3, "sites.tokyo.time_zone", "required", id="missing-in-a-site"
    ),
    pytest.param(
        "sites:\n  Tokyo HQ: {time_zone: UTC}\n", 2, 3, "sites.Tokyo HQ",
        "lower-case letters, digits and hyphens", id="site-name",
    ),
    pytest.param(
        "sites: {tokyo: {time_zone: tokyo}}\n", 1, 28, "sites.tokyo.time_zone",
        "did you mean Asia/Tokyo?", id="time-zone-by-city",
    ),
    pytest.param(
        "sites: {tokyo: {time_zone: Asia/Tokio}}\n", 1, 28, "sites.tokyo.time_zone",
        "did you mean Asia/Tokyo?", id="time-zone-misspelt",
    ),
    pytest.param(
        "sites: {tokyo: {time_zone: ../../etc/passwd}}\n", 1, 28, "sites.tokyo.time_zone",
        "unknown time zone", id="time-zone-that-is-a-path",
    ),
    pytest.param(
        "sites: {tokyo: {time_zone: Europe/Bengaluru}}\n", 1, 28, "sites.tokyo.time_zone",
        "(Bengaluru: Asia/Kolkata)", id="time-zone-of-no-known-city",
    ),
    pytest.param(
        "sites: {tokyo: {time_zone: IST}}\n", 1, 28, "sites.tokyo.time_zone",
        "use a name such as Asia/Tokyo", id="time-zone-that-is-an-abbreviation",
    ),
    pytest.param(
        SITE + "default_site: osaka\n", 2, 15, "default_site", "sites are tokyo", id="default-site"
    ),
    pytest.param(
        "default_site: osaka\nsites: {tokyo: {}}\n", 1, 15, "default_site", "no such site",
        id="default-site-beside-a-broken-site",
    ),
    pytest.param(
        SITE + "windows: [{from: 25:00, to: 26:00}]\n", 2, 18, "windows[0].from", "HH:MM",
        id="clock",
    ),
    pytest.param(
        SITE + "windows: [{from: 9, to: '12:00'}]\n", 2, 18, "windows[0].from",
        'must be text; write it in quotes: "9"', id="clock-that-is-a-number",
    ),
    pytest.param(
        SITE + "windows: [{days: [mon, tues], from: '01:00', to: '02:00'}]\n", 2, 24,
        "windows[0].days[1]", "did you mean 'tue'?", id="day",
    ),
    pytest.param(
        SITE + "windows: {from: '01:00', to: '02:00'}\n", 2, 10, "windows", "must be a list",
        id="one-window-without-its-list",
    ),
    pytest.param(SITE + "deadlines: {high: 3 days}\n", 2, 19, "deadlines.high", "90m", id="days"),
    pytest.param(SITE + "deadlines: {high: 3}\n", 2, 19, "deadlines.high", "90m", id="no-unit"),
    pytest.param(SITE + "deadlines: {high: -3d}\n", 2, 19, "deadlines.high", "90m", id="negative"),
    pytest.param(SITE + "deadlines: {high: 3651d}\n", 2, 19, "deadlines.high", "3650d", id="long"),
    pytest.param(
        SITE + "deadlines: {high: 999999999w}\n", 2, 19, "deadlines.high", "3650d", id="overflow"
    ),
    pytest.param(
        SITE + "methods: {update: [ddm, dmm]}\n", 2, 25, "methods.update[1]", "did you mean 'ddm'?",
        id="method",
    ),
    pytest.param(
        SITE + "methods: {upgrade: [softwareupdate]}\n", 2, 21, "methods.upgrade[0]",
        "'ddm', 'mdm_command' or 'startosinstall'", id="method-of-another-action",
    ),
    pytest.param(SITE + "upgrades: {to: 26}\n", 2, 16, "upgrades.to", 'in quotes: "26"', id="line"),
    pytest.param(SITE + "upgrades: {to: '16'}\n", 2, 16, "upgrades.to", "major version", id="16"),
    pytest.param(SITE + "upgrades: {to: '26.2'}\n", 2, 16, "upgrades.to", "major", id="26.2"),
    pytest.param(
        SITE + "upgrades: {supported_lines: all}\n", 2, 29, "upgrades.supported_lines",
        "must be 'auto', or must be a list", id="union",
    ),
    pytest.param(
        SITE + "upgrades: {supported_lines: ['26', 15]}\n", 2, 36, "upgrades.supported_lines[1]",
        'in quotes: "15"', id="inside-a-branch-of-a-union",
    ),
    pytest.param(
        SITE + "upgrades: {not_before: 2026-10-01}\n", 2, 24, "upgrades.not_before",
        "needs `to`", id="not-before-without-a-line",
    ),
    pytest.param(
        SITE + "upgrades: {deadline: 30d}\n", 2, 22, "upgrades.deadline", "needs `to`",
        id="deadline-without-a-line",
    ),
    pytest.param(
        SITE + "mdm: {server: 'https://['}\n", 2, 15, "mdm.server", "URL or a host", id="server"
    ),
    pytest.param(
        SITE + "mdm: {require_user_approved: perhaps}\n", 2, 30, "mdm.require_user_approved",
        "true or false", id="bool",
    ),
    pytest.param(
        SITE + "thresholds: {max_attempts: 0}\n", 2, 28, "thresholds.max_attempts",
        "must be greater than or equal to 1", id="too-small",
    ),
    pytest.param(
        SITE + "thresholds: {disk_update_gb: .inf}\n", 2, 30, "thresholds.disk_update_gb",
        "finite", id="infinite",
    ),
    pytest.param(
        SITE + "thresholds: {disk_update_gb: .nan}\n", 2, 30, "thresholds.disk_update_gb",
        "finite", id="not-a-number",
    ),
    pytest.param(
        SITE + "images: [{name: a, models: [x], version: 26.10, build: 25C56, firmware: f}]\n", 2,
        42, "images[0].version", 'in quotes: "26.10"', id="version-that-is-a-number",
    ),
    pytest.param(
        SITE + "images: [{name: a, models: [x], version: '26.1', build: 25c56, firmware: f}]\n", 2,
        57, "images[0].build", "not a macOS build", id="build",
    ),
    pytest.param(
        SITE + "exemptions: [{who: {serials: [x]}, until: soon, why: x}]\n", 2, 43,
        "exemptions[0].until", "2026-12-31", id="date",
    ),
    pytest.param(
        SITE + "exemptions: [{who: {serials: [x]}, actions: [Update], why: x}]\n", 2, 46,
        "exemptions[0].actions[0]", "did you mean 'update'?", id="enum",
    ),
    pytest.param(
        SITE + 'exemptions: [{who: {serials: [x]}, why: "\\e[31m"}]\n', 2, 41,
        "exemptions[0].why", "control characters", id="control-characters",
    ),
    pytest.param(SITE + "version: 2\n", 2, 10, "version", "must be 1", id="version-of-the-file"),
    # not YAML, or not of the allowed form
    pytest.param(SITE + SITE, 2, 1, "sites", "it is already on line 1", id="duplicate-key"),
    pytest.param(
        SITE + "mdm:\n  silent_after: 3d\n  silent_after: 4d\n", 4, 3, "mdm.silent_after",
        "it is already on line 3", id="duplicate-key-deeper",
    ),
    pytest.param("sites: [1,\nb: 2\n", 3, 1, "", "not YAML", id="never-closed"),
    pytest.param("sites:\n\ttokyo: 1\n", 2, 1, "", "not YAML", id="tab"),
    pytest.param("sites: 'a\n\nb\n", 4, 1, "", "not YAML", id="quote-never-closed"),
    pytest.param("sites: a\x00b\n", 1, 9, "", "U+0000", id="nul"),
    pytest.param(SITE + "---\nsites: {}\n", 2, 1, "", "second document", id="second-document"),
    pytest.param("%YAML 1.1\n---\n" + SITE, 1, 1, "", "directives", id="other-yaml"),
    pytest.param("a: !!python/object:os.system x\n", 1, 4, "a", "tag", id="python-tag"),
    pytest.param("a: &a [*a]\n", 1, 8, "a", "inside its own anchor", id="alias-in-itself"),
    pytest.param("a: *b\n", 1, 4, "", "no anchor", id="unknown-alias"),
    pytest.param(SITE + "mdm:\n  <<: {}\n", 3, 3, "mdm", "merge keys", id="merge-key"),
    pytest.param("? [a]\n: 1\n", 1, 3, "", "a key must be plain text", id="complex-key"),
    pytest.param("a: " + "[" * 5_000, 1, 35, "", "nested deeper", id="deep"),
    pytest.param("a: " + "9" * 5_000 + "\n", 1, 4, "a", "not a readable int", id="endless-number"),
    pytest.param("#" * (1024 * 1024 + 1), 1, 1, "", "larger than 1 MiB", id="too-large"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "line", "column", "path", "message"), BROKEN)
def test_invalid_policy_is_reported_with_line_and_column(
    text: str, line: int, column: int, path: str, message: str
) -> None:
    with pytest.raises(PolicyError) as caught:
        read_policy(text)
    here = [one for one in caught.value.problems if (one.line, one.column) == (line, column)]
    assert [one for one in here if path in one.path and message in one.message], [
        str(one) for one in caught.value.problems
    ]
