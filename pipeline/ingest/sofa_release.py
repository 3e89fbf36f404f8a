"""One release of a SOFA feed, in every form of the feed. It depends on no other release."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, Literal, TypeVar

from pipeline.ingest.advisory_feed import MAX_LISTED, FeedDocument, Node
from pipeline.ingest.mdm_enrollment import OTHER_PRODUCTS
from pipeline.ingest.translation import PayloadError
from schemas.dead_letters import DeadLetterCode
from schemas.events.advisory import Severity
from schemas.macos import Build, OSVersion, train_of

Scope = Literal["universal", "device-specific"]
Item = TypeVar("Item")

SEVERITIES: Final[tuple[Severity, ...]] = ("low", "medium", "high", "critical")
_SCOPES: Final[dict[str, Scope]] = {"universal": "universal", "device-specific": "device-specific"}
# SOFA links Apple's page of all security notes if a release has no notes of its own.
_NO_NOTES: Final = "/100100"
_WORD_START: Final = re.compile(r"(?<=[a-z])(?=[A-Z])")
_SUPPLEMENT: Final = re.compile(r"\(([a-z])\)\s*$|^RSR_([a-z])$", re.ASCII)


@dataclass(frozen=True, slots=True)
class SofaRelease:
    """A release's fields.

    `scope` is its DeviceScope; None if that is absent or unknown. `listed` is its SupportedDevices;
    None if the list is absent, empty or unreadable.
    """

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
        """Return the union of two entries of one version; the order does not matter.

        It has all builds, CVEs and devices, the first release date, the last expiration and the
        worst severity. Of two links the alphabetically last is used, of two scopes
        `device-specific`. If only one entry has an optional field, that one is used; None if
        neither has it.
        """
        return SofaRelease(
            version=self.version,
            builds=self.builds | other.builds,
            released_at=_merge_optional(min, self.released_at, other.released_at),
            expires_at=_merge_optional(max, self.expires_at, other.expires_at),
            cves=self.cves | other.cves,
            exploited=self.exploited | other.exploited,
            severity=worst(self.severity, other.severity),
            url=_merge_optional(max, self.url, other.url),
            # If they differ, this is `device-specific`.
            scope=_merge_optional(min, self.scope, other.scope),
            listed=_merge_optional(frozenset.union, self.listed, other.listed),
        )

    def filled_from(self, old: "SofaRelease") -> "SofaRelease":
        """Return this release, with fields of the earlier `old` where it has none.

        These fields are builds, release date and link, which SOFA blanks for older releases, and
        the CVEs. A CVE stays exploited as long as it is listed. In SOFA's history an empty list, or
        a flag that went while its CVE stayed, was undone by a later feed; a list with other CVEs
        was a correction (github.com/macadmins/sofa, issues 234 and 235).
        """
        before = old.cves | old.exploited
        cves = self.cves | self.exploited or before
        return replace(
            self,
            builds=self.builds or old.builds,
            released_at=self.released_at or old.released_at,
            url=self.url or old.url,
            cves=cves,
            exploited=self.exploited | (old.exploited & cves),
            severity=self.severity or (old.severity if cves == before else None),
        )


def worst(*severities: Severity | None) -> Severity | None:
    """Return the worst of these severities; None if all are None or there are none."""
    return max((one for one in severities if one is not None), key=SEVERITIES.index, default=None)


def read_release(entry: Node, feed: FeedDocument) -> SofaRelease:
    """Return a release of `OSVersions`, v1 or v2.

    An invalid item of a list (a build, a CVE id, a device id) and an invalid date or text become
    dead letters alone. Raises PayloadError: `not_a_mac` for another product, `unknown_type` for an
    unknown ReleaseType, `bad_value` if the version is missing or cannot be read, `bad_shape` if the
    entry is not an object, or its product, version or ReleaseType is not text.
    """
    product = entry.get("ProductName")
    if product.text() not in {"", "macOS"}:
        raise product.error(
            f"a release of another product: {product.text()}", DeadLetterCode.NOT_A_MAC
        )
    cves = entry.get("CVEs")
    version = release_version(entry)
    return SofaRelease(
        version=version,
        builds=_builds(entry, version, feed),
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
    """Return a background security improvement (`26.3.1 (a)`) of a feed.

    Its keys are written `VersionExtra` or `version_extra`; SOFA changed them from the one to the
    other and back in 2026. The letter is in VersionExtra and at the end of the build. An invalid
    item of a list and an invalid optional field become dead letters alone. Raises PayloadError:
    `not_a_mac` for an improvement whose devices are all other products, `bad_value` if version and
    build, or the two letters, contradict each other, and others if the entry is not an object, or
    if the version or its letter is missing or cannot be read.
    """
    listed = _listed(entry, feed)
    _refuse_other_products(listed, _member(entry, "SupportedDevices"))
    stated = _member(entry, "Version").version()
    extra, build_node = _member(entry, "VersionExtra"), _member(entry, "Build")
    build = _read_optional(build_node, Node.build, feed)
    version = _supplement(stated, extra, None if build is None else build.suffix)
    if build is not None:
        refuse_wrong_build(build_node, version, build)
    return SofaRelease(
        version=version,
        builds=frozenset() if build is None else frozenset({build}),
        released_at=_read_optional(_member(entry, "PostingDate"), Node.instant, feed),
        expires_at=_read_optional(_member(entry, "ExpirationDate"), Node.instant, feed),
        cves=_read_all(_items(_member(entry, "CVEs"), feed), Node.cve, feed),
        exploited=_read_all(_items(_member(entry, "ActivelyExploitedCVEs"), feed), Node.cve, feed),
        url=_url(entry, feed),
        scope=_scope(entry, feed),
        listed=listed,
    )


def _supplement(stated: OSVersion, extra: Node, of_build: str | None) -> OSVersion:
    """Return the version with the letter that `extra` states, or else the build has.

    Raises PayloadError: `bad_shape` if neither has one, `bad_value` if they differ, or if `extra`
    is not a letter.
    """
    if not extra.text():
        if not of_build:
            raise extra.error("missing")
        return stated._replace(supplement=of_build)
    version = Node(f"{stated.release} {extra.text()}", extra.where).version()
    if not version.supplement:
        raise extra.error("not the letter of a supplement", DeadLetterCode.BAD_VALUE)
    if of_build and version.supplement != of_build:
        raise extra.error(
            f"the letter {version.supplement} contradicts the build", DeadLetterCode.BAD_VALUE
        )
    return version


def _member(entry: Node, key: str) -> Node:
    """Return the member `key` of an entry, in SOFA's spelling or as `snake_case`."""
    node = entry.get(key)
    return node if node.value is not None else entry.get(_WORD_START.sub("_", key).lower())


