"""The catalogue: all advisories, folded from their sources, and the releases that a Mac lacks.

Of each source and advisory the newest snapshot wins. A `Release` joins the snapshots of all
sources, when it is first read. The missing releases are computed once for each (version, build,
device id) and cached, because many Macs have equal ones.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Final

from pipeline.state.device import to_us
from schemas.envelope import AdvisoryEvent, AdvisoryRetractedEvent
from schemas.events.advisory import AdvisorySnapshot, Severity
from schemas.ids import AdvisoryId, advisory_id
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


@dataclass(frozen=True, slots=True)
class _SourceSnapshot:
    us: int
    retracted: bool
    snapshot: AdvisorySnapshot

    @property
    def sort_key(self) -> tuple[int, bool, str]:
        """The key of which the greatest wins: time, then a retraction, then the snapshot's JSON."""
        return self.us, self.retracted, self.snapshot.model_dump_json()


@dataclass(frozen=True, slots=True)
class _SourcedAdvisory:
    """An advisory with the newest snapshot of each source, by source.

    `known_us` is the time of the first event about it. `exploited_us` has, for each exploited CVE,
    the time of the first event that listed it as exploited.
    """

    snapshots: Mapping[str, _SourceSnapshot] = field(default_factory=dict)
    known_us: int = 0
    exploited_us: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Advisories:
    """All advisories. Immutable, except for its caches."""

    known: Mapping[AdvisoryId, _SourcedAdvisory] = field(default_factory=dict)
    _missing: dict[Any, Missing] = field(default_factory=dict, compare=False, repr=False)

    def apply(self, event: AdvisoryEvent) -> "Advisories":
        """Return the catalogue with this event folded in; the same object if nothing changed.

        Of each source and advisory the newest snapshot wins. An event without a version (of the KEV
        catalogue) is kept under its CVEs.
        """
        # As an AdvisorySnapshot: published, raised and narrowed events differ only in their class.
        snapshot, us = AdvisorySnapshot.model_construct(**dict(event.data)), to_us(event.time)
        if snapshot.os_version is None:
            identity = AdvisoryId(f"cve:{','.join(snapshot.exploited_cves)}")
        else:
            identity = advisory_id(snapshot.platform, str(snapshot.os_version))
        old = self.known.get(identity, _SourcedAdvisory())
        incoming = _SourceSnapshot(us, isinstance(event, AdvisoryRetractedEvent), snapshot)
        newest = old.snapshots.get(snapshot.source)
        exploited = dict(old.exploited_us)
        for cve in snapshot.exploited_cves:
            exploited[cve] = min(us, exploited.get(cve, us))
        is_newer = newest is None or incoming.sort_key > newest.sort_key
        known_us = us if newest is None and not old.snapshots else min(us, old.known_us)
        if not is_newer and known_us == old.known_us and exploited == old.exploited_us:
            return self
        new = _SourcedAdvisory(
            {**old.snapshots, snapshot.source: incoming} if is_newer else old.snapshots,
            known_us,
            exploited,
        )
        return Advisories({**self.known, identity: new})

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
            for source in known.snapshots.values()
            if source.snapshot.os_version is not None
            for cve in source.snapshot.cves
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

    @cached_property
    def lines(self) -> Mapping[str, tuple[Release, ...]]:
        """For each line (`26`) the releases that no source has retracted, newest first."""
        by_line: dict[str, list[tuple[AdvisoryId, _SourcedAdvisory]]] = {}
        for identity, known in self.known.items():
            version = next(iter(known.snapshots.values())).snapshot.os_version
            if version is not None and not any(
                source.retracted for source in known.snapshots.values()
            ):
                by_line.setdefault(version.line, []).append((identity, known))
        return {line: self._releases(found) for line, found in sorted(by_line.items())}

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
        return {
            identity: {
                "known_us": known.known_us,
                "exploited_us": dict(sorted(known.exploited_us.items())),
                "said": {
                    source: [entry.us, entry.retracted, entry.snapshot.model_dump(mode="json")]
                    for source, entry in sorted(known.snapshots.items())
                },
            }
            for identity, known in sorted(self.known.items())
        }

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> "Advisories":
        """Return the catalogue that `to_wire` wrote.

        Raises ValueError, KeyError, TypeError or AttributeError for other input.
        """
        return cls(
            {
                AdvisoryId(identity): _SourcedAdvisory(
                    snapshots={
                        source: _SourceSnapshot(
                            us, retracted, AdvisorySnapshot.model_validate(snapshot)
                        )
                        for source, (us, retracted, snapshot) in known["said"].items()
                    },
                    known_us=known["known_us"],
                    exploited_us=known["exploited_us"],
                )
                for identity, known in wire.items()
            }
        )

    @cached_property
    def _kev(self) -> Mapping[str, tuple[int, int | None]]:
        """For each CVE in the KEV catalogue: the time of its first listing and its due date, in us.

        The due date is the earliest of CISA's dates that had not passed when the CVE was first
        listed; None without such a date.
        """
        first_us: dict[str, int] = {}
        due: dict[str, int] = {}
        for known in self.known.values():
            for source in known.snapshots.values():
                if source.snapshot.os_version is not None or source.retracted:
                    continue
                due_at = source.snapshot.kev_due_at
                for cve in source.snapshot.exploited_cves:
                    first_seen_us = known.exploited_us[cve]
                    first_us[cve] = min(first_seen_us, first_us.get(cve, first_seen_us))
                    # Ignore a due date that had passed when the CVE was first listed: it would
                    # force the install on all Macs at the same time.
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
        for known in self.known.values():
            for source in known.snapshots.values():
                if source.snapshot.os_version is None or source.retracted:
                    continue
                for cve in source.snapshot.exploited_cves:
                    seen_us = known.exploited_us[cve]
                    found[cve] = min(seen_us, found.get(cve, seen_us))
        return found

    def _releases(
        self, found: Iterable[tuple[AdvisoryId, _SourcedAdvisory]]
    ) -> tuple[Release, ...]:
        """Return the releases of one line, newest first. `found` has all advisories of the line."""
        drafts = [(identity, known, _device_ids(known)) for identity, known in found]
        widest = max((len(ids) for _, _, ids in drafts if ids is not None), default=0)
        releases = [self._release(*draft, widest=widest) for draft in drafts]
        offered = [
            one.version
            for one in releases
            if _OFFERS in self.known[one.advisory_id].snapshots and not one.version.supplement
        ]
        if offered:
            newest = max(offered)
            releases = [
                replace(one, withdrawn=True)
                if one.version < newest and _OFFERS not in self.known[one.advisory_id].snapshots
                else one
                for one in releases
            ]
        return tuple(sorted(releases, key=lambda one: one.version, reverse=True))

    def _release(
        self,
        identity: AdvisoryId,
        known: _SourcedAdvisory,
        ids: frozenset[str] | None,
        *,
        widest: int,
    ) -> Release:
        """Return the release, joined from the snapshots of all sources.

        `ids` are its device ids; `widest` is the length of the longest list of ids on its line.
        """
        snapshots = [source.snapshot for source in known.snapshots.values()]
        version = snapshots[0].os_version
        assert version is not None
        cves = frozenset(cve for one in snapshots for cve in (*one.cves, *one.exploited_cves))
        exploited = {cve: self._exploited_us[cve] for cve in cves & self._exploited_us.keys()}
        due = {cve: when for cve in cves if (when := self._kev.get(cve, (0, None))[1]) is not None}
        released = [to_us(one.released_at) for one in snapshots if one.released_at is not None]
        return Release(
            advisory_id=identity,
            version=version,
            builds=tuple(sorted({build for one in snapshots for build in one.builds})),
            released_us=min(released, default=known.known_us),
            known_us=known.known_us,
            cves=cves,
            exploited=exploited,
            due=due,
            severity=max((one.severity for one in snapshots), key=lambda one: _SEVERITY_RANK[one]),
            expires_us=_expires_us(known),
            device_ids=ids,
            specific=ids is not None and len(ids) < max(widest, 2 * 10) * _SPECIFIC_SHARE,
        )


def _expires_us(known: _SourcedAdvisory) -> int | None:
    """Return the time at which Apple stops offering the release, in us; None if it is not known.

    The time in Apple's own list of offers counts; without one, the latest time of the others.
    """
    offers = known.snapshots.get(_OFFERS)
    if offers is not None and offers.snapshot.expires_at is not None:
        return to_us(offers.snapshot.expires_at)
    return max(
        (
            to_us(source.snapshot.expires_at)
            for source in known.snapshots.values()
            if source.snapshot.expires_at is not None
        ),
        default=None,
    )


def _device_ids(known: _SourcedAdvisory) -> frozenset[str] | None:
    """Return the device ids, in lower case, to which Apple offers the release.

    They are those of Apple's own list of offers; without it, those that every source with a list
    has in its list. None if no source has a list.
    """
    limits = {
        name: frozenset(device_id.lower() for device_id in source.snapshot.device_ids)
        for name, source in known.snapshots.items()
        if source.snapshot.device_ids is not None
    }
    if limits.get(_OFFERS):
        return limits[_OFFERS]
    return frozenset.intersection(*limits.values()) if limits else None
