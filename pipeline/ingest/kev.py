"""CISA's catalogue of known exploited vulnerabilities to events, for Apple's entries.

Format: https://www.cisa.gov/sites/default/files/feeds/known_exploited_vulnerabilities_schema.json.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from pipeline.ingest.advisory_feed import Feed, Node, end_of_day, snapshot
from pipeline.ingest.json_payload import load_json
from pipeline.ingest.outcome import PayloadError, Translation
from schemas.events.advisory import AdvisorySeverityRaised

SOURCE: Final = "kev"


@dataclass(frozen=True, slots=True)
class _Entry:
    cve: str
    added_at: datetime
    due_at: datetime | None


def translate(
    raw: bytes, *, origin: str, received_at: datetime, previous: bytes | None = None
) -> Translation:
    """One severity_raised event for each CVE of Apple's, with CISA's due date (the end of that
    day, UTC) and the day it was added as its time.

    With `previous`, only entries that are new or have another due date; a changed one is dated
    by the catalogue's own release. Other vendors' entries are out of scope and give nothing; an
    entry of Apple's that cannot be read is a dead letter. An entry that CISA removed gives
    nothing: that a CVE is known is not taken back. Raises nothing.
    """
    feed = Feed(SOURCE, raw, origin, received_at)
    try:
        document = Node(load_json(raw))
        entries = _entries(document, feed)
    except PayloadError as error:
        return feed.refuse(error)
    before = {} if previous is None else _previous(previous, feed)
    catalogued_at = _catalogued_at(document, feed)
    events = []
    for cve, entry in sorted(entries.items()):
        old = before.get(cve)
        if old is not None and old.due_at == entry.due_at:
            continue
        at = entry.added_at if old is None else max(catalogued_at, entry.added_at)
        data = snapshot(
            AdvisorySeverityRaised,
            document.where,
            source=SOURCE,
            cves=(cve,),
            exploited_cves=(cve,),
            kev_due_at=entry.due_at,
        )
        events.append(feed.event(data, subject=cve, at=at))
    return feed.translation(events)


def _entries(document: Node, feed: Feed) -> dict[str, _Entry]:
    listed = document.get("vulnerabilities")
    if listed.value is None:
        raise listed.error("missing")
    found: dict[str, _Entry] = {}
    for entry in _read(listed, feed):
        known = found.get(entry.cve)
        # Listed twice: the earlier day and the earlier date bind.
        found[entry.cve] = entry if known is None else _earlier(known, entry)
    return found


def _read(listed: Node, feed: Feed) -> Iterator[_Entry]:
    for node in listed.items():
        try:
            vendor = node.get("vendorProject")
            if not vendor.text():
                raise vendor.error("missing")
            if vendor.text().casefold() != "apple":
                continue
            added_at = node.get("dateAdded").instant()
            if added_at is None:
                raise node.get("dateAdded").error("missing")
            due = node.get("dueDate").day()
            yield _Entry(
                node.get("cveID").cve(), added_at, None if due is None else end_of_day(due)
            )
        except PayloadError as error:
            feed.set_aside(error, node)


def _earlier(one: _Entry, other: _Entry) -> _Entry:
    due = [at for at in (one.due_at, other.due_at) if at is not None]
    return _Entry(one.cve, min(one.added_at, other.added_at), min(due, default=None))


def _previous(raw: bytes, feed: Feed) -> dict[str, _Entry]:
    """What the catalogue before said; nothing, and a dead letter, where it cannot be read."""
    try:
        # Its unreadable entries were set aside when it was new.
        return _entries(Node(load_json(raw)), Feed(SOURCE, raw, feed.origin, feed.received_at))
    except PayloadError as error:
        feed.refuse_previous(error, raw)
        return {}


def _catalogued_at(document: Node, feed: Feed) -> datetime:
    try:
        found = feed.newest([document.get("dateReleased").instant()])
    except PayloadError:
        found = None
    return feed.received_at if found is None else found