def _refuse_other_products(listed: frozenset[str] | None, node: Node) -> None:
    """Raise PayloadError `not_a_mac` if all of these devices are other Apple products."""
    if listed and all(device.startswith(OTHER_PRODUCTS) for device in listed):
        raise node.error("for devices of another kind", DeadLetterCode.NOT_A_MAC)


def release_version(entry: Node) -> OSVersion:
    """Return the version of an entry, with the letter of a supplement.

    A rapid security response of v1 has its letter only in UpdateName or ReleaseType. Raises
    PayloadError: `bad_value` if ProductVersion is missing or not a version; `bad_shape` if the
    entry is not an object or ProductVersion is not text; and, if no letter is found, `bad_shape`
    for a ReleaseType that is not text and `unknown_type` for one other than `OS`.
    """
    version = entry.get("ProductVersion").version()
    kind = entry.get("ReleaseType")
    for node in (kind, entry.get("UpdateName")):
        text = node.text() if isinstance(node.value, str) else ""
        letter = _SUPPLEMENT.search(text)
        if letter:
            return version._replace(supplement=letter[1] or letter[2])
    if kind.text() not in {"", "OS"}:
        raise kind.error("unknown ReleaseType", DeadLetterCode.UNKNOWN_TYPE)
    return version


def _builds(entry: Node, version: OSVersion, feed: FeedDocument) -> frozenset[Build]:
    """Return the builds of a release.

    One of another train than the version's becomes a dead letter, as does a seed's: a release is
    never installed in the build of its beta.
    """

    def read(node: Node) -> Build | None:
        build = node.build()
        if build is not None:
            refuse_wrong_build(node, version, build)
        return build

    nodes = [*_items(entry.get("AllBuilds"), feed), entry.get("Build")]
    return frozenset(build for build in _read_all(nodes, read, feed) if build is not None)


