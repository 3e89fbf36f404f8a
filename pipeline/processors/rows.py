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
from pipeline.state.device import Device
from pipeline.state.jobs import JobEntry
from schemas.decisions import Reason, Severity, Verdict

# No UDID has a space: `schemas.ids.UdidField`.
OWNER_KEY: Final = b" owner"
_SAID_BY_MANY: Final = frozenset(
    {"model", "device_id", "site", "firmware", "mdm_server", "enrollment_type", "install_state"}
)


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
            "answer": None if standing is None else _answer(standing),
        }
        | ({} if is_answered else {"unanswered": True})
    )


def load_device(engine: Engine, udid: str, raw: bytes) -> tuple[Standing | None, bool]:
    """Take a Mac's row. Its last answer is given back: it is restored once all rows are there,
    for records of one Mac belong together; and whether it is one to all it told. Raises BadRow."""
    wire = read(raw)
    try:
        if wire["device"] is not None:
            engine.fleet.put(Device.from_wire(_shared(wire["device"], udid)))
        if wire["jobs"]:
            engine.fleet.ledgers[udid] = tuple(JobEntry.from_wire(one) for one in wire["jobs"])
        answer = wire["answer"]
        return None if answer is None else _standing(answer), "unanswered" not in wire
    except (KeyError, TypeError, ValueError) as error:
        raise BadRow(f"row of {udid}: {error!r}") from error


def _shared(device: dict[str, Any], udid: str) -> dict[str, Any]:
    """The same, with texts that many Macs say as one object each: decoded, every one is an object
    of its own."""
    for name, fact in device["facts"].items():
        us, value = fact
        if name in _SAID_BY_MANY and isinstance(value, str):
            device["facts"][name] = us, sys.intern(value)
    return device | {"udid": udid}


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


class _Epoch(msgspec.Struct):
    e: int


_EPOCH: Final = msgspec.json.Decoder(_Epoch)


def _answer(standing: Standing) -> list[Any]:
    return [
        standing.answer.hex(),
        standing.verdict,
        standing.reason,
        standing.next_us,
        standing.site,
        standing.severity,
        standing.deadline_us,
        standing.heeds_figures,
        standing.waits_for_slot,
    ]


def _standing(wire: list[Any]) -> Standing:
    answer, verdict, reason, next_us, site, severity, *rest = wire
    return Standing(
        bytes.fromhex(answer),
        Verdict(verdict),
        Reason(reason),
        next_us,
        None if site is None else sys.intern(site),
        None if severity is None else Severity(severity),
        *rest,
    )
