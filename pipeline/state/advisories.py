"""The catalogue: all advisories, folded from their sources, and the releases that a Mac lacks.

Of each source and advisory the newest statement wins; `pipeline.state.statements` has the ones that
count. A `Release` joins the statements of all sources, when it is first read. The missing releases
are computed once for each (version, build, device id) and cached, because many Macs have the same.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Final

from pipeline.state.device import to_us
from pipeline.state.statements import (
    TRUSTED,
    Effective,
    Statements,
    authoritative,
    effective,
    identity_of,
)
from pipeline.state.strikes import StrikeState, is_struck
from schemas.envelope import AdvisoryEvent
from schemas.events.advisory import AdvisorySnapshot, Severity
from schemas.ids import AdvisoryId
from schemas.macos import Build, OSVersion, reaches

# A release is specific to some hardware if it lists fewer than ten device ids, or fewer than this
# share of the longest list of its line. A Mac with an unknown device id is not offered it.
_SPECIFIC_SHARE: Final = 0.5
_SEVERITY_RANK: Final[dict[Severity | None, int]] = {
    None: 0,
    "low": 1,
    "medium": 2,
    "high": 3,
    "critical": 4,
}
_LINES: Final = (11, 12, 13, 14, 15, 26)
# SOFA's feed begins with macOS 12, and Apple's lookup service dates a release by its last posting.
# The dates of the last security updates are those of Apple's page of security releases
# (support.apple.com/100100).
_LAST_FIXES: Final[Mapping[str, datetime]] = {
    "10.13": datetime(2020, 11, 12, tzinfo=UTC),
    "10.14": datetime(2021, 7, 21, tzinfo=UTC),
    "10.15": datetime(2022, 7, 20, tzinfo=UTC),
    "11": datetime(2023, 9, 11, tzinfo=UTC),
}
_OFFERS: Final = "gdmf"
# Only CISA sets due dates.
_DUE_DATES: Final = "kev"
SUPPORTED_LINES: Final = 3


@dataclass(frozen=True, slots=True)
class Release:
    """One release that no source has retracted, joined from all its sources.

    Times are in us since 1970.

    - `released_us`: the earliest of the sources' release dates; `known_us` if no source has one
    - `known_us`: the time at which the first source listed it
    - `cves`: of all sources, the exploited ones included
    - `severity`: the worst rating of the sources; None if no source rates it
    - `exploited`: for each exploited CVE, the time at which the exploitation became known
    - `due`: for each CVE in the KEV catalogue, CISA's due date, unless that had passed when the CVE
      was first listed
    - `device_ids`: in lower case; None means every Mac of the line
    - `specific`: True if it is a release for some hardware only
    - `expires_us`: the time at which Apple stops offering it; None if no source has one
    - `withdrawn`: True if Apple's list of offers has other releases of the line, the newest of them
      newer, and not this one: its fixes count, and no Mac can install it any more
    """

    advisory_id: AdvisoryId
    version: OSVersion
    builds: tuple[Build, ...]
    released_us: int
    known_us: int
    cves: frozenset[str]
    exploited: Mapping[str, int]
    due: Mapping[str, int]
    severity: Severity | None
    device_ids: frozenset[str] | None
    specific: bool
    expires_us: int | None = None
    withdrawn: bool = False

    def can_be_installed(self, now_us: int) -> bool:
        """Return True if Apple offers the release at this time, as far as is known."""
        return not self.withdrawn and (self.expires_us is None or now_us < self.expires_us)

    def offered_to(self, device_id: str | None) -> bool:
        """Return True if Apple offers the release to a Mac with this SoftwareUpdateDeviceID.

        With an unknown id (None): False if the release is specific to some hardware, else True.
        """
        if self.device_ids is None:
            return True
        return not self.specific if device_id is None else device_id.lower() in self.device_ids

    @property
    def build(self) -> Build | None:
        """The only build of the release; None if it has none, or several for different hardware."""
        return self.builds[0] if len(self.builds) == 1 else None

    def reached_by(self, version: OSVersion, build: Build | None) -> bool:
        """Return True if a Mac with this version and build has the release in any of its builds.

        A later version has it too. For a release without builds the version alone is compared.
        """
        if not self.builds:
            return reaches(version, build, self.version, None)
        return any(reaches(version, build, self.version, wanted) for wanted in self.builds)


@dataclass(frozen=True, eq=False)
class Missing:
    """The releases that a Mac lacks and is offered, in the order of the method that returns them.

    One object is shared by all Macs with the same version, build and device id. `cache` is for
    callers that compute values from it.
    """

    releases: tuple[Release, ...] = ()
    cache: dict[str, Any] = field(default_factory=dict, repr=False)

    @cached_property
    def cves(self) -> tuple[str, ...]:
        """All CVEs that the releases fix, sorted."""
        return tuple(sorted({cve for one in self.releases for cve in one.cves}))

    @cached_property
    def exploited(self) -> tuple[str, ...]:
        """The CVEs known to be exploited, sorted."""
        return tuple(sorted({cve for one in self.releases for cve in one.exploited}))

    @cached_property
    def advisory_ids(self) -> tuple[str, ...]:
        """The advisory ids of the releases, in the same order."""
        return tuple(one.advisory_id for one in self.releases)


_Snapshots = Mapping[str, AdvisorySnapshot]
_NO_STATEMENTS: Final = Statements()


@dataclass(frozen=True)
class Advisories:
    """All advisories. Immutable, except for its caches."""

    known: Mapping[AdvisoryId, Statements] = field(default_factory=dict)
    _missing: dict[Any, Missing] = field(default_factory=dict, compare=False, repr=False)

    def apply(self, event: AdvisoryEvent) -> "Advisories":
        """Return the catalogue with this event folded in; the same object if nothing changed.

        Of each source and advisory the newest snapshot wins. An event without a version (of the KEV
        catalogue) is kept under its CVEs.
        """
        identity = identity_of(event.data)
        old = self.known.get(identity, _NO_STATEMENTS)
        new = old.including(event)
        return self if new is old else Advisories({**self.known, identity: new})

    def with_strikes(self, acts: Iterable[StrikeState]) -> "Advisories":
        """Return the catalogue with acts of a person; the same object if newer ones are known."""
        known = dict(self.known)
        for act in acts:
            identity = AdvisoryId(act.scope.advisory_id)
            known[identity] = known.get(identity, _NO_STATEMENTS).striking(act)
        is_changed = any(known[one] is not self.known.get(one) for one in known)
        return Advisories(known) if is_changed else self

    def strikes(self) -> Iterator[tuple[StrikeState, bool]]:
        """Yield the strikes that were not ended, sorted, each with True if it has an effect.

        It has none once its source states something else.
        """
        for _, known in sorted(self.known.items()):
            for _, act in sorted(known.strikes.items()):
                if act.strike is not None:
                    stated = known.by_source.get(act.scope.source)
                    yield act, stated is not None and is_struck(act.strike, stated.snapshot)

    @cached_property
    def effective(self) -> Effective:
        """The statements that count, and those without effect."""
        return effective(self.known)

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of the catalogue's JSON, in hex, which a decision's inputs record."""
        text = json.dumps(self.to_wire(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    @cached_property
    def cves(self) -> frozenset[str]:
        """All CVEs in `cves` of the snapshots of releases, retracted releases included.

        The CVEs of `exploited_cves` and of the KEV catalogue are not added.
        """
        return frozenset(
            cve
            for known in self.known.values()
            for stated in known.by_source.values()
            if stated.snapshot.os_version is not None
            for cve in stated.snapshot.cves
        )

    @cached_property
    def newest_of_line(self) -> Mapping[str, OSVersion]:
        """For each line the version of its newest release that is no supplement."""
        found = {
            line: next((one.version for one in releases if not one.version.supplement), None)
            for line, releases in self.lines.items()
        }
        return {line: version for line, version in found.items() if version is not None}

    @cached_property
    def lines_with_devices(self) -> frozenset[str]:
        """The lines of which a release lists devices, and is not for some hardware only."""
        return frozenset(
            line
            for line, releases in self.lines.items()
            if any(one.device_ids is not None and not one.specific for one in releases)
        )

    @cached_property
    def specific_releases(self) -> Mapping[str, tuple[Release, ...]]:
        """For each line the releases for some hardware only, newest first.

        The list of devices of one can be empty: its hardware is unknown.
        """
        return {
            line: tuple(one for one in releases if one.specific)
            for line, releases in self.lines.items()
        }

    @cached_property
    def listed_device_ids(self) -> frozenset[str]:
        """The device ids, in lower case, of every release that lists some."""
        return frozenset(
            device_id
            for releases in self.lines.values()
            for release in releases
            for device_id in release.device_ids or ()
        )

    def lists_device(self, line: str, device_id: str | None) -> bool | None:
        """Return True if a release of the line is for this device id, False if none is.

        None if that is not known: no id, an id that no release of any line lists, or a line without
        lists. Supplements do not count.
        """
        if device_id is None or device_id.lower() not in self.listed_device_ids:
            return None
        lists = [
            release.device_ids
            for release in self.lines.get(line, ())
            if release.device_ids is not None and not release.version.supplement
        ]
        return any(device_id.lower() in ids for ids in lists) if lists else None

    def lists_all_or_none(self, device_ids: Iterable[str]) -> bool:
        """Return True if each list of a release has all of these device ids, or none of them."""
        wanted = {one.lower() for one in device_ids}
        lists = [one.device_ids for of in self.lines.values() for one in of if one.device_ids]
        return all(wanted <= ids or wanted.isdisjoint(ids) for ids in lists)

    @cached_property
    def lines(self) -> Mapping[str, tuple[Release, ...]]:
        """For each line (`26`) the releases that a source states, newest first."""
        by_line: dict[str, list[tuple[AdvisoryId, _Snapshots]]] = {}
        for identity, snapshots in self.effective.by_advisory.items():
            version = next(iter(snapshots.values())).os_version
            if version is not None:
                by_line.setdefault(version.line, []).append((identity, snapshots))
        return {line: self._releases(found) for line, found in sorted(by_line.items())}

    @cached_property
    def version_of_build(self) -> Mapping[Build, OSVersion]:
        """For each build that belongs to one known release, the version of the release."""
        found: dict[Build, set[OSVersion]] = {}
        for releases in self.lines.values():
            for release in releases:
                for build in release.builds:
                    found.setdefault(build, set()).add(release.version)
        return {build: versions.pop() for build, versions in found.items() if len(versions) == 1}

    @cached_property
    def newest_major(self) -> int | None:
        """The newest major version with a release that is no supplement; None if there is none."""
        majors = [
            one.version.major
            for releases in self.lines.values()
            for one in releases
            if not one.version.supplement
        ]
        return max(majors, default=None)

    @cached_property
    def supported_lines(self) -> tuple[str, ...]:
        """The lines that Apple supports, newest first: the newest major and the two before it.

        Empty if `newest_major` is None.
        """
        newest = self.newest_major
        if newest is None:
            return ()
        majors = [major for major in _LINES if major < newest] + [
            *range(max(_LINES) + 1, newest),
            newest,
        ]
        return tuple(str(major) for major in sorted(set(majors), reverse=True)[:SUPPORTED_LINES])

    def missing(
        self, line: str, version: OSVersion, build: Build | None, device_id: str | None
    ) -> Missing:
        """Return the releases of `line` that such a Mac lacks and is offered, newest first.

        `line` can be another line than that of `version`. The result is cached and shared.
        """
        key = (line, version, build, device_id)
        found = self._missing.get(key)
        if found is None:
            found = Missing(
                tuple(
                    release
                    for release in self.lines.get(line, ())
                    if release.offered_to(device_id) and not release.reached_by(version, build)
                )
            )
            self._missing[key] = found
        return found

    def missing_on_unsupported_line(
        self, version: OSVersion, build: Build | None, device_id: str | None, supported: str
    ) -> Missing:
        """Return the releases that a Mac on an unsupported line lacks.

        First come the releases of the line `supported` that were released after the last release of
        the Mac's own line (all, if that has no release), for any hardware. The missing releases of
        its own line follow. Each part is newest first.
        """
        key = (version, build, device_id, supported)
        found = self._missing.get(key)
        if found is None:
            own = self.missing(version.line, version, build, device_id).releases
            last_us = self._last_fix_us(version.line)
            since = (one for one in self.lines.get(supported, ()) if one.released_us > last_us)
            found = self._missing[key] = Missing((*since, *own))
        return found

    def _last_fix_us(self, line: str) -> int:
        """Return the time of the last release of an unsupported line; 0 if it is not known."""
        known = _LAST_FIXES.get(line)
        if known is not None:
            return to_us(known)
        return max((one.released_us for one in self.lines.get(line, ())), default=0)

    def to_wire(self) -> dict[str, Any]:
        """Return the catalogue as JSON values, in an order that depends only on its content."""
        return {identity: known.as_json() for identity, known in sorted(self.known.items())}

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> "Advisories":
        """Return the catalogue that `to_wire` wrote.

        Raises ValueError, KeyError, TypeError or AttributeError for other input.
        """
        return cls({AdvisoryId(one): Statements.from_json(known) for one, known in wire.items()})

    @cached_property
    def _kev(self) -> Mapping[str, tuple[int, int | None]]:
        """For each CVE in the KEV catalogue: the time of its first listing and its due date, in us.

        The due date is the earliest of CISA's dates that had not passed when the CVE was first
        listed; None without such a date.
        """
        first_us: dict[str, int] = {}
        due: dict[str, int] = {}
        for identity, snapshots in self.effective.by_advisory.items():
            for source, snapshot in snapshots.items():
                if snapshot.os_version is not None:
                    continue
                for cve in snapshot.exploited_cves:
                    first_seen_us = self._since_us(identity, cve)
                    first_us[cve] = min(first_seen_us, first_us.get(cve, first_seen_us))
                    # Ignore a due date that had passed when the CVE was first listed: it would
                    # force the install on all Macs at the same time.
                    due_at = snapshot.kev_due_at if source == _DUE_DATES else None
                    if due_at is not None and to_us(due_at) > first_seen_us:
                        due[cve] = min(to_us(due_at), due.get(cve, to_us(due_at)))
        return {cve: (seen_us, due.get(cve)) for cve, seen_us in first_us.items()}

    @cached_property
    def _exploited_us(self) -> Mapping[str, int]:
        """For each CVE that a source calls exploited, the time at which that became known, in us.

        Exploitation is a fact of the CVE: every release that fixes it is urgent, also one whose own
        notes do not mention it. A source that has corrected itself does not count.
        """
        found = {cve: seen_us for cve, (seen_us, _) in self._kev.items()}
        for identity, snapshots in self.effective.by_advisory.items():
            for snapshot in snapshots.values():
                if snapshot.os_version is None:
                    continue
                for cve in snapshot.exploited_cves:
                    seen_us = self._since_us(identity, cve)
                    found[cve] = min(seen_us, found.get(cve, seen_us))
        return found

    def _since_us(self, identity: AdvisoryId, cve: str | None = None) -> int:
        """Return the time, in us, at which an advisory, or the exploitation of its CVE, was known.

        What a person struck since then does not count.
        """
        known = self.known[identity]
        us = known.known_us if cve is None else known.exploited_us[cve]
        return max(us, self.effective.renewed_us.get((identity, cve), 0))

    def _releases(self, found: Iterable[tuple[AdvisoryId, _Snapshots]]) -> tuple[Release, ...]:
        """Return the releases of one line, newest first. `found` has all advisories of the line."""
        drafts = [(identity, snapshots, _device_ids(snapshots)) for identity, snapshots in found]
        widest = max((len(ids) for _, _, ids in drafts if ids is not None), default=0)
        releases = [self._release(*draft, widest=widest) for draft in drafts]
        by_advisory = self.effective.by_advisory
        offered = [
            one.version
            for one in releases
            if _OFFERS in by_advisory[one.advisory_id] and not one.version.supplement
        ]
        if offered:
            newest = max(offered)
            releases = [
                replace(one, withdrawn=True)
                if one.version < newest and _OFFERS not in by_advisory[one.advisory_id]
                else one
                for one in releases
            ]
        return tuple(sorted(releases, key=lambda one: one.version, reverse=True))

    def _release(
        self,
        identity: AdvisoryId,
        by_source: _Snapshots,
        ids: frozenset[str] | None,
        *,
        widest: int,
    ) -> Release:
        """Return the release, joined from the snapshots `by_source`.

        `ids` are its device ids; `widest` is the length of the longest list of ids on its line.
        """
        snapshots, trusted = [*by_source.values()], authoritative(by_source)
        version = snapshots[0].os_version
        assert version is not None
        cves = frozenset(cve for one in snapshots for cve in (*one.cves, *one.exploited_cves))
        exploited = {cve: self._exploited_us[cve] for cve in cves & self._exploited_us.keys()}
        due = {cve: when for cve in cves if (when := self._kev.get(cve, (0, None))[1]) is not None}
        known_us = self._since_us(identity)
        released = [to_us(one.released_at) for one in trusted if one.released_at is not None]
        return Release(
            advisory_id=identity,
            version=version,
            builds=_builds(trusted) or _builds(snapshots),
            released_us=min(released, default=known_us),
            known_us=known_us,
            cves=cves,
            exploited=exploited,
            due=due,
            severity=max((one.severity for one in snapshots), key=lambda one: _SEVERITY_RANK[one]),
            expires_us=_expires_us(by_source),
            device_ids=ids,
            specific=ids is not None and len(ids) < max(widest, 2 * 10) * _SPECIFIC_SHARE,
        )


def _builds(snapshots: Iterable[AdvisorySnapshot]) -> tuple[Build, ...]:
    """Return the builds of the release, without those of its betas."""
    return tuple(sorted({build for one in snapshots for build in one.builds if not build.is_beta}))


def _expires_us(by_source: _Snapshots) -> int | None:
    """Return the time at which Apple stops offering the release, in us; None if it is not known.

    The time in Apple's own list of offers counts; without one, the latest time of the others that
    are authoritative.
    """
    offers = by_source.get(_OFFERS)
    if offers is not None and offers.expires_at is not None:
        return to_us(offers.expires_at)
    times = [one.expires_at for one in authoritative(by_source)]
    return max((to_us(at) for at in times if at is not None), default=None)


def _device_ids(by_source: _Snapshots) -> frozenset[str] | None:
    """Return the device ids, in lower case, to which Apple offers the release.

    They are those of the first authoritative source with a list: Apple's own list of offers, then
    SOFA. Sources that are not trusted add theirs up. None if no such source has a list.
    """
    is_trusted = not by_source.keys().isdisjoint(TRUSTED)
    found: set[str] = set()
    has_list = False
    for one in authoritative(by_source):
        if one.device_ids is None or (one.source == _OFFERS and not one.device_ids):
            continue
        has_list = True
        found |= {device_id.lower() for device_id in one.device_ids}
        if is_trusted:
            break
    return frozenset(found) if has_list else None
