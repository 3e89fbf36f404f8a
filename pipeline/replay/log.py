"""The log as replay reads it: its entries in order, and the policies and catalogues they name.

A store implements LogReader. Nothing here can write, sign or publish.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Literal, Protocol

from pydantic import ValidationError

from pipeline.policy.file import PolicyDocument, PolicyError, policy_digest, read_document
from pipeline.policy.model import Policy
from pipeline.state.advisories import Advisories
from pipeline.state.fleet import Fleet
from pipeline.state.fleet_snapshot import decode_fleet, snapshot_digest
from schemas.decisions import DecisionRecord
from schemas.envelope import Event, InvalidEvent, decode

Kind = Literal["event", "decision"]


class LogEntry(Protocol):
    """One entry of the log."""

    @property
    def seq(self) -> int:
        """The position in the log: counts from 1, without gaps after the log's start."""

    @property
    def kind(self) -> Kind:
        """The kind of entry: an event or a decision."""

    @property
    def at(self) -> datetime:
        """The `now` with which the entry was handled."""

    @property
    def source(self) -> str:
        """The event's source; empty for a decision."""

    @property
    def id(self) -> str:
        """The event's id; empty for a decision."""

    @property
    def type(self) -> str:
        """The event's type; `decision` for a decision."""

    @property
    def key(self) -> str:
        """The Mac's key; for a decision its UDID."""

    @property
    def body(self) -> bytes:
        """The bytes of `schemas.envelope.encode`, or a DecisionRecord as JSON."""


class Snapshot(Protocol):
    """A stored state with the effects of all entries up to `seq`."""

    @property
    def seq(self) -> int:
        """The last entry that has an effect on the state."""

    @property
    def at(self) -> datetime:
        """The time of the snapshot."""

    @property
    def digest(self) -> str:
        """The SHA-256 of the state's JSON."""


class LogReader(Protocol):
    """A log in its state at the time it was opened.

    Times are aware; a period is `since` <= at < `until`.
    """

    def entries(
        self,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        key: str | None = None,
        kind: Kind | None = None,
        after: int = 0,
    ) -> Iterator[LogEntry]:
        """Yield the entries that match every given condition, in order of `seq`.

        `after` is the highest `seq` that is left out.
        """

    def start_seq(self) -> int:
        """Return the `seq` of the snapshot after which the log is complete; 0 for a whole log."""

    def snapshots(self) -> Sequence[Snapshot]:
        """Return the snapshots in order of `seq`; that of `start_seq` is the first."""

    def snapshot(self, seq: int, /) -> bytes | None:
        """Return the state at a snapshot, as `pipeline.state.fleet_snapshot` encodes it, or None.

        Raises ValueError if the stored bytes are damaged.
        """

    def key_of_name(self, name: str, kind: Kind) -> str | None:
        """Return the key of the last Mac that had this serial number or enrollment id, or None.

        `kind` selects the names in decisions about Macs with a UDID, or those in events. Serial
        numbers are compared without case.
        """

    def blob(self, digest: str) -> bytes | None:
        """Return a policy's text or a catalogue's JSON by its digest; None if it is missing.

        Raises ValueError if the stored content is damaged.
        """

    def last_seq(self, until: datetime | None = None) -> int:
        """Return the highest `seq` of the entries before `until`, or of all; 0 if there is none."""

    def last_at(self) -> datetime | None:
        """Return the latest time of an entry; None for an empty log."""


class StateReader(Protocol):
    """The folded state that a store keeps beside its log, at the end of the log."""

    def devices(self) -> Iterator[tuple[str, bytes]]:
        """Yield each Mac's key and its state as JSON of `Device.to_wire`."""

    def job_histories(self) -> Iterator[tuple[str, bytes]]:
        """Yield each Mac's key and its jobs as a JSON array of `JobEntry.to_wire`."""


class UnreadableLog(ValueError):  # noqa: N818 - named for its cause, as InvalidEvent is
    """An entry, or the content that it names, cannot be read by this version."""


# Errors that `from_wire` and `decide` raise for inputs that no version of Drydock wrote.
UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError)


