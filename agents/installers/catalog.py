"""Apple's installers of macOS as SOFA's feed lists them. Pure.

SOFA's `InstallationApps` (github.com/macadmins/sofa, `v1` and `v2` of macos_data_feed.json) has
`LatestUMA` and `AllPreviousUMA`: `InstallAssistant.pkg` of each build, with its URL at Apple and
its size. GDMF, Apple's software lookup service, lists the releases that Apple offers now.
"""

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import urlsplit

from schemas.macos import Build, OSVersion, parse_build, parse_os_version

APPLE_HOSTS: Final = ("apple.com",)
"""Hosts, with their subdomains, that an installer may come from."""

_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})
# Four times the largest of August 2026 (18.4 GB). A larger size is an error of the feed.
_LARGEST_BYTES: Final = 80_000_000_000


class CatalogError(ValueError):
    """The document is not a feed of SOFA, or not one of GDMF; the message is one line."""


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """`InstallAssistant.pkg` of one build: its URL at Apple, and its size in bytes."""

    version: OSVersion
    build: Build
    url: str
    size_bytes: int
    posted_at: datetime | None = None


def read_catalog(document: bytes) -> tuple[CatalogEntry, ...]:
    """Return the installers in a document of SOFA, the newest version first, each build once.

    Of two entries for one build the one posted last counts. Unusable entries are left out: without
    version, build, size or URL. Raises CatalogError if the document has no `InstallationApps`.
    """
    feed = _object(document)
    apps = feed.get("InstallationApps")
    if not isinstance(apps, dict):
        raise CatalogError("the document has no InstallationApps: it is not a feed of SOFA")
    previous = apps.get("AllPreviousUMA")
    rows = [apps.get("LatestUMA"), *(previous if isinstance(previous, list) else ())]
    found: dict[Build, CatalogEntry] = {}
    for row in rows:
        entry = _entry(row) if isinstance(row, dict) else None
        if entry is None:
            continue
        known = found.get(entry.build)
        if known is None or _posted(known) < _posted(entry):
            found[entry.build] = entry
    return tuple(sorted(found.values(), key=lambda one: (one.version, one.build), reverse=True))


def read_offered_builds(document: bytes) -> frozenset[Build]:
    """Return the builds of macOS that Apple offers, from a document of GDMF.

    SOFA's copy of it, with GDMF's document in `data`, is accepted too. Raises CatalogError for
    another document.
    """
    feed = _object(document)
    feed = feed["data"] if isinstance(feed.get("data"), dict) else feed
    found: set[Build] = set()
    for name in ("PublicAssetSets", "AssetSets"):
        sets = feed.get(name)
        rows = sets.get("macOS") if isinstance(sets, dict) else None
        for row in rows if isinstance(rows, list) else ():
            build = _build(row.get("Build")) if isinstance(row, dict) else None
            if build is not None:
                found.add(build)
    if not found:
        raise CatalogError("the document lists no builds of macOS: it is not one of GDMF")
    return frozenset(found)


def newest_of_each_major(entries: Iterable[CatalogEntry], majors: int) -> tuple[CatalogEntry, ...]:
    """Return the newest installer of each of the newest major versions, the newest first."""
    newest: dict[int, CatalogEntry] = {}
    for entry in sorted(entries, key=lambda one: (one.version, one.build), reverse=True):
        if not entry.build.is_beta:
            newest.setdefault(entry.version.major, entry)
    return tuple(newest.values())[:majors]


def origin_problem(url: str, hosts: Collection[str] = APPLE_HOSTS) -> str | None:
    """Return the reason not to fetch an installer from this URL, None if it may be fetched.

    It must be https, on one of the hosts or a subdomain of one: a feed that was tampered with must
    not name another origin. If this machine itself is one of the hosts, http is accepted there.
    """
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").lower()
    except ValueError:
        return "its URL cannot be read"
    if not any(host == one or host.endswith(f".{one}") for one in hosts):
        return f"its URL is on {host or 'no host'}, not at Apple"
    if parts.scheme != "https" and host not in _LOOPBACK:
        return "its URL is not https"
    return None


def _entry(row: Mapping[str, Any]) -> CatalogEntry | None:
    # The keys of v1 are those of v2 in small letters, with underscores.
    values = {key.replace("_", "").lower(): value for key, value in row.items()}
    build, size, url = _build(values.get("build")), values.get("size"), values.get("url")
    version = _version(values.get("version"))
    if build is None or version is None or not isinstance(url, str) or not url:
        return None
    if type(size) is not int or not 0 < size <= _LARGEST_BYTES:
        return None
    return CatalogEntry(version, build, url, size, _time(values.get("postingdate")))


def _object(document: bytes) -> dict[str, Any]:
    try:
        found = json.loads(document)
    except (ValueError, RecursionError) as error:
        raise CatalogError(f"the document is not JSON: {type(error).__name__}") from error
    if not isinstance(found, dict):
        raise CatalogError("the document is not a JSON object")
    return found


def _posted(entry: CatalogEntry) -> datetime:
    return entry.posted_at or datetime.min.replace(tzinfo=UTC)


def _build(value: object) -> Build | None:
    try:
        return parse_build(value) if isinstance(value, str) else None
    except ValueError:
        return None


def _version(value: object) -> OSVersion | None:
    try:
        return parse_os_version(value) if isinstance(value, str) else None
    except ValueError:
        return None


def _time(value: object) -> datetime | None:
    try:
        found = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
    return None if found is None or found.tzinfo is None else found
