"""A whole SOFA feed: its releases by version, and the Macs that each release is for."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from pipeline.ingest.advisory_feed import FeedDocument, Node
from pipeline.ingest.sofa_release import SofaRelease, read_release, read_supplement, release_version
from pipeline.ingest.translation import PayloadError
from schemas.dead_letters import DeadLetterCode
from schemas.macos import OSVersion, parse_os_version

# The lists of one line differ by new models (SOFA: 15.0 names 52 devices, 15.3 names 67); a
# release for some hardware names one or a few devices.
_SPECIFIC_SHARE: Final = 0.5


@dataclass(frozen=True, slots=True)
class SofaAdvisory:
    """A release and its devices; `device_ids` is None if it is for every Mac of its line.

    An empty set means that it is for devices that the feed does not name.
    """

    release: SofaRelease
    device_ids: frozenset[str] | None

    def filled_from(self, old: "SofaAdvisory") -> "SofaAdvisory":
        """Return this advisory, with fields of the earlier `old` where the feed blanked its own.

        These fields are the builds, release date and link, and the devices if `old` was for some
        hardware and this advisory has no list: a release for some hardware does not become one for
        all because its list is missing.
        """
        device_ids = self.device_ids
        if old.device_ids is not None and self.release.listed is None:
            device_ids = old.device_ids
        return SofaAdvisory(self.release.filled_from(old.release), device_ids)


@dataclass(frozen=True, slots=True)
class SofaDocument:
    """The advisories of one feed document by version.

    `at` is the time of the document's events. `checked_at` is the feed's LastCheck; None if that is
    missing, unreadable or in the future. `unreadable` are versions with an entry in `OSVersions`
    that cannot be read; `unclear` are lines with an entry there whose version cannot be read, or
    with an unreadable list. `has_supplements` is True if the document has the member for background
    security improvements, also an empty one.
    """

    at: datetime
    checked_at: datetime | None
    advisories: Mapping[OSVersion, SofaAdvisory]
    unreadable: frozenset[OSVersion]
    unclear: frozenset[str]
    has_supplements: bool


@dataclass(slots=True)
class _Reading:
    feed: FeedDocument
    releases: dict[OSVersion, SofaRelease]
    latest: dict[str, OSVersion]
    unreadable: set[OSVersion]
    unclear: set[str]
    other_products: bool = False

    def add_entry(
        self, entry: Node, line: str, read: Callable[[Node, FeedDocument], SofaRelease]
    ) -> SofaRelease | None:
        """Return the entry as `read` returns it, before it is merged; None if it cannot be read.

        The entry is merged into the release of its version in `releases`. An unreadable entry
        becomes a dead letter, and its ProductVersion is added to `unreadable`. If that cannot be
        read, `line` is added to `unclear`; this is always so for a supplement, which has no
        ProductVersion.
        """
        try:
            release = read(entry, self.feed)
        except PayloadError as error:
            self.other_products |= error.code is DeadLetterCode.NOT_A_MAC
            self.feed.add_dead_letter(error, entry)
            self._remember_unread(entry, line)
            return None
        known = self.releases.get(release.version)
        self.releases[release.version] = release if known is None else known.merged(release)
        return release

    def _remember_unread(self, entry: Node, line: str) -> None:
        """Add the entry's ProductVersion to `unreadable`, or `line` to `unclear` if it has none.

        A ProductVersion that cannot be read counts as none. Raises nothing.
        """
        try:
            self.unreadable.add(release_version(entry))
        except PayloadError:
            self.unclear.add(line)


def read_document(value: Any, feed: FeedDocument) -> SofaDocument:
    """Return the releases of a parsed feed, v1 or v2.

    Parts that cannot be read become dead letters of `feed`. The devices of a release follow these
    rules, in this order:

    - SOFA's DeviceScope decides where it is given. `universal` means every Mac of the line.
      `device-specific` means the listed devices, and no device if the list is missing.
    - Feeds before March 2026 have no scope. A release that is newer than the line's `Latest` is for
      the listed devices: SOFA sets `Latest` back when it learns that the newest release is not for
      all.
    - A background security improvement with a list is for those devices, and so is a release whose
      list has less than half as many devices as the longest list of its line.
    - Any other release is for every Mac of its line: older lists lack newer models, so a long list
      does not exclude a Mac.

    Raises PayloadError: `bad_shape` if the document is not an object, or if `OSVersions` is
    missing, empty or not an array; `not_a_mac` if it has releases of other products only.
    """
    document = Node(value)
    lines = document.get("OSVersions")
    if not lines.value:
        raise lines.error("missing or empty")
    reading = _Reading(feed, {}, {}, set(), set())
    for entry in lines.items():
        try:
            _read_line(entry, reading)
        except PayloadError as error:
            feed.add_dead_letter(error, entry)
    if reading.other_products and not reading.releases:
        raise lines.error("the feed of another system", DeadLetterCode.NOT_A_MAC)
    supplements = document.get("BackgroundSecurityImprovements")
    for entry in _supplements(supplements, feed):
        reading.add_entry(entry, "", read_supplement)
    checked_at = _checked_at(document, feed)
    return SofaDocument(
        at=_document_at(checked_at, reading),
        checked_at=checked_at,
        advisories=_advisories(reading),
        unreadable=frozenset(reading.unreadable),
        unclear=frozenset(reading.unclear),
        has_supplements=supplements.value is not None,
    )


def _read_line(entry: Node, reading: _Reading) -> None:
    """Add all releases of one line to `reading`, and the version of its Latest to `reading.latest`.

    A list or release that cannot be read becomes a dead letter, and is remembered in `unreadable`
    or `unclear`. Raises PayloadError `bad_shape` if the entry is not an object, or has neither
    Latest nor SecurityReleases.
    """
    name = entry.get("OSVersion")
    line = _line(name)
    latest, listed = entry.get("Latest"), entry.get("SecurityReleases")
    if latest.value is None and listed.value is None:
        raise entry.error("neither Latest nor SecurityReleases")
    try:
        entries = list(listed.items())
    except PayloadError as error:
        reading.feed.add_dead_letter(error, listed)
        reading.unclear.add(line)
        entries = []
    for release in entries:
        reading.add_entry(release, line, read_release)
    if latest.value is not None:
        newest = reading.add_entry(latest, line, read_release)
        if newest is not None:
            known = reading.latest.get(newest.version.line, newest.version)
            reading.latest[newest.version.line] = max(known, newest.version)


def _line(name: Node) -> str:
    """Return the line in a name: `26` for `Tahoe 26` and for `macOS 26`; "" if it has none.

    SOFA wrote `macOS 26` until January 2026. Releases have their line in their own version.
    """
    try:
        return parse_os_version(name.text()).line
    except (PayloadError, ValueError):
        return ""


def _supplements(groups: Node, feed: FeedDocument) -> Iterator[Node]:
    """Yield the entries of all groups of background security improvements; none if it is absent.

    A group that cannot be read becomes a dead letter, as does `groups` if it is not an object.
    """
    try:
        members = list(groups.members())
    except PayloadError as error:
        feed.add_dead_letter(error, groups)
        return
    for _, group in members:
        try:
            yield from list(group.items())
        except PayloadError as error:
            feed.add_dead_letter(error, group)


def _advisories(reading: _Reading) -> dict[OSVersion, SofaAdvisory]:
    longest: dict[str, int] = {}
    for version, release in reading.releases.items():
        size = len(release.listed or ())
        longest[version.line] = max(size, longest.get(version.line, 0))
    return {
        version: SofaAdvisory(
            release,
            _device_ids(release, longest[version.line], reading.latest.get(version.line)),
        )
        for version, release in reading.releases.items()
    }


def _device_ids(
    release: SofaRelease, longest: int, latest: OSVersion | None
) -> frozenset[str] | None:
    """Return the devices that a release is for; None means every Mac of its line.

    A release with the scope `device-specific`, or without a scope and newer than `latest`, is for
    the listed devices: an empty set if it has no list. Without a scope the list of a supplement
    counts too, and one under half of `longest`. All others give None. `longest` is the size of the
    longest list of the line, `latest` the line's `Latest`; None if that is unknown.
    """
    listed = release.listed
    if release.scope == "universal":
        return None
    if release.scope == "device-specific":
        return listed or frozenset()
    if latest is not None and release.version.release > latest:
        return listed or frozenset()
    if release.version.supplement:
        return listed
    if listed is not None and len(listed) < longest * _SPECIFIC_SHARE:
        return listed
    return None


def _checked_at(document: Node, feed: FeedDocument) -> datetime | None:
    """Return the feed's LastCheck in UTC; None if it is missing, in the future or unreadable.

    An unreadable one also becomes a dead letter. In the future means more than a day after the time
    of receipt.
    """
    node = document.get("LastCheck")
    try:
        return feed.newest([node.instant()])
    except PayloadError as error:
        feed.add_dead_letter(error, node)
        return None


def _document_at(checked_at: datetime | None, reading: _Reading) -> datetime:
    """Return the time of the document's events: `checked_at`, unless it is None or too old.

    Too old means earlier than the newest release date that is not in the future. In both cases the
    result is that date, or the time of receipt if there is no such date.
    """
    released = reading.feed.newest(_released(reading.releases.values()))
    if checked_at is not None and (released is None or checked_at >= released):
        return checked_at
    return released or reading.feed.received_at


def _released(releases: Iterable[SofaRelease]) -> Iterator[datetime | None]:
    return (release.released_at for release in releases)