def read_record(entry: LogEntry) -> DecisionRecord:
    """Return the decision record of an entry. Raises UnreadableLog if its body is not one."""
    try:
        return DecisionRecord.model_validate_json(entry.body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UnreadableLog(
            f"entry {entry.seq} is not a decision record: {first['msg']} at {where or 'its start'}"
        ) from None


def read_event(entry: LogEntry) -> Event:
    """Return the event of an entry. Raises UnreadableLog if its body is not a valid event."""
    try:
        return decode(entry.body)
    except InvalidEvent as error:
        raise UnreadableLog(f"entry {entry.seq} is not an event: {error}") from None


def read_start(log: LogReader) -> Fleet:
    """Return the state at the log's start: that of its first snapshot, or an empty one.

    Raises UnreadableLog if the snapshot is missing, damaged, altered or cannot be read.
    """
    seq = log.start_seq()
    if not seq:
        return Fleet()
    try:
        raw = log.snapshot(seq)
        recorded = {one.seq: one.digest for one in log.snapshots()}.get(seq)
        if raw is None or recorded is None:
            raise UnreadableLog(f"the snapshot at entry {seq}, where the log begins, is missing")
        if snapshot_digest(raw) != recorded:
            raise UnreadableLog(f"the snapshot at entry {seq}, where the log begins, was altered")
        return decode_fleet(raw)
    except UnreadableLog:
        raise
    except UNREADABLE as error:
        raise UnreadableLog(f"the snapshot at entry {seq} cannot be read: {error}") from error


class LogContents:
    """The policies and catalogues that decisions name, each read and checked once."""

    def __init__(self, log: LogReader) -> None:
        self._log = log
        self._policies: dict[str, Policy] = {}
        self._catalogues: dict[str, Advisories] = {}

    def policy(self, digest: str | None) -> Policy:
        """Return the policy with this digest.

        Raises UnreadableLog if the digest is None, or the policy is missing, damaged, altered or
        invalid.
        """
        if digest is None:
            raise UnreadableLog("the decision names no policy")
        found = self._policies.get(digest)
        if found is None:
            found = self._policies[digest] = self.policy_document(digest).policy
        return found

    def catalogue(self, digest: str) -> Advisories:
        """Return the advisories with this digest.

        Raises UnreadableLog if the catalogue is missing, damaged, altered or cannot be read.
        """
        found = self._catalogues.get(digest)
        if found is None:
            found = self._catalogues[digest] = self._read_catalogue(digest)
        return found

    def policy_document(self, digest: str) -> PolicyDocument:
        """Return the policy with this digest, and the location of its values.

        Raises UnreadableLog if it is missing, damaged, altered or invalid.
        """
        try:
            text = self._blob(digest).decode()
        except UnicodeDecodeError:
            raise UnreadableLog(f"policy {digest} is not UTF-8 text") from None
        if policy_digest(text) != digest:
            raise UnreadableLog(f"policy {digest} was altered: its digest is {policy_digest(text)}")
        try:
            return read_document(text)
        except PolicyError as error:
            raise UnreadableLog(f"policy {digest} cannot be used: {error}") from error

    def _read_catalogue(self, digest: str) -> Advisories:
        raw = self._blob(digest)
        try:
            wire = json.loads(raw)
            # Digest of the stored JSON, not of the model: a later version may add a field to
            # advisories, which changes the digest of the model.
            text = json.dumps(wire, sort_keys=True, separators=(",", ":"))
            actual = hashlib.sha256(text.encode()).hexdigest()
            if actual != digest:
                raise UnreadableLog(f"catalogue {digest} was altered: its digest is {actual}")
            return Advisories.from_wire(wire)
        except UnreadableLog:
            raise
        except UNREADABLE as error:
            raise UnreadableLog(f"catalogue {digest} cannot be read: {error}") from error

    def _blob(self, digest: str) -> bytes:
        """Return the stored bytes with this digest.

        Raises UnreadableLog if they are missing or damaged; the digest is not compared.
        """
        try:
            raw = self._log.blob(digest)
        except ValueError as error:
            raise UnreadableLog(f"the content with digest {digest} is damaged: {error}") from error
        if raw is None:
            raise UnreadableLog(f"the content with digest {digest} is missing in the log's store")
        return raw
