"""A partition's state as rows of its changelog, and back. Pure.

A row is the whole of what is known of one Mac: a later row replaces it. `epoch` counts the
owners of the partition: a row of an earlier owner that comes after one of a later owner was
written by a worker that did not know yet that it had lost the partition, and is void.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import msgspec

from pipeline.decide.engine import Engine
from pipeline.decide.standing import Standing
from pipeline.state.device import Device, DeviceRow
from pipeline.state.jobs import JobEntry, JobRow
from schemas.decisions import Reason, Severity, Verdict

# No UDID has a space: `schemas.ids.UdidField`.
OWNER_KEY: Final = b" owner"


class BadRow(ValueError):  # noqa: N818 - as InvalidEvent
    """A row that this version cannot read."""


@dataclass(frozen=True, slots=True)
class Owner:
    """The row of the partition itself: whose it is, and the facts it has answered."""

    epoch: int = 0
    answered: Mapping[str, int] = field(default_factory=dict)

    def next_owner(self) -> "Owner":
        """Who owns the partition after this one."""
        return replace(self, epoch=self.epoch + 1)

    def to_row(self) -> bytes:
        """The row under OWNER_KEY."""
        return msgspec.json.encode({"e": self.epoch, "facts": self.answered})

    @classmethod
    def of(cls, raw: bytes | None) -> "Owner":
        """What `to_row` wrote; None for a partition that nobody has owned. Raises BadRow."""
        if raw is None:
            return cls()
        wire = read(raw)
        return cls(wire["e"], dict(wire["facts"]))


def device_row(engine: Engine, udid: str, epoch: int, *, is_answered: bool = True) -> bytes:
    """The row of one Mac; `is_answered` unless it is still to be looked at after what it told."""
    device = engine.fleet.devices.get(udid)
    standing = engine.standings.get(udid)
    return msgspec.json.encode(
        {
            "e": epoch,
            "device": None if device is None else device.to_wire(),
            "jobs": [entry.to_wire() for entry in engine.fleet.ledgers.get(udid, ())],
            "answer": None if standing is None else _Answer.of(standing),
        }
        | ({} if is_answered else {"unanswered": True})
    )


def load_device(engine: Engine, udid: str, raw: bytes) -> tuple[Standing | None, bool]:
    """Take a Mac's row. Its last answer is given back: it is restored once all rows are there,
    for records of one Mac belong together; and whether it is one to all it told. Raises BadRow."""
    try:
        row = _ROW.decode(raw)
        if row.device is not None:
            # The key is one object wherever it stands.
            engine.fleet.put(Device.of_row(udid, row.device, sys.intern))
        if row.jobs:
            engine.fleet.ledgers[udid] = tuple(map(JobEntry.of_row, row.jobs))
        answer = row.answer
        return None if answer is None else answer.standing(), not row.unanswered
    except (msgspec.DecodeError, KeyError, TypeError, ValueError) as error:
        raise BadRow(f"row of {udid}: {error!r}") from error


def read(raw: bytes) -> Any:
    """The JSON object of a row. Raises BadRow."""
    try:
        wire = msgspec.json.decode(raw)
    except msgspec.DecodeError as error:
        raise BadRow(f"row is not JSON: {error}") from error
    if not isinstance(wire, dict) or not isinstance(wire.get("e"), int):
        raise BadRow("row has no epoch")
    return wire


def epoch_of(raw: bytes) -> int:
    """Under which owner a row was written. Raises BadRow."""
    try:
        return _EPOCH.decode(raw).e
    except msgspec.DecodeError as error:
        raise BadRow(f"row has no epoch: {error}") from error


def head_of(epoch: int) -> bytes:
    """How most rows begin that were written under an owner, and no others: those need not be
    decoded to know that. What else is wrong with such a row is found when it is loaded."""
    return b'{"e":%d,' % epoch


class _Epoch(msgspec.Struct):
    e: int


class _Answer(msgspec.Struct, array_like=True, gc=False):
    """A Standing as it is written; some versions wrote less of it."""

    answer: str
    verdict: Verdict
    reason: Reason
    next_us: int
    site: str | None
    severity: Severity | None
    deadline_us: int
    heeds_figures: bool = True
    waits_for_slot: bool = False

    @classmethod
    def of(cls, standing: Standing) -> "_Answer":
        return cls(standing.answer.hex(), *standing[1:])

    def standing(self) -> Standing:
        return Standing(
            bytes.fromhex(self.answer),
            self.verdict,
            self.reason,
            self.next_us,
            None if self.site is None else sys.intern(self.site),
            self.severity,
            self.deadline_us,
            self.heeds_figures,
            self.waits_for_slot,
        )


class _DeviceRow(msgspec.Struct, gc=False):
    """A Mac's row. All of it that is typed is checked and made in one step as it is decoded."""

    e: int
    device: DeviceRow | None
    jobs: list[JobRow]
    answer: _Answer | None
    unanswered: bool = False


_EPOCH: Final = msgspec.json.Decoder(_Epoch)
_ROW: Final = msgspec.json.Decoder(_DeviceRow)
