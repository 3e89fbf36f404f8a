"""Disagreements between the feeds about Apple's releases, as findings. Pure.

| code | condition |
| --- | --- |
| `sofa_lacks_release` | Apple offers a release that SOFA lacks; SOFA has its line or an older one |
| `gdmf_lacks_release` | SOFA lists a release that is newer than each offer of its line |
| `builds_differ` | both name builds, and no build is the same |
| `devices_differ` | both name devices, and not the same ones |
| `dates_differ` | SOFA dates a release more than a week after Apple's posting |
| `sofa_lacks_exploitation` | KEV has a CVE of the release, and SOFA does not call it exploited |
| `release_implausible` | a source states a release that cannot exist, or dates it ahead |
| `retraction_held` | a source retracts more than three releases in a week by events |

The last two have no effect on the catalogue (`pipeline.state.statements`).

An offer that has expired is not compared: it leaves GDMF's document without an event. Apple posts
old releases again, so a later date of GDMF is no finding. Background security improvements are left
out: SOFA's first version has none. KEV does not list all that Apple calls exploited, so the reverse
of the last row is no finding.
"""

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from pipeline.state.advisories import Advisories
from schemas.events.advisory import AdvisorySnapshot
from schemas.findings import FeedFindingCode
from schemas.ids import AdvisoryId, advisory_id
from schemas.macos import OSVersion

_LATER: Final = timedelta(days=7)
# Texts name this many devices or CVEs, and count the others.
_NAMED: Final = 5

_Snapshots = Mapping[OSVersion, AdvisorySnapshot]


class FeedFinding(NamedTuple):
    """A disagreement about one release; `detail` is what each feed has."""

    code: FeedFindingCode
    advisory_id: AdvisoryId
    detail: str


def compare_feeds(advisories: Advisories, now: datetime) -> tuple[FeedFinding, ...]:
    """Return the disagreements of the feeds at `now`, sorted by release, newest first, and code.

    Empty while a feed is missing with which another one could be compared.
    """
    listed, offered = _snapshots_of(advisories, "sofa"), _offers(advisories, now)
    found: list[tuple[OSVersion, FeedFindingCode, str]] = []
    if listed and offered:
        found += _missing_releases(listed, offered)
        for version in listed.keys() & offered.keys():
            found += [(version, *one) for one in _differences(listed[version], offered[version])]
    found += _missing_exploitation(listed, advisories)
    found.sort(key=lambda one: one[1])
    found.sort(key=lambda one: one[0], reverse=True)
    disagreements = (
        FeedFinding(code, advisory_id("macOS", str(version)), detail)
        for version, code, detail in found
    )
    return (*disagreements, *_without_effect(advisories))


def _without_effect(advisories: Advisories) -> Iterator[FeedFinding]:
    """Yield the statements that have no effect, sorted."""
    for code, refusals in (
        (FeedFindingCode.RELEASE_IMPLAUSIBLE, advisories.effective.implausible),
        (FeedFindingCode.RETRACTION_HELD, advisories.effective.held_retractions),
    ):
        for one in refusals:
            yield FeedFinding(code, one.identity, f"{one.source}: {one.detail}")


def _snapshots_of(advisories: Advisories, source: str) -> _Snapshots:
    """Return the newest snapshot that the source has of each release that is no supplement."""
    found: dict[OSVersion, AdvisorySnapshot] = {}
    for snapshots in advisories.effective.by_advisory.values():
        snapshot = snapshots.get(source)
        if snapshot is None or snapshot.os_version is None:
            continue
        if not snapshot.os_version.supplement:
            found[snapshot.os_version] = snapshot
    return found


def _offers(advisories: Advisories, now: datetime) -> _Snapshots:
    return {
        version: offer
        for version, offer in _snapshots_of(advisories, "gdmf").items()
        if offer.expires_at is None or now < offer.expires_at
    }


def _missing_releases(
    listed: _Snapshots, offered: _Snapshots
) -> Iterator[tuple[OSVersion, FeedFindingCode, str]]:
    oldest = min(version.major for version in listed)
    for version in offered.keys() - listed.keys():
        if version.major >= oldest:
            builds = ", ".join(map(str, offered[version].builds)) or "no build"
            yield version, FeedFindingCode.SOFA_LACKS_RELEASE, f"Apple offers it: {builds}"
    newest_offers: dict[str, OSVersion] = {}
    for version in sorted(offered):
        newest_offers[version.line] = version
    for version in listed.keys() - offered.keys():
        newest = newest_offers.get(version.line)
        if newest is not None and version > newest:
            detail = f"Apple's newest offer of the line is {newest}"
            yield version, FeedFindingCode.GDMF_LACKS_RELEASE, detail


def _differences(
    listed: AdvisorySnapshot, offer: AdvisorySnapshot
) -> Iterator[tuple[FeedFindingCode, str]]:
    if listed.builds and offer.builds and not set(listed.builds) & set(offer.builds):
        sofa, gdmf = (", ".join(map(str, one.builds)) for one in (listed, offer))
        yield FeedFindingCode.BUILDS_DIFFER, f"SOFA: {sofa}; GDMF: {gdmf}"
    sofa_ids, gdmf_ids = _device_ids(listed), _device_ids(offer)
    if sofa_ids and gdmf_ids and sofa_ids.keys() != gdmf_ids.keys():
        more = [{*sofa_ids} - {*gdmf_ids}, {*gdmf_ids} - {*sofa_ids}]
        names = sofa_ids | gdmf_ids
        texts = (
            f"{feed} only: {_some({names[one] for one in ids})}"
            for feed, ids in zip(("SOFA", "GDMF"), more, strict=True)
            if ids
        )
        yield FeedFindingCode.DEVICES_DIFFER, "; ".join(texts)
    if listed.released_at and offer.released_at and listed.released_at - offer.released_at > _LATER:
        days = f"SOFA: {listed.released_at:%Y-%m-%d}; GDMF: {offer.released_at:%Y-%m-%d}"
        yield FeedFindingCode.DATES_DIFFER, days


def _device_ids(snapshot: AdvisorySnapshot) -> dict[str, str]:
    """Return the device ids by their lower case, without ids of boards: SOFA's are not reliable."""
    return {one.lower(): one for one in snapshot.device_ids or () if not one.startswith("Mac-")}


def _missing_exploitation(
    listed: _Snapshots, advisories: Advisories
) -> Iterator[tuple[OSVersion, FeedFindingCode, str]]:
    in_kev = {
        cve
        for snapshots in advisories.effective.by_advisory.values()
        for source, snapshot in snapshots.items()
        if source == "kev"
        for cve in snapshot.exploited_cves
    }
    for version, snapshot in listed.items() if in_kev else ():
        missing = in_kev & set(snapshot.cves) - set(snapshot.exploited_cves)
        if missing:
            yield version, FeedFindingCode.SOFA_LACKS_EXPLOITATION, _some(missing)


def _some(names: set[str]) -> str:
    first = sorted(names)[:_NAMED]
    others = len(names) - len(first)
    return ", ".join(first) + (f" and {others} more" if others else "")
