"""One release as a SOFA feed lists it, in any of the feed's forms. Knows no other release."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, Literal, TypeVar

from pipeline.ingest.advisory_feed import MAX_LISTED, FeedDocument, Node
from pipeline.ingest.translation import PayloadError
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
class SofaRelease:
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

    def merged(self, other: "SofaRelease") -> "SofaRelease":
        """What two entries of one version say together; the order does not matter."""
        return SofaRelease(
            version=self.version,
            builds=self.builds | other.builds,
            released_at=_merge_optional(min, self.released_at, other.released_at),
            expires_at=_merge_optional(max, self.expires_at, other.expires_at),
            cves=self.cves | other.cves,
            exploited=self.exploited | other.exploited,
            severity=worst(self.severity, other.severity),
            url=_merge_optional(max, self.url, other.url),
            scope=_merge_optional(
                min, self.scope, other.scope
            ),  # device-specific, where they differ
            listed=_merge_optional(frozenset.union, self.listed, other.listed),
        )

    def filled_from(self, old: "SofaRelease") -> "SofaRelease":
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


def read_release(entry: Node, feed: FeedDocument) -> SofaRelease:
    """A release of `OSVersions`, v1 or v2.

    A wrong item of a list (a build, a CVE id, a device id) and a wrong optional field are set
    aside alone. Raises PayloadError where it cannot be told which release it is.
    """
    product = entry.get("ProductName")
    if product.text() not in {"", "macOS"}:
        raise product.error(f"a release of {product.text()}", DeadLetterCode.NOT_A_MAC)
    cves = entry.get("CVEs")
    return SofaRelease(
        version=release_version(entry),
        builds=_builds(entry, feed),
        released_at=_read_optional(entry.get("ReleaseDate"), Node.instant, feed),
        expires_at=_read_optional(entry.get("ExpirationDate"), Node.instant, feed),
        cves=_read_all(_keys(cves, feed), Node.cve, feed),
        exploited=_exploited(entry, feed),
        severity=worst(*(_severity(rating) for _, rating in _pairs(cves))),
        url=_url(entry, feed),
        scope=_scope(entry, feed),
        listed=_listed(entry, feed),
    )


def read_supplement(entry: Node, feed: FeedDocument) -> SofaRelease:
    """A background security improvement (`26.3.1 (a)`) of `BackgroundSecurityImprovements`."""
    version = entry.get("Version").version()
    extra = entry.get("VersionExtra")
    if not extra.text():
        raise extra.error("missing")
    version = Node(f"{version.release} {extra.text()}", extra.where).version()
    if not version.supplement:
        raise extra.error("not a supplement", DeadLetterCode.BAD_VALUE)
    build = _read_optional(entry.get("Build"), Node.build, feed)
    return SofaRelease(
        version=version,
        builds=frozenset() if build is None else frozenset({build}),
        released_at=_read_optional(entry.get("PostingDate"), Node.instant, feed),
        expires_at=_read_optional(entry.get("ExpirationDate"), Node.instant, feed),
        cves=_read_all(_items(entry.get("CVEs"), feed), Node.cve, feed),
        exploited=_read_all(_items(entry.get("ActivelyExploitedCVEs"), feed), Node.cve, feed),
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
    for node in (kind, entry.get("UpdateName")):
        text = node.text() if isinstance(node.value, str) else ""
        letter = _SUPPLEMENT.search(text)
        if letter:
            return version._replace(supplement=letter[1] or letter[2])
    if kind.text() not in {"", "OS"}:
        raise kind.error("unknown kind of release", DeadLetterCode.UNKNOWN_TYPE)
    return version


def _builds(entry: Node, feed: FeedDocument) -> frozenset[Build]:
    nodes = [*_items(entry.get("AllBuilds"), feed), entry.get("Build")]
    return frozenset(build for build in _read_all(nodes, Node.build, feed) if build is not None)


def _exploited(entry: Node, feed: FeedDocument) -> frozenset[str]:
    """The list and the flags of the CVEs themselves: older feeds keep only one of them right."""
    listed = _read_all(_items(entry.get("ActivelyExploitedCVEs"), feed), Node.cve, feed)
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
    rating_text = rating.value.get("Severity")
    word = rating_text.strip().lower() if isinstance(rating_text, str) else ""
    return next((one for one in SEVERITIES if one == word), None)


def _url(entry: Node, feed: FeedDocument) -> str | None:
    text = _read_optional(entry.get("SecurityInfo"), Node.text, feed) or ""
    if not text.startswith("https://") or text.rstrip("/").endswith(_NO_NOTES):
        return None
    return text if text.isascii() and text.isprintable() and len(text) <= 1024 else None


def _scope(entry: Node, feed: FeedDocument) -> Scope | None:
    return _SCOPES.get(_read_optional(entry.get("DeviceScope"), Node.text, feed) or "")


def _listed(entry: Node, feed: FeedDocument) -> frozenset[str] | None:
    listed = _read_all(_items(entry.get("SupportedDevices"), feed), Node.device_id, feed)
    return listed or None


def _pairs(cves: Node) -> Iterator[tuple[str, Node]]:
    return cves.members() if isinstance(cves.value, dict) else iter(())


def _keys(cves: Node, feed: FeedDocument) -> list[Node]:
    """The CVE ids, which are the keys of an object."""
    try:
        return [Node(key, node.where) for key, node in cves.members()]
    except PayloadError as error:
        feed.add_dead_letter(error, cves)
        return []


def _items(array: Node, feed: FeedDocument) -> list[Node]:
    try:
        return list(array.items())
    except PayloadError as error:
        feed.add_dead_letter(error, array)
        return []


def _read_all(
    nodes: list[Node], read: Callable[[Node], Item], feed: FeedDocument
) -> frozenset[Item]:
    found = set()
    for node in nodes[:MAX_LISTED]:
        try:
            found.add(read(node))
        except PayloadError as error:
            feed.add_dead_letter(error, node)
    if len(nodes) > MAX_LISTED:
        beyond = Node([place.value for place in nodes[MAX_LISTED:]], nodes[MAX_LISTED].where)
        feed.add_dead_letter(
            beyond.error(f"over {MAX_LISTED} items", DeadLetterCode.BAD_VALUE), beyond
        )
    return frozenset(found)


def _read_optional(node: Node, read: Callable[[Node], Item], feed: FeedDocument) -> Item | None:
    try:
        return read(node)
    except PayloadError as error:
        feed.add_dead_letter(error, node)
        return None


def _is_cve(text: str) -> bool:
    try:
        return bool(Node(text).cve())
    except PayloadError:
        return False


def _merge_optional(
    join: Callable[[Item, Item], Item], one: Item | None, other: Item | None
) -> Item | None:
    """Both joined, or the one that is there."""
    if one is None or other is None:
        return other if one is None else one
    return join(one, other)
