"""SOFA's own snapshots in the order of publication, and the changes between them.

`STEPS` has the expected advisory events between two consecutive snapshots, found by hand in the
feeds, Apple's release notes and CISA's catalogue. `expected` combines them for longer gaps.
"""

from pathlib import Path
from typing import Final

SNAPSHOTS: Final = (
    "2025-09-20",
    "2025-12-12T1845Z",
    "2025-12-12T1908Z",
    "2025-12-15T1846Z",
    "2026-03-10T1921Z",
    "2026-03-10T2014Z",
    "2026-03-11T1055Z",
    "2026-07-27T1736Z",
    "2026-07-27T1806Z",
    "2026-08-06T1306Z",
)

STEPS: Final[tuple[dict[str, str], ...]] = (
    {  # CVE-2022-48503 went into CISA's catalogue on 2025-10-20
        "published": "26.0.1 26.1 15.7.1 15.7.2 14.8.1 14.8.2",
        "severity_raised": "12.5",
    },
    {"published": "26.2 15.7.3 14.8.3"},
    {"severity_raised": "26.2"},  # CVE-2025-43529 and CVE-2025-14174
    {  # CVE-2021-30952 and CVE-2023-43000 went into CISA's catalogue in between
        "published": "26.3 26.3.1 15.7.4 14.8.4",
        "severity_raised": "12.1 13.5",
    },
    {"published": "26.3.2"},
    {"narrowed": "26.3.2"},  # visible in the next feeds only: see FORGOTTEN
    {  # CVE-2025-43510 and -43520 and CVE-2025-31277 on 2026-03-20. The feed dropped the device
        # list of 26.3.2, which widens nothing, and began to rate CVEs known as exploited: no raise.
        "published": "26.4 26.4.1 26.5 26.5.1 26.5.2 15.7.5 15.7.7 14.8.5 14.8.7"
        " 26.3.1_(a) 26.3.2_(a)",
        "severity_raised": "26.1 15.7.2 14.8.2 15.6",
    },
    {"published": "26.6 15.7.8 14.8.8"},
    {},
)
# In summer the feed calls 26.3.2 universal and lists no devices: a reader that missed the snapshots
# in between cannot see that it was narrowed, so no event is expected.
FORGOTTEN: Final = {("narrowed", "macOS-26.3.2")}
FORGOTTEN_FROM: Final = SNAPSHOTS.index("2026-07-27T1736Z")


def expected(first: int, last: int) -> set[tuple[str, str]]:
    """Return the expected (kind, subject) pairs from one snapshot to a later one.

    A release that is new in the later one is only "published".
    """
    facts = {
        (kind, f"macOS-{version.replace('_', ' ')}")
        for step in STEPS[first:last]
        for kind, versions in step.items()
        for version in versions.split()
    }
    if last >= FORGOTTEN_FROM:
        facts -= FORGOTTEN
    new = {subject for kind, subject in facts if kind == "published"}
    return {(kind, subject) for kind, subject in facts if kind == "published" or subject not in new}


def read_snapshots(reference_data: Path) -> dict[str, bytes]:
    """Return the bytes of each snapshot by its name."""
    folder = reference_data / "sofa" / "v2"
    return {name: (folder / f"macos_data_feed.{name}.json").read_bytes() for name in SNAPSHOTS}
