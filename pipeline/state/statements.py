"""Statements of each source about one advisory, and those of them that count. Pure.

Sources are independent: a retraction takes back the statement of its own source, and the others'
statements stay. These statements have no effect, and each is a finding (`feed_comparison`):

| statement | why |
| --- | --- |
| a version between macOS 15 and macOS 26, or older than 10 | Apple never released one |
| a major version more than one above the newest known one | no such release can exist yet |
| a new major version by another source than feeds and operators, if these state releases | it \
would move every Mac's supported lines |
| a release date more than a week after Drydock learned of it | no source knows such a date |
| more than MAX_RETRACTED retractions of one source in a week, not from its whole document | the \
source is broken or not itself: of documents, `ingest/feed_review` checks the losses |

The newest known major version is that of this table or of Apple's own list and SOFA, one step at a
time. Of a release that a feed or an operator states, other sources add CVEs, exploitation and
severity, and nothing else. What a person struck (`pipeline.state.strikes`) counts for nothing.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any, Final, NamedTuple

import msgspec

from pipeline.state.device import duration_us, to_us
from pipeline.state.strikes import StrikeState, struck_until_us, without_struck
from schemas.envelope import AdvisoryEvent, AdvisoryRetractedEvent
from schemas.events.advisory import AdvisorySnapshot
from schemas.ids import AdvisoryId, advisory_id

MAX_RETRACTED: Final = 3
_WINDOW_US: Final = duration_us(timedelta(days=7))
_AHEAD_US: Final = duration_us(timedelta(days=7))
_OWN_FEED: Final = "urn:drydock:feed:"
# In the order of their authority about a release.
FEEDS: Final = ("gdmf", "sofa")
TRUSTED: Final = (*FEEDS, "admin")
_NEWEST_MAJOR: Final = 26
_FIRST_MAJOR: Final = 10
_NEVER_RELEASED: Final = range(16, 26)


class Statement(msgspec.Struct, frozen=True):
    """The newest statement of a source about an advisory, and its time in us since 1970."""

    us: int
    snapshot: AdvisorySnapshot

    @property
    def sort_key(self) -> tuple[int, str]:
        """The key of which the greatest wins: time, then the snapshot's JSON."""
        return self.us, self.snapshot.model_dump_json()


class Retraction(NamedTuple):
    """The newest retraction of a source: its time in us, and False if it follows from a document.

    `is_direct`: a program submitted the event itself.
    """

    us: int
    is_direct: bool


