"""What Apple released, folded from every source; and what a Mac is missing.

A source's snapshot of an advisory is one register, the newest wins. What is true of an advisory
is joined from its sources when asked. Which Macs miss what is worked out once for each
(version, build, device id) and kept: Macs are many, kinds of Macs are few.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

from pipeline.state.device import to_us
from schemas.envelope import AdvisoryEvent, AdvisoryRetractedEvent
from schemas.events.advisory import AdvisorySnapshot, Severity
from schemas.ids import AdvisoryId, advisory_id
from schemas.macos import Build, OSVersion, reaches

# A list of device ids this much smaller than the widest of its line is a release for some
# hardware only; what a Mac does not say of itself cannot put it on such a list.
_SPECIFIC_SHARE: Final = 0.5
_SEVERITY_RANK: Final[dict[Severity | None, int]] = {
    None: 0,
    "low": 1,
    "medium": 2,
    "high": 3,
    "critical": 4,
}
_LINES: Final = (11, 12, 13, 14, 15, 26)
SUPPORTED_LINES: Final = 3


@dataclass(frozen=True, slots=True)
class Release:
    """One live release as its sources together describe it.

    `known_us` is when it was first heard of; `exploited` maps a CVE of it to when its exploitation
    was first heard of, `due` to CISA's date for it, unless that had passed when it was first heard
    of. `device_ids`, lower-case; None: every Mac of the line.
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

    def offered_to(self, device_id: str | None) -> bool:
        """Whether Apple offers it to a Mac of this SoftwareUpdateDeviceID. A Mac that does not
        say its id is on no list for some hardware only."""
        if self.device_ids is None:
            return True
        return not self.specific if device_id is None else device_id.lower() in self.device_ids

    @property
    def build(self) -> Build | None:
        """The build to ask for: the only one, or none where hardware decides between several."""
        return self.builds[0] if len(self.builds) == 1 else None

    def reached_by(self, version: OSVersion, build: Build | None) -> bool:
        """Whether a Mac on this version and build has the release, in any of its builds."""
        if not self.builds:
            return reaches(version, build, self.version, None)
        return any(reaches(version, build, self.version, wanted) for wanted in self.builds)


@dataclass(frozen=True, eq=False)
class Missing:
    """The releases of one line that a Mac lacks and is offered, newest first. One object serves
    all Macs of a kind, so what is read off it is worked out once; `cache` is for those who do."""

    releases: tuple[Release, ...] = ()
    cache: dict[str, Any] = field(default_factory=dict, repr=False)

    @cached_property
    def cves(self) -> tuple[str, ...]:
        """Every CVE that one of the releases fixes, sorted."""
        return tuple(sorted({cve for one in self.releases for cve in one.cves}))

    @cached_property
    def exploited(self) -> tuple[str, ...]:
        """Those of them that are known to be exploited, sorted."""
        return tuple(sorted({cve for one in self.releases for cve in one.exploited}))

    @cached_property
    def advisory_ids(self) -> tuple[str, ...]:
        """The advisories, newest first."""
        return tuple(one.advisory_id for one in self.releases)


@dataclass(frozen=True, slots=True)
class _SourceSnapshot:
    us: int
    retracted: bool
    snapshot: AdvisorySnapshot

    @property
    def sort_key(self) -> tuple[int, bool, str]:
        return self.us, self.retracted, self.snapshot.model_dump_json()


