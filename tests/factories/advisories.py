"""Advisory events, and the catalogue of such events.

Releases and their days are real; each release has one CVE of its own with an invented id.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from pipeline.state.advisories import Advisories
from schemas.envelope import (
    AdvisoryEvent,
    AdvisoryNarrowedEvent,
    AdvisoryPublishedEvent,
    AdvisoryRetractedEvent,
    AdvisorySeverityRaisedEvent,
)
from schemas.ids import event_id
from schemas.macos import parse_os_version
from tests.factories.devices import RELEASES
from tests.factories.times import NOW, at


def cve_of(version: str) -> str:
    """Return the id of the CVE that only this release fixes."""
    return "CVE-2025-" + "".join(f"{ord(c) % 100:02d}" for c in version)


def release(
    version: str,
    *,
    build: str | None = None,
    day: str | None = None,
    first_seen_at: datetime | None = None,
    cves: Iterable[str] | None = None,
    exploited: Iterable[str] = (),
    severity: str | None = "high",
    device_ids: Iterable[str] | None = None,
    source: str = "sofa",
    kind: type[AdvisoryEvent] = AdvisoryPublishedEvent,
    **more: Any,
) -> AdvisoryEvent:
    """Return an advisory event; by default first seen on its day of release."""
    known_build, known_day = RELEASES.get(version, (None, "2026-01-15"))
    built = build if build is not None else known_build
    released = at(day or known_day or "")
    data = {
        "source": source,
        "os_line": parse_os_version(version).line,
        "os_version": version,
        "builds": [] if not built else built.split(","),
        "released_at": released,
        "cves": [cve_of(version)] if cves is None else list(cves),
        "exploited_cves": list(exploited),
        "severity": severity,
        "device_ids": None if device_ids is None else list(device_ids),
        **more,
    }
    when = first_seen_at or released
    name = event_id(kind.__name__, source, version, repr(data), when.isoformat())
    return kind.model_validate(
        {"id": name, "source": "/test/feed", "subject": f"macOS-{version}", "time": when}
        | {"data": data}
    )


def raised(version: str, **values: Any) -> AdvisoryEvent:
    """Return the event that raises the severity of a release."""
    return release(version, kind=AdvisorySeverityRaisedEvent, **values)


def narrowed(version: str, **values: Any) -> AdvisoryEvent:
    """Return the event that narrows a release to fewer Macs."""
    return release(version, kind=AdvisoryNarrowedEvent, **values)


def retracted(version: str, **values: Any) -> AdvisoryEvent:
    """Return the event that retracts a release."""
    return release(version, kind=AdvisoryRetractedEvent, **values)


def kev(*cves: str, due: datetime | None = None, first_seen_at: datetime = NOW) -> AdvisoryEvent:
    """Return the event that CISA lists these CVEs as exploited."""
    data = {"source": "kev", "exploited_cves": cves, "kev_due_at": due}
    return AdvisoryPublishedEvent.model_validate(
        {
            "id": event_id("kev", *cves, repr(due), first_seen_at.isoformat()),
            "source": "/test/kev",
            "subject": "kev",
            "time": first_seen_at,
            "data": data,
        }
    )


def catalogue(*events: AdvisoryEvent) -> Advisories:
    """Return the catalogue of these events."""
    found = Advisories()
    for event in events:
        found = found.apply(event)
    return found


def apple(*more: AdvisoryEvent) -> Advisories:
    """Return the catalogue of all RELEASES and of more events."""
    return catalogue(*(release(version) for version in RELEASES), *more)