class Statements(msgspec.Struct, frozen=True):
    """All statements about one advisory, by source.

    `known_us` is the time at which Drydock received the first event about it. `exploited_us` has,
    for each exploited CVE, the time at which it received the first event that lists it so.
    `strikes` are the acts of persons, by the key of their scope.
    """

    by_source: Mapping[str, Statement] = {}
    retractions: Mapping[str, Retraction] = {}
    known_us: int = 0
    exploited_us: Mapping[str, int] = {}
    strikes: Mapping[str, StrikeState] = {}

    def including(self, event: AdvisoryEvent) -> "Statements":
        """Return the statements with this event folded in; the same object if nothing changed.

        Of each source the newest statement and the newest retraction win.
        """
        # As an AdvisorySnapshot: published, raised and narrowed events differ only in their class.
        snapshot, us = AdvisorySnapshot.model_construct(**dict(event.data)), to_us(event.time)
        # A sender can date a statement back; no deadline begins before it was received.
        received_us = us if event.receivedat is None else to_us(event.receivedat)
        source = snapshot.source
        exploited = dict(self.exploited_us)
        for cve in snapshot.exploited_cves:
            exploited[cve] = min(received_us, exploited.get(cve, received_us))
        is_first = not self.by_source and not self.retractions
        known_us = received_us if is_first else min(received_us, self.known_us)
        by_source, retractions = self.by_source, self.retractions
        if isinstance(event, AdvisoryRetractedEvent):
            new = Retraction(us, not event.source.startswith(_OWN_FEED))
            if source not in retractions or new > retractions[source]:
                retractions = {**retractions, source: new}
        else:
            stated = Statement(us, snapshot)
            if source not in by_source or stated.sort_key > by_source[source].sort_key:
                by_source = {**by_source, source: stated}
        if (
            by_source is self.by_source
            and retractions is self.retractions
            and known_us == self.known_us
            and exploited == self.exploited_us
        ):
            return self
        return Statements(by_source, retractions, known_us, exploited, self.strikes)

    def striking(self, act: StrikeState) -> "Statements":
        """Return the statements with a person's act; the same object if a newer one is known."""
        known = self.strikes.get(act.scope.key)
        if known is not None and known.sort_key >= act.sort_key:
            return self
        return msgspec.structs.replace(self, strikes={**self.strikes, act.scope.key: act})

    def unstruck(self) -> Mapping[str, Statement]:
        """Return the statements by source, without what is struck of them."""
        if not self.strikes:
            return self.by_source
        found: dict[str, Statement] = {}
        for source, stated in self.by_source.items():
            acts = (one for _, one in sorted(self.strikes.items()) if one.scope.source == source)
            struck = [one.strike for one in acts if one.strike is not None]
            snapshot = without_struck(stated.snapshot, struck)
            if snapshot is not None:
                found[source] = Statement(stated.us, snapshot)
        return found

    def retraction_in_force(self, source: str) -> Retraction | None:
        """Return the source's retraction if it is not older than its statement, else None."""
        retraction, stated = self.retractions.get(source), self.by_source.get(source)
        if retraction is None or (stated is not None and stated.us > retraction.us):
            return None
        return retraction

    def as_json(self) -> dict[str, Any]:
        """Return the statements as JSON values, in an order that depends only on their content."""
        wire: dict[str, Any] = {
            "known_us": self.known_us,
            "exploited_us": dict(sorted(self.exploited_us.items())),
            "statements": {
                source: [one.us, one.snapshot.model_dump(mode="json")]
                for source, one in sorted(self.by_source.items())
            },
        }
        if self.retractions:
            wire["retracted"] = {
                source: list(one) for source, one in sorted(self.retractions.items())
            }
        if self.strikes:
            wire["strikes"] = [one.as_json() for _, one in sorted(self.strikes.items())]
        return wire

    @classmethod
    def from_json(cls, wire: Mapping[str, Any]) -> "Statements":
        """Return the statements that `as_json` wrote.

        Raises ValueError, KeyError, TypeError or AttributeError for other input.
        """
        by_source = {
            source: Statement(us, AdvisorySnapshot.model_validate(snapshot))
            for source, (us, snapshot) in wire["statements"].items()
        }
        retractions = {
            source: Retraction(int(us), bool(is_direct))
            for source, (us, is_direct) in wire.get("retracted", {}).items()
        }
        acts = [StrikeState.from_json(one) for one in wire.get("strikes", ())]
        strikes = {one.scope.key: one for one in acts}
        return cls(by_source, retractions, wire["known_us"], wire["exploited_us"], strikes)


class Refusal(NamedTuple):
    """A statement or a retraction without effect: what it is about, its source, and the reason."""

    identity: AdvisoryId
    source: str
    detail: str


class Effective(NamedTuple):
    """The statements that count: by advisory, then by source; and what has no effect.

    `renewed_us` has, for an advisory (None) or the exploitation of one of its CVEs that is stated
    again after its strike, the time of the strike: what was known before does not count for its
    deadline. The strike of one CVE does not renew the others.
    """

    by_advisory: Mapping[AdvisoryId, Mapping[str, AdvisorySnapshot]]
    implausible: tuple[Refusal, ...]
    held_retractions: tuple[Refusal, ...]
    renewed_us: Mapping[tuple[AdvisoryId, str | None], int]


def identity_of(snapshot: AdvisorySnapshot) -> AdvisoryId:
    """Return the key of the advisory: of its release, or of its CVEs (of the KEV catalogue)."""
    if snapshot.os_version is None:
        return AdvisoryId(f"cve:{','.join(snapshot.exploited_cves)}")
    return advisory_id(snapshot.platform, str(snapshot.os_version))


