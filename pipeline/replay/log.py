"""What replay reads: a log's entries in order, and the content that its decisions name.

A store implements LogReader. Nothing here can write, sign or publish (I9).
"""

import hashlib
import json
from collections.abc import Iterator
from datetime import datetime
from typing import Literal, Protocol

from pydantic import ValidationError

from pipeline.decide.policy import Policy
from pipeline.decide.policy_file import PolicyError, policy_digest, read_policy
from pipeline.state.advisories import Advisories
from schemas.decisions import DecisionRecord
from schemas.envelope import Event, InvalidEvent, decode

Kind = Literal["event", "decision"]


class LogEntry(Protocol):
    """One entry of the log."""

    @property
    def seq(self) -> int:
        """Counts from 1 without gaps."""

    @property
    def kind(self) -> Kind:
        """Whether it happened or was decided."""

    @property
    def at(self) -> datetime:
        """The `now` it was handled with."""

    @property
    def source(self) -> str:
        """An event's own source."""

    @property
    def id(self) -> str:
        """An event's own id."""

    @property
    def type(self) -> str:
        """An event's own type."""

    @property
    def key(self) -> str:
        """The Mac's key; of a decision its UDID."""

    @property
    def body(self) -> bytes:
        """`schemas.envelope.encode`'s bytes, or a DecisionRecord as JSON."""


class LogReader(Protocol):
    """A log as it was when it was opened. Times are aware; `since` <= at < `until`."""

    def entries(
        self,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        key: str | None = None,
        kind: Kind | None = None,
    ) -> Iterator[LogEntry]:
        """The entries that match, by `seq`."""

    def blob(self, digest: str) -> bytes | None:
        """A policy's text, or a catalogue as JSON, by the digest that decisions name. Raises
        ValueError where what was kept is damaged."""

    def last_seq(self, until: datetime | None = None) -> int:
        """The highest `seq` before this time; 0 if there is none."""

    def last_at(self) -> datetime | None:
        """The latest time of an entry; None for an empty log."""


class StateReader(Protocol):
    """The folded state that a store keeps beside its log, as it was at the log's end."""

    def devices(self) -> Iterator[tuple[str, bytes]]:
        """Each Mac's key, and its state as `Device.to_wire` JSON."""

    def job_histories(self) -> Iterator[tuple[str, bytes]]:
        """Each Mac's key, and its jobs as a JSON array of `JobEntry.to_wire`."""


class UnreadableLog(ValueError):  # noqa: N818 - says what is wrong, as InvalidEvent does
    """An entry or what it names is not what this version can read."""


# What `from_wire` and `decide` raise on inputs that no version wrote.
UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError)


def read_record(entry: LogEntry) -> DecisionRecord:
    """The decision record of an entry. Raises UnreadableLog."""
    try:
        return DecisionRecord.model_validate_json(entry.body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UnreadableLog(
            f"entry {entry.seq} is no decision record: {first['msg']} at {where or 'its start'}"
        ) from None


def read_event(entry: LogEntry) -> Event:
    """The event of an entry. Raises UnreadableLog."""
    try:
        return decode(entry.body)
    except InvalidEvent as error:
        raise UnreadableLog(f"entry {entry.seq} is no event: {error}") from None


class LogContents:
    """The policies and catalogues that decisions name, each read and checked once."""

    def __init__(self, log: LogReader) -> None:
        self._log = log
        self._policies: dict[str, Policy] = {}
        self._catalogues: dict[str, Advisories] = {}

    def policy(self, digest: str | None) -> Policy:
        """The policy with this digest. Raises UnreadableLog."""
        if digest is None:
            raise UnreadableLog("the decision names no policy")
        found = self._policies.get(digest)
        if found is None:
            found = self._policies[digest] = self._read_policy(digest)
        return found

    def catalogue(self, digest: str) -> Advisories:
        """The advisories with this digest. Raises UnreadableLog."""
        found = self._catalogues.get(digest)
        if found is None:
            found = self._catalogues[digest] = self._read_catalogue(digest)
        return found

    def _read_policy(self, digest: str) -> Policy:
        try:
            text = self._blob(digest).decode()
        except UnicodeDecodeError:
            raise UnreadableLog(f"policy {digest} is not UTF-8 text") from None
        if policy_digest(text) != digest:
            raise UnreadableLog(f"policy {digest} was altered: its digest is {policy_digest(text)}")
        try:
            return read_policy(text)
        except PolicyError as error:
            raise UnreadableLog(f"policy {digest} cannot be used: {error}") from error

    def _read_catalogue(self, digest: str) -> Advisories:
        raw = self._blob(digest)
        try:
            wire = json.loads(raw)
            # By the bytes that were kept and not by the model: a field that a later version adds
            # to an advisory gives the model's own digest another value.
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
        try:
            raw = self._log.blob(digest)
        except ValueError as error:
            raise UnreadableLog(f"what digest {digest} names is damaged: {error}") from error
        if raw is None:
            raise UnreadableLog(f"what digest {digest} names is missing beside the log")
        return raw
