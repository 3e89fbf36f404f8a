"""Translation of Apple's software lookup service: the versions that MDM may ask a Mac to install.

Source: `https://gdmf.apple.com/v2/pmv`, described in Apple's device-management documentation
("Managing software updates"). SOFA (github.com/macadmins/sofa, resources/gdmf_cached.json) keeps
the same document under `data`.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import reduce
from typing import Final

from pipeline.ingest.advisory_feed import MAX_LISTED, FeedDocument, Node, T, make_snapshot
from pipeline.ingest.feed_diff import FeedDiff, translate_since
from pipeline.ingest.json_payload import load_json
from pipeline.ingest.sofa_release import refuse_wrong_build
from pipeline.ingest.translation import PayloadError, Translation
from schemas.dead_letters import DeadLetterCode
from schemas.events.advisory import AdvisoryNarrowed, AdvisoryPublished, AdvisorySnapshot
from schemas.feeds import FeedSource, FeedState
from schemas.ids import advisory_id
from schemas.macos import Build, OSVersion

SOURCE: Final[FeedSource] = "gdmf"
_SMALLEST_STEP: Final = timedelta(microseconds=1)
_NEVER: Final = datetime.max.replace(tzinfo=UTC)
_SETS: Final = ("PublicAssetSets", "AssetSets", "PublicBackgroundSecurityImprovements")


@dataclass(frozen=True, slots=True)
class _Offer:
    version: OSVersion
    builds: frozenset[Build]
    posted_at: datetime | None
    expires_at: datetime | None
    device_ids: frozenset[str]

    def merged(self, other: "_Offer") -> "_Offer":
        """Return one offer for two entries of one version, with the builds and devices of both.

        It has the earlier posting and the later expiration; None for each that neither has.
        """
        posted = [at for at in (self.posted_at, other.posted_at) if at is not None]
        expires = [at for at in (self.expires_at, other.expires_at) if at is not None]
        return _Offer(
            self.version,
            self.builds | other.builds,
            min(posted, default=None),
            max(expires, default=None),
            self.device_ids | other.device_ids,
        )


def translate(
    raw: bytes, *, origin: str, received_at: datetime, previous: bytes | None = None
) -> Translation:
    """Return one published event for each macOS version that Apple offers.

    Background security improvements are included, each with the devices to which Apple offers it.
    With `previous`, an earlier document, only changes give events:

    - published: a version that was not offered before, or now has a build or a device that it did
      not have.
    - narrowed: a version that has fewer builds or devices now, none of them new, although no entry
      of it expired; and one that left the document before it expired, beside a newer version of its
      line: it expires at `received_at`.

    The entries of a version (one for each set, one for each build) are merged: every build and
    device, the first posting, the last expiration. Apple posts old versions again, so `released_at`
    may be later than the release. Another version that is no longer offered gives no event: Apple
    removes old versions as they expire, but their fixes remain valid.

    The document has no date of its own. Its events are dated by its newest posting that is not in
    the future, or by `received_at` if there is none or it is not later than the time of the
    previous document: a later event needs a later time. If `received_at` too is not later, they are
    dated one microsecond after the previous time. Sets of other systems are ignored. An unreadable
    entry or set is a dead letter; a document that cannot be read as a whole gives one dead letter
    and no events. If `previous` cannot be read, it gives a dead letter, and every version is
    published. Raises nothing.
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

    The events are the published and narrowed ones of `translate` for the changes since `state`, the
    state before the document. `fixed` is ignored. A document that cannot be read as a whole gives
    one dead letter, no events, and None as the state after it. Raises nothing.
    """
    del fixed
    feed = FeedDocument(SOURCE, raw, origin, received_at)
    try:
        document = Node(load_json(raw))
        if document.get("data").value is not None:
            document = document.get("data")
        if all(document.get(name).value is None for name in _SETS):
            raise document.error(f"no asset sets: none of {', '.join(_SETS)}")
    except PayloadError as error:
        return FeedDiff(feed.refuse(error), None)
    entries = list(_offers(document, feed))
    now, old = _by_version(entries), _by_version(map(_offer_of, state.snapshots))
    at = feed.newest(entry.posted_at for entry in entries) or received_at
    if state.document_at is not None and at <= state.document_at:
        at = max(received_at, state.document_at + _SMALLEST_STEP)
    events = [
        feed.event(_snapshot(kind, offer), subject=advisory_id("macOS", str(version)), at=at)
        for version, listed in sorted(now.items())
        for offer in [reduce(_Offer.merged, listed)]
        if (kind := _change(old.get(version, []), offer, received_at)) is not None
    ]
    withdrawn = _withdrawn(old, now, received_at)
    events += [
        feed.event(
            _snapshot(AdvisoryNarrowed, offer), subject=advisory_id("macOS", str(version)), at=at
        )
        for version, offer in withdrawn.items()
    ]
    after = FeedState(
        source=SOURCE,
        document_sha256=feed.raw_sha256,
        document_at=at if events else state.document_at,
        listed=len(now),
        snapshots=tuple(
            _snapshot(AdvisorySnapshot, offer)
            for version, listed in sorted((old | now).items())
            if version not in withdrawn
            for offer in listed
        ),
    )
    return FeedDiff(feed.translation(events), after)


def _by_version(entries: Iterable[_Offer]) -> dict[OSVersion, list[_Offer]]:
    """Return the entries of each version, one for each date of expiration, the earliest first."""
    found: dict[OSVersion, dict[datetime, _Offer]] = {}
    for entry in entries:
        of_version = found.setdefault(entry.version, {})
        key = entry.expires_at or _NEVER
        known = of_version.get(key)
        of_version[key] = entry if known is None else known.merged(entry)
    return {
        version: [of_version[key] for key in sorted(of_version)]
        for version, of_version in found.items()
    }


def _change(old: Sequence[_Offer], new: _Offer, now: datetime) -> type[AdvisorySnapshot] | None:
    """Return the class of an offer's news, published or narrowed; None if it has no news.

    `old` are the version's earlier entries. Published: there is none, or the offer has a build or a
    device that they did not have. Narrowed: it lacks builds or devices of the entries that have not
    expired at `now`. An entry leaves the document when it expires, and that is no news.
    """
    if not old:
        return AdvisoryPublished
    before = reduce(_Offer.merged, old)
    if new.builds - before.builds or new.device_ids - before.device_ids:
        return AdvisoryPublished
    valid = [one for one in old if one.expires_at is None or one.expires_at > now]
    lost = any(one.builds - new.builds or one.device_ids - new.device_ids for one in valid)
    return AdvisoryNarrowed if lost else None


def _withdrawn(
    old: Mapping[OSVersion, Sequence[_Offer]], now: Collection[OSVersion], at: datetime
) -> dict[OSVersion, _Offer]:
    """Return the versions that Apple offers no more in favour of a newer one of their line.

    Each as an offer that expires at `at`; one whose entries had all expired is not withdrawn. `old`
    are the earlier entries, `now` the versions offered now. A declaration of a version that Apple
    does not offer would wait on the Mac (github.com/fleetdm/fleet, issue 39085).
    """
    return {
        version: replace(reduce(_Offer.merged, listed), expires_at=at)
        for version, listed in sorted(old.items())
        if version not in now
        and any(one.expires_at is None or one.expires_at > at for one in listed)
        and any(_replaces(newer, version) for newer in now)
    }


def _replaces(newer: OSVersion, version: OSVersion) -> bool:
    """Return True if `newer` replaces a version of its line. A supplement needs its release."""
    if newer.line != version.line:
        return False
    return newer > version if version.supplement else newer.release > version.release


def _offer_of(known: AdvisorySnapshot) -> _Offer:
    assert known.os_version is not None
    return _Offer(
        known.os_version,
        frozenset(known.builds),
        known.released_at,
        known.expires_at,
        frozenset(known.device_ids or ()),
    )


def _offers(document: Node, feed: FeedDocument) -> Iterator[_Offer]:
    """Yield the entries of macOS in all sets, as offers that are not merged.

    A set or an entry that cannot be read becomes a dead letter; an absent set is skipped.
    """
    for assets in map(document.get, _SETS):
        try:
            entries = [] if assets.value is None else list(assets.get("macOS").items())
        except PayloadError as error:
            feed.add_dead_letter(error, assets)
            continue
        for entry in entries:
            try:
                yield _offer(entry)
            except PayloadError as error:
                feed.add_dead_letter(error, entry)


def _offer(entry: Node) -> _Offer:
    """Return one entry as an offer; its build and its two dates may be absent.

    Raises PayloadError if the entry is not an object, if the version is missing, if the list of
    devices is missing, empty, or longer than MAX_LISTED, if the build is of a beta or contradicts
    the version, or if any field cannot be read.
    """
    version = entry.get("ProductVersion").version()
    extra = entry.get("ProductVersionExtra")
    if extra.text():
        version = Node(f"{version.release} {extra.text()}", extra.where).version()
    build = entry.get("Build").build()
    if build is not None:
        refuse_wrong_build(entry.get("Build"), version, build)
    devices = entry.get("SupportedDevices")
    if not devices.value:
        raise devices.error("missing or empty")
    listed = frozenset(device.device_id() for device in devices.items())
    if len(listed) > MAX_LISTED:
        raise devices.error(f"more than {MAX_LISTED} devices", DeadLetterCode.BAD_VALUE)
    return _Offer(
        version,
        frozenset() if build is None else frozenset({build}),
        entry.get("PostingDate").instant(),
        entry.get("ExpirationDate").instant(),
        listed,
    )


def _snapshot(kind: type[T], offer: _Offer) -> T:
    return make_snapshot(
        kind,
        "$",
        source=SOURCE,
        os_line=offer.version.line,
        os_version=offer.version,
        builds=sorted(offer.builds),
        released_at=offer.posted_at,
        expires_at=offer.expires_at,
        device_ids=sorted(offer.device_ids),
    )
