"""Translation of CISA's catalogue of known exploited vulnerabilities (KEV), for Apple's CVEs.

Format: https://www.cisa.gov/sites/default/files/feeds/known_exploited_vulnerabilities_schema.json.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from pipeline.ingest.advisory_feed import FeedDocument, Node, T, end_of_day, make_snapshot
from pipeline.ingest.feed_diff import FeedDiff, translate_since
from pipeline.ingest.json_payload import load_json
from pipeline.ingest.translation import PayloadError, Translation
from schemas.events.advisory import AdvisorySeverityRaised, AdvisorySnapshot
from schemas.feeds import FeedSource, FeedState

SOURCE: Final[FeedSource] = "kev"


@dataclass(frozen=True, slots=True)
class _Entry:
    cve: str
    added_at: datetime
    due_at: datetime | None


def translate(
    raw: bytes,
    *,
    origin: str,
    received_at: datetime,
    previous: bytes | None = None,
    fixed: frozenset[str] = frozenset(),
) -> Translation:
    """Return one severity_raised event for each CVE of Apple, with CISA's due date.

    The due date is the end of that day in UTC, and None if the entry has none. The event's time is
    the day on which CISA added the CVE. With `previous`, only entries that are new or have another
    due date give events; a changed entry is dated by the release of the catalogue, or by
    `received_at` if that is unknown, but never before the day of its addition.

    CISA names one vendor for a CVE that affects several (CVE-2025-14174 of WebKit is listed under
    Google): an entry of another vendor counts if Apple is known to have `fixed` its CVE, else it is
    ignored. An entry that counts and cannot be read is a dead letter, as is one without a readable
    vendor. An entry that CISA removed gives no event: a CVE that was exploited stays known as
    exploited. A document that cannot be read as a whole gives one dead letter and no events. If
    `previous` cannot be read, it gives a dead letter, and every entry is new. Raises nothing.
    """
    return translate_since(
        diff,
        raw,
        previous,
        source=SOURCE,
        origin=origin,
        received_at=received_at,
        fixed=fixed,
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

    Each entry that is new or has another due date than in `state`, the state before the document,
    gives a severity_raised event. `fixed` are the CVEs that Apple's releases are known to fix: an
    entry of another vendor counts only if its CVE is one of them. A document that cannot be read as
    a whole gives one dead letter, no events, and None as the state after it. Raises nothing.
    """
    feed = FeedDocument(SOURCE, raw, origin, received_at)
    try:
        document = Node(load_json(raw))
        listed = list(_listed(document).items())
    except PayloadError as error:
        return FeedDiff(feed.refuse(error), None)
    before = {one.cves[0]: one for one in state.snapshots}
    catalogued_at = _catalogued_at(document, feed)
    events, now = [], dict(before)
    for cve, entry in sorted(_entries(listed, feed, fixed).items()):
        old = before.get(cve)
        if old is not None and old.kev_due_at == entry.due_at:
            continue
        at = entry.added_at if old is None else max(catalogued_at or received_at, entry.added_at)
        events.append(feed.event(_snapshot(AdvisorySeverityRaised, entry), subject=cve, at=at))
        now[cve] = _snapshot(AdvisorySnapshot, entry)
    after = FeedState(
        source=SOURCE,
        document_sha256=feed.raw_sha256,
        document_at=catalogued_at,
        listed=len(listed),
        snapshots=tuple(one for _, one in sorted(now.items())),
    )
    return FeedDiff(feed.translation(events), after)


def _snapshot(kind: type[T], entry: _Entry) -> T:
    return make_snapshot(
        kind,
        "$",
        source=SOURCE,
        cves=(entry.cve,),
        exploited_cves=(entry.cve,),
        kev_due_at=entry.due_at,
    )


def _listed(document: Node) -> Node:
    """Return the member `vulnerabilities`, which may be of any type.

    Raises PayloadError `bad_shape` if it is missing or null, or if the document is not an object.
    """
    listed = document.get("vulnerabilities")
    if listed.value is None:
        raise listed.error("missing")
    return listed


def _entries(
    listed: Iterable[Node], feed: FeedDocument, fixed: frozenset[str]
) -> dict[str, _Entry]:
    """Return the entries of Apple, and those of other vendors whose CVE is in `fixed`, by CVE.

    Entries of one CVE become one. An entry that cannot be read becomes a dead letter of `feed`.
    """
    found: dict[str, _Entry] = {}
    for entry in _read(listed, feed, fixed):
        known = found.get(entry.cve)
        # A CVE that is listed twice has the earlier day of addition and the earlier due date.
        found[entry.cve] = entry if known is None else _earlier(known, entry)
    return found


def _read(listed: Iterable[Node], feed: FeedDocument, fixed: frozenset[str]) -> Iterator[_Entry]:
    """Yield the entries of Apple, and those of other vendors whose CVE is in `fixed`.

    One of these that cannot be read, or has no day of addition, becomes a dead letter of `feed`, as
    does an entry without a readable vendor. Other entries are skipped.
    """
    for node in listed:
        try:
            vendor = node.get("vendorProject")
            if not vendor.text():
                raise vendor.error("missing")
            cve = node.get("cveID")
            if vendor.text().casefold() != "apple" and not _is_among(cve, fixed):
                continue
            added_at = node.get("dateAdded").instant()
            if added_at is None:
                raise node.get("dateAdded").error("missing")
            due = node.get("dueDate").day()
            yield _Entry(cve.cve(), added_at, None if due is None else end_of_day(due))
        except PayloadError as error:
            feed.add_dead_letter(error, node)


def _is_among(cve: Node, fixed: frozenset[str]) -> bool:
    return isinstance(cve.value, str) and cve.value in fixed


def _earlier(one: _Entry, other: _Entry) -> _Entry:
    """Return one entry for two of a CVE: the earlier day of addition, the earlier due date.

    The due date is None if neither entry has one.
    """
    due = [at for at in (one.due_at, other.due_at) if at is not None]
    return _Entry(one.cve, min(one.added_at, other.added_at), min(due, default=None))


def _catalogued_at(document: Node, feed: FeedDocument) -> datetime | None:
    """Return the time of the catalogue's release in UTC.

    None if it is missing, unreadable, or more than a day after the time of receipt.
    """
    try:
        return feed.newest([document.get("dateReleased").instant()])
    except PayloadError:
        return None
