"""Small SOFA feeds in the form of macadmins/sofa v2, and the translation of a feed."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pipeline.ingest import sofa
from pipeline.ingest.translation import Translation
from schemas.dead_letters import DeadLetter
from schemas.envelope import (
    AdvisoryCorrectedEvent,
    AdvisoryEvent,
    AdvisoryNarrowedEvent,
    AdvisoryPublishedEvent,
    AdvisoryRetractedEvent,
    AdvisorySeverityRaisedEvent,
)

RECEIVED_AT = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


def release(
    version: str,
    *,
    cves: dict[str, str | None] | None = None,
    exploited: tuple[str, ...] = (),
    **fields: Any,
) -> dict[str, Any]:
    """Return a release of a feed; `cves` maps ids to ratings."""
    rated = dict(cves or {}) | {cve: (cves or {}).get(cve) for cve in exploited}
    return {
        "UpdateName": f"macOS Tahoe {version}",
        "ProductName": "macOS",
        "ProductVersion": version,
        "Build": "",
        "AllBuilds": [],
        "ReleaseDate": "2026-01-05T00:00:00Z",
        "ReleaseType": "OS",
        "SecurityInfo": "https://support.apple.com/en-us/128067",
        "CVEs": {
            cve: {"ActivelyExploited": cve in exploited, "InKEV": False, "Severity": rating}
            for cve, rating in rated.items()
        },
        "ActivelyExploitedCVEs": list(exploited),
    } | fields


def line(name: str, *releases: Any, latest: Any = None) -> dict[str, Any]:
    """Return a line of a feed; give the newest release first."""
    return {
        "OSVersion": name,
        "Latest": releases[0] if latest is None and releases else latest,
        "SecurityReleases": list(releases),
        "SupportedModels": [],
    }


def feed(*lines: Any, last_check: str | None = "2026-02-01T08:00:00Z", **fields: Any) -> bytes:
    """Return the bytes of a feed, version 2."""
    document = {"SchemaVersion": "2.0", "LastCheck": last_check, "OSVersions": list(lines)}
    return json.dumps(document | fields).encode()


@dataclass(frozen=True)
class FeedTranslation:
    """A translation whose events are all advisory events."""

    events: tuple[AdvisoryEvent, ...]
    dead_letters: tuple[DeadLetter, ...]


def feed_translation(translation: Translation) -> FeedTranslation:
    """Return the translation with its events' type checked."""
    events: list[AdvisoryEvent] = []
    for event in translation.events:
        assert isinstance(
            event,
            AdvisoryPublishedEvent
            | AdvisorySeverityRaisedEvent
            | AdvisoryNarrowedEvent
            | AdvisoryCorrectedEvent
            | AdvisoryRetractedEvent,
        )
        events.append(event)
    return FeedTranslation(tuple(events), translation.dead_letters)


def translate(raw: bytes, previous: bytes | None = None) -> FeedTranslation:
    """Return the translation of a SOFA feed received at RECEIVED_AT."""
    return feed_translation(
        sofa.translate(raw, origin="feed.json", received_at=RECEIVED_AT, previous=previous)
    )


def changes_in(translation: FeedTranslation) -> set[tuple[str, str]]:
    """Return pairs such as ("published", "macOS-26.2"), one for each event."""
    return {(event.type.split(".")[2], event.subject) for event in translation.events}
