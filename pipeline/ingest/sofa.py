"""Translation of the SOFA feed of macOS releases: the whole feed, or the changes since another one.

Format: github.com/macadmins/sofa, `v2/macos_data_feed.json` and `v1/macos_data_feed.json`.

A release is identified by its version, because no other field is stable: builds become blank, lines
are renamed, and hashes, LastCheck and expiration dates change every hour without news.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from pipeline.ingest.advisory_feed import FeedDocument, T, make_snapshot
from pipeline.ingest.feed_diff import FeedDiff, translate_since
from pipeline.ingest.json_payload import load_json
from pipeline.ingest.sofa_document import SofaAdvisory, SofaDocument, read_document
from pipeline.ingest.sofa_release import SEVERITIES, SofaRelease
from pipeline.ingest.translation import PayloadError, Translation
from schemas.envelope import AdvisoryEvent
from schemas.events.advisory import (
    AdvisoryCorrected,
    AdvisoryNarrowed,
    AdvisoryPublished,
    AdvisoryRetracted,
    AdvisorySeverityRaised,
    AdvisorySnapshot,
    Severity,
)
from schemas.feeds import FeedSource, FeedState
from schemas.ids import advisory_id
from schemas.macos import OSVersion

SOURCE: Final[FeedSource] = "sofa"

# CVEs without a rating rank between medium and high. Decisions treat them as high, so a later
# `low` or `medium` is not a raise, and a later `high` is one.
_UNRATED: Final = SEVERITIES.index("medium") + 1.5


def translate(
    raw: bytes, *, origin: str, received_at: datetime, previous: bytes | None = None
) -> Translation:
    """Return one published event for each release of every line.

    Background security improvements are included. With `previous`, the bytes of an earlier feed,
    only changes give events:

    - published: a version that was not listed; or a version that was for some hardware and now has
      a device that it did not have, or is for every Mac of its line (a list that is only missing
      gives no event).
    - severity_raised: one of its CVEs is newly known as exploited, its worst rating rose, or it
      lists CVEs for the first time. An exploited CVE counts as critical, so a later rating of it
      raises nothing; a release whose CVEs have no rating at all ranks between medium and high.
    - narrowed: the version is for fewer devices than before (see `sofa_document.read_document`).
    - retracted: the version is missing from a line that is still listed. The oldest versions that
      leave the end of a list, a line that leaves as a whole, and a release in `OSVersions` that
      cannot be read are not retracted. A background security improvement is retracted only if its
      release is the newest of its line, and the feed still lists such improvements or never did.

    - corrected: otherwise, other CVEs than before, fewer of them exploited, or a lower rating. An
      empty list is a gap of the feed and not a correction, as is a CVE that is still listed and no
      longer called exploited (see `sofa_release.SofaRelease.filled_from`).

    Corrected dates and corrected builds give no event of their own; the next event of the release
    has them. An event has all fields of the release in this feed; blank builds, CVEs, release date,
    link and device list are taken from an earlier feed.

    `time` is the feed's LastCheck; if that is missing, unreadable, in the future, or older than a
    listed release, it is the newest ReleaseDate that is not in the future, or `received_at` without
    one. If that is not later than the earlier feed's events, it is one microsecond after them. A
    feed of another system than macOS is refused as a whole. A part that cannot be read is a dead
    letter with its path; a feed that cannot be read as a whole gives one dead letter and no events.
    If `previous` cannot be read, it gives a dead letter, and every release is published. Raises
    nothing.
    """
    return translate_since(
        diff, raw, previous, source=SOURCE, origin=origin, received_at=received_at
    )


def diff(
    raw: bytes,
    *,
    origin: str,
    received_at: datetime,
    state: FeedState,
    fixed: frozenset[str] = frozenset(),
) -> FeedDiff:
    """Return the events and dead letters of this document, and the feed's state after it.

    The events are those of `translate` (published, severity_raised, narrowed, retracted) for the
    changes since `state`, the state before the document. `fixed` is ignored. A document that cannot
    be read as a whole gives one dead letter, no events, and None as the state after it. Raises
    nothing.
    """
    del fixed
    feed = FeedDocument(SOURCE, raw, origin, received_at)
    try:
        new = read_document(load_json(raw), feed)
    except PayloadError as error:
        return FeedDiff(feed.refuse(error), None)
    old = _history_of(state)
    at = feed.later_than(state.reported_at, new.at)
    events = list(_events(feed, at, _changes(old, new)))
    after = FeedState(
        source=SOURCE,
        document_sha256=feed.raw_sha256,
        document_at=new.checked_at,
        reported_at=at if events else state.reported_at,
        listed=len(new.advisories),
        has_supplements=old.has_supplements or new.has_supplements,
        snapshots=tuple(_snapshots_after(old, new)),
    )
    return FeedDiff(feed.translation(events), after)


@dataclass(frozen=True, slots=True)
class _FeedHistory:
    """All releases that the feed listed so far and did not retract.

    `has_supplements` is True if an earlier document had background security improvements.
    """

    advisories: Mapping[OSVersion, SofaAdvisory]
    has_supplements: bool


_Changes = Iterator[tuple[type[AdvisorySnapshot], SofaAdvisory]]


def _changes(old: _FeedHistory, new: SofaDocument) -> _Changes:
    """Yield the class of event and the release of each change, in order of version.

    Retractions come last. A release that was known is completed with earlier fields; a retracted
    one is as it was.
    """
    for version, advisory in sorted(new.advisories.items()):
        before = old.advisories.get(version)
        if before is None:
            yield AdvisoryPublished, advisory
        else:
            now = advisory.filled_from(before)
            for kind in _kinds(before, now):
                yield kind, now
    for version, advisory in sorted(old.advisories.items()):
        if _retracted(version, old, new):
            yield AdvisoryRetracted, advisory


def _kinds(old: SofaAdvisory, new: SofaAdvisory) -> Iterator[type[AdvisorySnapshot]]:
    """Yield the event classes for the news of a release that was known before: none, one or two.

    Published or narrowed comes first, then severity_raised. Without any of them, corrected.
    """
    kinds: list[type[AdvisorySnapshot]] = []
    if _reaches_more(old, new):
        kinds.append(AdvisoryPublished)
    elif new.device_ids is not None and (old.device_ids is None or new.device_ids < old.device_ids):
        kinds.append(AdvisoryNarrowed)
    if new.release.exploited - old.release.exploited or _urgency(new) > _urgency(old):
        kinds.append(AdvisorySeverityRaised)
    if not kinds and _security(new) != _security(old):
        kinds.append(AdvisoryCorrected)
    yield from kinds


def _security(advisory: SofaAdvisory) -> tuple[frozenset[str], frozenset[str], Severity | None]:
    """Return all CVEs of the release, the exploited ones, and the worst rating."""
    release = advisory.release
    return release.cves | release.exploited, release.exploited, release.severity


def _reaches_more(old: SofaAdvisory, new: SofaAdvisory) -> bool:
    """Return True if the release is now for a Mac that it was not for before."""
    if old.device_ids is None:
        return False
    return new.device_ids is None or bool(new.device_ids - old.device_ids)


def _urgency(advisory: SofaAdvisory) -> float:
    """Return a rank of the release: 0 without CVEs, from 1 for low to 4 for critical or exploited.

    CVEs without a rating rank 2.5, between medium and high.
    """
    release = advisory.release
    if release.exploited:
        return SEVERITIES.index("critical") + 1
    if release.severity is not None:
        return SEVERITIES.index(release.severity) + 1
    return _UNRATED if release.cves else 0


def _retracted(version: OSVersion, old: _FeedHistory, new: SofaDocument) -> bool:
    """Return True if a version that was listed has been withdrawn by its line.

    False if the new document has the version, or has an unreadable entry in `OSVersions` that may
    be it. False also for a line without a listed release, and for a version below the oldest listed
    release of its line. A supplement is retracted only if its release is the newest of its line,
    and if the feed still lists supplements or never did.
    """
    if version in new.advisories or version in new.unreadable or version.line in new.unclear:
        return False
    listed = [one for one in new.advisories if one.line == version.line and not one.supplement]
    if not listed:
        return False
    if version.supplement:
        # A supplement of an older release is superseded, not retracted. Older feeds list no
        # supplements at all.
        return version.release == max(listed) and (new.has_supplements or not old.has_supplements)
    return version > min(listed)


def _history_of(state: FeedState) -> _FeedHistory:
    advisories = {}
    for known in state.snapshots:
        assert known.os_version is not None
        release = SofaRelease(
            version=known.os_version,
            builds=frozenset(known.builds),
            released_at=known.released_at,
            expires_at=known.expires_at,
            cves=frozenset(known.cves),
            exploited=frozenset(known.exploited_cves),
            severity=known.severity,
            url=known.url,
        )
        device_ids = None if known.device_ids is None else frozenset(known.device_ids)
        advisories[known.os_version] = SofaAdvisory(release, device_ids)
    return _FeedHistory(advisories, state.has_supplements)


def _snapshots_after(old: _FeedHistory, new: SofaDocument) -> Iterator[AdvisorySnapshot]:
    """Yield a snapshot of each release listed so far and not retracted, in order of version."""
    known = {
        version: advisory
        for version, advisory in old.advisories.items()
        if not _retracted(version, old, new)
    }
    for version, advisory in new.advisories.items():
        before = known.get(version)
        known[version] = advisory if before is None else advisory.filled_from(before)
    for _, advisory in sorted(known.items()):
        yield _snapshot(AdvisorySnapshot, advisory)


def _events(feed: FeedDocument, at: datetime, changes: _Changes) -> Iterator[AdvisoryEvent]:
    for kind, advisory in changes:
        subject = advisory_id("macOS", str(advisory.release.version))
        yield feed.event(_snapshot(kind, advisory), subject=subject, at=at)


def _snapshot(kind: type[T], advisory: SofaAdvisory) -> T:
    release = advisory.release
    return make_snapshot(
        kind,
        "$",
        source=SOURCE,
        os_line=release.version.line,
        os_version=release.version,
        builds=sorted(release.builds),
        released_at=release.released_at,
        expires_at=release.expires_at,
        cves=sorted(release.cves | release.exploited),
        exploited_cves=sorted(release.exploited),
        severity=release.severity,
        device_ids=None if advisory.device_ids is None else sorted(advisory.device_ids),
        url=release.url,
    )