def effective(known: Mapping[AdvisoryId, Statements]) -> Effective:
    """Return the statements that count, by the module's table."""
    held = {(one.identity, one.source): one for one in _held_retractions(known)}
    live = {
        identity: {
            source: one
            for source, one in statements.unstruck().items()
            if statements.retraction_in_force(source) is None or (identity, source) in held
        }
        for identity, statements in known.items()
    }
    newest, has_trusted = _newest_major(live.values())
    counted: dict[AdvisoryId, Mapping[str, AdvisorySnapshot]] = {}
    implausible: list[Refusal] = []
    for identity, by_source in live.items():
        kept: dict[str, AdvisorySnapshot] = {}
        for source, stated in by_source.items():
            limit = newest if has_trusted and source not in TRUSTED else newest + 1
            why = _implausibility(stated, known[identity].known_us, limit)
            if why is None:
                kept[source] = stated.snapshot
            else:
                implausible.append(Refusal(identity, source, why))
        if kept:
            counted[identity] = kept
    renewed = {
        (identity, cve): us
        for identity, snapshots in counted.items()
        if (acts := known[identity].strikes)
        for cve in (None, *{cve for one in snapshots.values() for cve in one.exploited_cves})
        if (us := struck_until_us(acts.values(), cve))
        and all(
            live[identity][source].us > us
            for source, one in snapshots.items()
            if cve is None or cve in one.exploited_cves
        )
    }
    return Effective(counted, tuple(sorted(implausible)), tuple(sorted(held.values())), renewed)


def authoritative(snapshots: Mapping[str, AdvisorySnapshot]) -> tuple[AdvisorySnapshot, ...]:
    """Return the snapshots of feeds and operators, in the order of TRUSTED; without any, all."""
    found = tuple(snapshots[source] for source in TRUSTED if source in snapshots)
    return found or tuple(snapshots[source] for source in sorted(snapshots))


def _newest_major(live: Iterable[Mapping[str, Statement]]) -> tuple[int, bool]:
    """Return the newest known major version, and True if a trusted source states a release."""
    majors: set[int] = set()
    has_trusted = False
    for by_source in live:
        for source, stated in by_source.items():
            version = stated.snapshot.os_version
            if version is not None and source in TRUSTED:
                has_trusted = True
                if source in FEEDS:
                    majors.add(version.major)
    newest = _NEWEST_MAJOR
    while newest + 1 in majors:
        newest += 1
    return newest, has_trusted


def _implausibility(stated: Statement, known_us: int, limit: int) -> str | None:
    """Return why the statement cannot be true; None if it can. `limit` is the newest major."""
    version = stated.snapshot.os_version
    if version is None:
        return None
    if not _FIRST_MAJOR <= version.major <= limit or version.major in _NEVER_RELEASED:
        return f"no macOS {version.line} is known"
    released = stated.snapshot.released_at
    if released is not None and to_us(released) > max(known_us, stated.us) + _AHEAD_US:
        return f"dated {released:%Y-%m-%d}, in the future"
    return None


def _held_retractions(known: Mapping[AdvisoryId, Statements]) -> list[Refusal]:
    """Return the direct retractions that have no effect, because their source has too many."""
    by_source: dict[str, list[tuple[int, AdvisoryId]]] = {}
    for identity, statements in known.items():
        for source in statements.retractions:
            retraction = statements.retraction_in_force(source)
            if retraction is not None and retraction.is_direct:
                by_source.setdefault(source, []).append((retraction.us, identity))
    held: list[Refusal] = []
    for source, found in by_source.items():
        times = sorted(us for us, _ in found)
        for us, identity in found:
            first = bisect_left(times, us - _WINDOW_US)
            near = bisect_right(times, us + _WINDOW_US) - first
            if near > MAX_RETRACTED:
                held.append(Refusal(identity, source, f"one of {near} retractions in a week"))
    return held
