"""One release as a SOFA feed lists it, in any of the feed's forms. Knows no other release."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, Literal, TypeVar

from pipeline.ingest.advisory_feed import MAX_LISTED, Feed, Node
from pipeline.ingest.outcome import PayloadError
from schemas.dead_letters import DeadLetterCode
from schemas.events.advisory import Severity
from schemas.macos import Build, OSVersion

Scope = Literal["universal", "device-specific"]
Item = TypeVar("Item")

SEVERITIES: Final[tuple[Severity, ...]] = ("low", "medium", "high", "critical")
_SCOPES: Final[dict[str, Scope]] = {"universal": "universal", "device-specific": "device-specific"}
# The page that lists all security notes stands where a release has none of its own.
_NO_NOTES: Final = "/100100"
_SUPPLEMENT: Final = re.compile(r"\(([a-z])\)\s*$|^RSR_([a-z])$", re.ASCII)


@dataclass(frozen=True, slots=True)
class Release:
    """`listed` is its SupportedDevices, None where the feed gives none; `scope` its DeviceScope."""

    version: OSVersion
    builds: frozenset[Build] = frozenset()
    released_at: datetime | None = None
    expires_at: datetime | None = None
    cves: frozenset[str] = frozenset()
    exploited: frozenset[str] = frozenset()
    severity: Severity | None = None
    url: str | None = None
    scope: Scope | None = None
    listed: frozenset[str] | None = None

    def joined(self, other: "Release") -> "Release":
        """What two entries of one version say together; the order does not matter."""
        return Release(
            version=self.version,
            builds=self.builds | other.builds,
            released_at=_one(min, self.released_at, other.released_at),
            expires_at=_one(max, self.expires_at, other.expires_at),
            cves=self.cves | other.cves,
            exploited=self.exploited | other.exploited,
            severity=worst(self.severity, other.severity),
            url=_one(max, self.url, other.url),
            scope=_one(min, self.scope, other.scope),  # device-specific, where they differ
            listed=_one(frozenset.union, self.listed, other.listed),
        )

    def remembering(self, old: "Release") -> "Release":
        """This release with what the feed has forgotten since `old`: SOFA blanks the builds,
        dates and device lists of older releases."""
        return replace(
            self,
            builds=self.builds or old.builds,
            released_at=self.released_at or old.released_at,
            url=self.url or old.url,
        )


def worst(*severities: Severity | None) -> Severity | None:
    """The worst of these, None where none is rated."""
    return max((one for one in severities if one is not None), key=SEVERITIES.index, default=None)


def read_release(entry: Node, feed: Feed) -> Release:
    """A release of `OSVersions`, v1 or v2.

    A wrong item of a list (a build, a CVE id, a device id) and a wrong optional field are set
    aside alone. Raises PayloadError where it cannot be told which release it is.
    """
    product = entry.get("ProductName")
    if product.text() not in {"", "macOS"}:
        raise product.error(f"a release of {product.text()}", DeadLetterCode.NOT_A_MAC)
    cves = entry.get("CVEs")
    return Release(
        version=release_version(entry),
        builds=_builds(entry, feed),
        released_at=_optional(entry.get("ReleaseDate"), Node.instant, feed),
        expires_at=_optional(entry.get("ExpirationDate"), Node.instant, feed),
        cves=_all(_keys(cves, feed), Node.cve, feed),
        exploited=_exploited(entry, feed),
        severity=worst(*(_severity(rating) for _, rating in _pairs(cves))),
        url=_url(entry, feed),
        scope=_scope(entry, feed),
        listed=_listed(entry, feed),
    )


def read_supplement(entry: Node, feed: Feed) -> Release:
    """A background security improvement (`26.3.1 (a)`) of `BackgroundSecurityImprovements`."""
    version = entry.get("Version").version()
    extra = entry.get("VersionExtra")
    if not extra.text():
        raise extra.error("missing")
    version = Node(f"{version.release} {extra.text()}", extra.where).version()
    if not version.supplement:
        raise extra.error("not a supplement", DeadLetterCode.BAD_VALUE)
    build = _optional(entry.get("Build"), Node.build, feed)
    return Release(
        version=version,
        builds=frozenset() if build is None else frozenset({build}),
        released_at=_optional(entry.get("PostingDate"), Node.instant, feed),
        expires_at=_optional(entry.get("ExpirationDate"), Node.instant, feed),
        cves=_all(_items(entry.get("CVEs"), feed), Node.cve, feed),
        exploited=_all(_items(entry.get("ActivelyExploitedCVEs"), feed), Node.cve, feed),
        url=_url(entry, feed),
        scope=_scope(entry, feed),
        listed=_listed(entry, feed),
    )


def release_version(entry: Node) -> OSVersion:
    """Its version; a rapid security response of v1 has its letter only in name and type.

    Raises PayloadError, unknown_type for a ReleaseType that is not known.
    """
    version = entry.get("ProductVersion").version()
    kind = entry.get("ReleaseType")
    for place in (kind, entry.get("UpdateName")):
        text = place.text() if isinstance(place.value, str) else ""
        letter = _SUPPLEMENT.search(text)
        if letter:
            return version._replace(supplement=letter[1] or letter[2])
    if kind.text() not in {"", "OS"}:
        raise kind.error("unknown kind of release", DeadLetterCode.UNKNOWN_TYPE)
    return version


def _builds(entry: Node, feed: Feed) -> frozenset[Build]:
    places = [*_items(entry.get("AllBuilds"), feed), entry.get("Build")]
    return frozenset(build for build in _all(places, Node.build, feed) if build is not None)


def _exploited(entry: Node, feed: Feed) -> frozenset[str]:
    """The list and the flags of the CVEs themselves: older feeds keep only one of them right."""
    listed = _all(_items(entry.get("ActivelyExploitedCVEs"), feed), Node.cve, feed)
    flagged = {
        key
        for key, rating in _pairs(entry.get("CVEs"))
        if rating.value is True
        or (
            isinstance(rating.value, dict)
            and (rating.value.get("ActivelyExploited") is True or rating.value.get("InKEV") is True)
        )
    }
    # A key that is no CVE id was set aside when the CVEs were read.
    return listed | {key for key in flagged if _is_cve(key)}


def _severity(rating: Node) -> Severity | None:
    if not isinstance(rating.value, dict):
        return None
    said = rating.value.get("Severity")
    word = said.strip().lower() if isinstance(said, str) else ""
    return next((one for one in SEVERITIES if one == word), None)


def _url(entry: Node, feed: Feed) -> str | None:
    text = _optional(entry.get("SecurityInfo"), Node.text, feed) or ""
    if not text.startswith("https://") or text.rstrip("/").endswith(_NO_NOTES):
        return None
    return text if text.isascii() and text.isprintable() and len(text) <= 1024 else None


def _scope(entry: Node, feed: Feed) -> Scope | None:
    return _SCOPES.get(_optional(entry.get("DeviceScope"), Node.text, feed) or "")


def _listed(entry: Node, feed: Feed) -> frozenset[str] | None:
    listed = _all(_items(entry.get("SupportedDevices"), feed), Node.device_id, feed)
    return listed or None


def _pairs(cves: Node) -> Iterator[tuple[str, Node]]:
    return cves.members() if isinstance(cves.value, dict) else iter(())


def _keys(cves: Node, feed: Feed) -> list[Node]:
    """The CVE ids, which are the keys of an object."""
    try:
        return [Node(key, place.where) for key, place in cves.members()]
    except PayloadError as error:
        feed.set_aside(error, cves)
        return []


def _items(array: Node, feed: Feed) -> list[Node]:
    try:
        return list(array.items())
    except PayloadError as error:
        feed.set_aside(error, array)
        return []


def _all(places: list[Node], read: Callable[[Node], Item], feed: Feed) -> frozenset[Item]:
    found = set()
    for place in places[:MAX_LISTED]:
        try:
            found.add(read(place))
        except PayloadError as error:
            feed.set_aside(error, place)
    if len(places) > MAX_LISTED:
        beyond = Node([place.value for place in places[MAX_LISTED:]], places[MAX_LISTED].where)
        feed.set_aside(beyond.error(f"over {MAX_LISTED} items", DeadLetterCode.BAD_VALUE), beyond)
    return frozenset(found)


def _optional(place: Node, read: Callable[[Node], Item], feed: Feed) -> Item | None:
    try:
        return read(place)
    except PayloadError as error:
        feed.set_aside(error, place)
        return None


def _is_cve(text: str) -> bool:
    try:
        return bool(Node(text).cve())
    except PayloadError:
        return False


def _one(join: Callable[[Item, Item], Item], one: Item | None, other: Item | None) -> Item | None:
    """Both joined, or the one that is there."""
    if one is None or other is None:
        return other if one is None else one
    return join(one, other)