@dataclass(frozen=True, slots=True)
class _SourcedAdvisory:
    """An advisory: the newest snapshot of each source, and when things were first heard of."""

    snapshots: Mapping[str, _SourceSnapshot] = field(default_factory=dict)
    known_us: int = 0
    exploited_us: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Advisories:
    """All advisories. Immutable; `apply` gives a new one, or the same if nothing changed."""

    known: Mapping[AdvisoryId, _SourcedAdvisory] = field(default_factory=dict)
    _missing: dict[Any, Missing] = field(default_factory=dict, compare=False, repr=False)

    def apply(self, event: AdvisoryEvent) -> "Advisories":
        """Fold an advisory event."""
        # As the plain snapshot: which kind of event brought it says nothing about the release.
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
        """SHA-256 of the catalogue's wire form: names what a decision saw."""
        text = json.dumps(self.to_wire(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    @cached_property
    def cves(self) -> frozenset[str]:
        """Every CVE that some source says a release fixes."""
        return frozenset(
            cve
            for known in self.known.values()
            for source in known.snapshots.values()
            if source.snapshot.os_version is not None
            for cve in source.snapshot.cves
        )

    @cached_property
    def lines(self) -> Mapping[str, tuple[Release, ...]]:
        """The live releases of each line, newest first."""
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
        """The newest major version that has a full release."""
        majors = [
            one.version.major
            for releases in self.lines.values()
            for one in releases
            if not one.version.supplement
        ]
        return max(majors, default=None)

    @cached_property
    def supported_lines(self) -> tuple[str, ...]:
        """The lines Apple patches, newest first: the newest major and the two before it."""
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
        """What a Mac of this version, build and device id lacks of a line."""
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

    def missing_on_dead_line(
        self, version: OSVersion, build: Build | None, device_id: str | None, supported: str
    ) -> Missing:
        """What a Mac on a line without support lacks: its line's own releases, and what Apple has
        fixed in the oldest `supported` line since the dead one's last release."""
        key = (version, build, device_id, supported)
        found = self._missing.get(key)
        if found is None:
            own = self.missing(version.line, version, build, device_id).releases
            last_us = max((one.released_us for one in self.lines.get(version.line, ())), default=0)
            since = (one for one in self.lines.get(supported, ()) if one.released_us > last_us)
            found = self._missing[key] = Missing((*since, *own))
        return found

    def to_wire(self) -> dict[str, Any]:
        """The catalogue as JSON values, in one order."""
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
        """The catalogue that `to_wire` wrote."""
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
        """CVEs that a CVE catalogue lists: when that was first heard of, and CISA's date."""
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
                    # A date that had passed when the catalogue was first read binds nobody: it
                    # would force every Mac at once.
                    if due_at is not None and to_us(due_at) > first_seen_us:
                        due[cve] = min(to_us(due_at), due.get(cve, to_us(due_at)))
        return {cve: (seen_us, due.get(cve)) for cve, seen_us in first_us.items()}

    def _releases(
        self, found: Iterable[tuple[AdvisoryId, _SourcedAdvisory]]
    ) -> tuple[Release, ...]:
        drafts = [(identity, known, _device_ids(known)) for identity, known in found]
        widest = max((len(ids) for _, _, ids in drafts if ids is not None), default=0)
        releases = [self._release(*draft, widest=widest) for draft in drafts]
        return tuple(sorted(releases, key=lambda one: one.version, reverse=True))

    def _release(
        self,
        identity: AdvisoryId,
        known: _SourcedAdvisory,
        ids: frozenset[str] | None,
        *,
        widest: int,
    ) -> Release:
        snapshots = [source.snapshot for source in known.snapshots.values()]
        version = snapshots[0].os_version
        assert version is not None
        cves = frozenset(cve for one in snapshots for cve in (*one.cves, *one.exploited_cves))
        exploited = {
            cve: known.exploited_us[cve] for one in snapshots for cve in one.exploited_cves
        }
        for cve in cves & self._kev.keys():
            first_seen_us = self._kev[cve][0]
            exploited[cve] = min(first_seen_us, exploited.get(cve, first_seen_us))
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
            device_ids=ids,
            specific=ids is not None and len(ids) < max(widest, 2 * 10) * _SPECIFIC_SHARE,
        )


def _device_ids(known: _SourcedAdvisory) -> frozenset[str] | None:
    """The ids every source that limits the release agrees on: where sources differ, fewer Macs."""
    limits = [
        frozenset(device_id.lower() for device_id in source.snapshot.device_ids)
        for source in known.snapshots.values()
        if source.snapshot.device_ids is not None
    ]
    return frozenset.intersection(*limits) if limits else None