def refuse_wrong_build(node: Node, version: OSVersion, build: Build) -> None:
    """Raise PayloadError `bad_value` for a build that cannot be one of the release `version`.

    That is the build of a beta, or one whose train is not the version's.
    """
    if build.is_beta:
        raise node.error(f"{build} is the build of a beta", DeadLetterCode.BAD_VALUE)
    if build.train != train_of(version):
        detail = f"the version {version} contradicts the build {build}"
        raise node.error(detail, DeadLetterCode.BAD_VALUE)


def _exploited(entry: Node, feed: FeedDocument) -> frozenset[str]:
    """Return the CVEs that are in the list or have a flag: older feeds keep only one right.

    An invalid id in the list becomes a dead letter, as does a list that is not an array.
    """
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
    # A key that is not a CVE id became a dead letter when the CVEs were read.
    return listed | {key for key in flagged if _is_cve(key)}


def _severity(rating: Node) -> Severity | None:
    """Return the severity of a CVE's rating, in any case; None if it has none of SEVERITIES."""
    if not isinstance(rating.value, dict):
        return None
    rating_text = rating.value.get("Severity")
    rated = rating_text.strip().lower() if isinstance(rating_text, str) else ""
    return next((one for one in SEVERITIES if one == rated), None)


def _url(entry: Node, feed: FeedDocument) -> str | None:
    """Return the link of the release's own notes; None if it has none or the link is not usable.

    A usable link starts with `https://` and has at most 1,024 printable ASCII characters. A value
    that is not text also becomes a dead letter.
    """
    text = _read_optional(_member(entry, "SecurityInfo"), Node.text, feed) or ""
    if not text.startswith("https://") or text.rstrip("/").endswith(_NO_NOTES):
        return None
    return text if text.isascii() and text.isprintable() and len(text) <= 1024 else None


def _scope(entry: Node, feed: FeedDocument) -> Scope | None:
    """Return DeviceScope; None if it is absent, unknown or not text.

    A value that is not text also becomes a dead letter.
    """
    return _SCOPES.get(_read_optional(_member(entry, "DeviceScope"), Node.text, feed) or "")


def _listed(entry: Node, feed: FeedDocument) -> frozenset[str] | None:
    """Return the devices of SupportedDevices; None if the list is absent, empty or unreadable.

    None too if no item is valid. A list or an item that cannot be read becomes a dead letter.
    """
    listed = _read_all(_items(_member(entry, "SupportedDevices"), feed), Node.device_id, feed)
    return listed or None


def _pairs(cves: Node) -> Iterator[tuple[str, Node]]:
    """Return an iterator of CVE ids and their ratings; empty if `cves` is not an object."""
    return cves.members() if isinstance(cves.value, dict) else iter(())


def _keys(cves: Node, feed: FeedDocument) -> list[Node]:
    """Return the keys of an object, which are CVE ids that are not checked yet.

    [] if `cves` is absent; [] and a dead letter if it is not an object.
    """
    try:
        return [Node(key, node.where) for key, node in cves.members()]
    except PayloadError as error:
        feed.add_dead_letter(error, cves)
        return []


def _items(array: Node, feed: FeedDocument) -> list[Node]:
    """Return the items of an array; [] if it is absent, [] and a dead letter if it is no array."""
    try:
        return list(array.items())
    except PayloadError as error:
        feed.add_dead_letter(error, array)
        return []


def _read_all(
    nodes: list[Node], read: Callable[[Node], Item], feed: FeedDocument
) -> frozenset[Item]:
    """Return the results of `read` for the first MAX_LISTED nodes, without those it cannot read.

    Each of these becomes a dead letter. All nodes beyond MAX_LISTED together become one.
    """
    found = set()
    for node in nodes[:MAX_LISTED]:
        try:
            found.add(read(node))
        except PayloadError as error:
            feed.add_dead_letter(error, node)
    if len(nodes) > MAX_LISTED:
        beyond = Node([node.value for node in nodes[MAX_LISTED:]], nodes[MAX_LISTED].where)
        feed.add_dead_letter(
            beyond.error(f"more than {MAX_LISTED} items", DeadLetterCode.BAD_VALUE), beyond
        )
    return frozenset(found)


def _read_optional(node: Node, read: Callable[[Node], Item], feed: FeedDocument) -> Item | None:
    """Return `read(node)`; None, with a dead letter, if `read` raises PayloadError."""
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
    """Return `join(one, other)`, or the one that is not None; None if both are None."""
    if one is None or other is None:
        return other if one is None else one
    return join(one, other)
