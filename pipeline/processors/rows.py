"""Rows of a changelog: encoding and decoding the state of one partition. Pure.

A row has everything known about one Mac; a later row replaces it. `epoch` counts the owners of the
partition. A row that follows a row with a higher epoch is void: a worker wrote it that did not know
yet that it had lost the partition.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Final, NamedTuple

import msgspec

from pipeline.reconcile.last_decision import LastDecision, shared_codes
from pipeline.reconcile.reconciler import Reconciler
from pipeline.state.compact.device_row import DeviceRow, device_of_row
from pipeline.state.compact.job_row import JobRow, entry_of_row
from schemas.decisions import Reason, Severity, Verdict

# No UDID has a space: `schemas.ids.UdidField`.
EPOCH_KEY: Final = b" epoch"
# The key of that row before release 0.1.0; no row of such a version can be read.
PRE_RELEASE_EPOCH_KEY: Final = b" owner"
# SQLite stores 64 bits.
MAX_EPOCH: Final = 1 << 62


class InvalidRow(ValueError):  # noqa: N818 - as InvalidEvent
    """A row that this version cannot read."""


@dataclass(frozen=True, slots=True)
class EpochRow:
    """The row of the partition: its epoch, and the offsets that its state includes.

    `broadcast_offsets` has, by topic, the offset after the last broadcast record by which all Macs
    of the partition are decided again. `input_offsets` has, by topic of the inputs, the offset
    after the last folded record at the time of the row; a topic is missing until its first record.
    """

    epoch: int = 0
    broadcast_offsets: Mapping[str, int] = field(default_factory=dict)
    input_offsets: Mapping[str, int] = field(default_factory=dict)

    def next_epoch(self, highest: int) -> "EpochRow":
        """Return the row of the next owner; the offsets are the same.

        Its epoch is higher than this one and than `highest`, the highest epoch of any row so far,
        but never over MAX_EPOCH. At that limit the owner's rows are still valid: a row is void only
        after a row with a higher epoch.
        """
        return replace(self, epoch=min(max(self.epoch, highest) + 1, MAX_EPOCH))

    def to_row(self) -> bytes:
        """Return the bytes of the row with the key EPOCH_KEY."""
        return msgspec.json.encode(
            {"e": self.epoch, "broadcast": self.broadcast_offsets, "inputs": self.input_offsets}
        )

    @classmethod
    def decode(cls, raw: bytes | None) -> "EpochRow":
        """Return the decoded row; epoch 0 for None, a partition without an owner so far.

        Raises InvalidRow if the bytes are not a JSON object with an integer `e` and an object
        `broadcast` of integers; `inputs`, another one, may be absent.
        """
        if raw is None:
            return cls()
        try:
            wire = _EPOCH_ROW.decode(raw)
        except msgspec.DecodeError as error:
            raise InvalidRow(f"epoch row: {error}") from error
        return cls(wire.e, wire.broadcast, wire.inputs)


def encode_device(
    reconciler: Reconciler,
    udid: str,
    epoch: int,
    *,
    is_decided: bool = True,
    issued_event: bytes | None = None,
) -> bytes:
    """Return the row of one Mac: its epoch, device, job history and last decision.

    The parts that the reconciler lacks are empty. `is_decided` is False if the Mac has events that
    the last decision does not include; the next owner then decides for it. `issued_event` is the
    JobIssuedEvent of its job that no executor has accepted.
    """
    device = reconciler.fleet.devices.get(udid)
    last_decision = reconciler.last_decisions.get(udid)
    return msgspec.json.encode(
        {
            "e": epoch,
            "device": None if device is None else device.to_wire(),
            "jobs": [entry.to_wire() for entry in reconciler.fleet.job_histories.get(udid, ())],
            "last_decision": None
            if last_decision is None
            else _LastDecisionRow.encode(last_decision),
        }
        | ({} if is_decided else {"pending_decision": True})
        | ({} if issued_event is None else {"issued_event": msgspec.Raw(issued_event)})
    )


class LoadedRow(NamedTuple):
    """The parts of a Mac's row that are not in the reconciler.

    `is_decided` is False if the Mac has events that `last_decision` does not include.
    `issued_event` is the JobIssuedEvent of its job that no executor had accepted.
    """

    last_decision: LastDecision | None
    is_decided: bool
    issued_event: bytes | None


def load_device(reconciler: Reconciler, udid: str, raw: bytes) -> LoadedRow:
    """Load a row's device and job history into the reconciler; return the rest of the row.

    The caller restores the decision after all rows are loaded: a record under a serial number or an
    enrollment id can belong to a Mac in a later row. Raises InvalidRow if the row cannot be
    decoded.
    """
    try:
        row = _ROW.decode(raw)
        if row.device is not None:
            # Interned: the UDID is one object in all tables.
            reconciler.fleet.put(device_of_row(udid, row.device, sys.intern))
        if row.jobs:
            reconciler.fleet.job_histories[udid] = tuple(map(entry_of_row, row.jobs))
        last_decision = row.last_decision
        return LoadedRow(
            None if last_decision is None else last_decision.to_last_decision(),
            not row.pending_decision,
            bytes(row.issued_event) or None,
        )
    except (msgspec.DecodeError, KeyError, TypeError, ValueError) as error:
        raise InvalidRow(f"row of {udid}: {error!r}") from error


def decode_row(raw: bytes) -> Any:
    """Return the JSON object of a row as a dict. Raises InvalidRow if it has no integer `e`."""
    try:
        wire = msgspec.json.decode(raw)
    except msgspec.DecodeError as error:
        raise InvalidRow(f"row is not JSON: {error}") from error
    if not isinstance(wire, dict) or not isinstance(wire.get("e"), int):
        raise InvalidRow("row has no epoch")
    return wire


def check_key(key: bytes) -> None:
    """Raise InvalidRow for a key that only versions before 0.1.0 wrote."""
    if key == PRE_RELEASE_EPOCH_KEY:
        raise InvalidRow(
            "written before release 0.1.0, which reads no older state: delete this topic, then"
            " create it with `drydock topics apply`"
        )


def epoch_of(raw: bytes) -> int:
    """Return the epoch of a row; the rest is not decoded.

    Raises InvalidRow if the row is not a JSON object with an integer `e`.
    """
    try:
        return _EPOCH.decode(raw).e
    except msgspec.DecodeError as error:
        raise InvalidRow(f"row has no epoch: {error}") from error


def epoch_prefix(epoch: int) -> bytes:
    """Return bytes that only rows of this epoch begin with, to test the epoch without decoding.

    Rows of Macs and epoch rows begin with them; rows of jobs do not, and `epoch_of` is needed. A
    row that is invalid after these bytes fails when it is loaded.
    """
    return b'{"e":%d,' % epoch


_EpochNumber = Annotated[int, msgspec.Meta(ge=0, le=MAX_EPOCH)]


class _Epoch(msgspec.Struct):
    e: _EpochNumber


class _EpochWire(_Epoch):
    broadcast: dict[str, int]
    inputs: dict[str, int] = {}


class _LastDecisionRow(msgspec.Struct, array_like=True, gc=False):
    """The wire form of a LastDecision; fields with a default are absent in older rows."""

    fingerprint: str
    verdict: Verdict
    reason: Reason
    recheck_us: int
    site: str | None
    severity: Severity | None
    deadline_us: int
    recheck_on_telemetry: bool = True
    waits_for: int = 0
    findings: tuple[str, ...] = ()

    @classmethod
    def encode(cls, last_decision: LastDecision) -> "_LastDecisionRow":
        return cls(
            last_decision.fingerprint.hex(),
            last_decision.verdict,
            last_decision.reason,
            last_decision.recheck_us,
            last_decision.site,
            last_decision.severity,
            last_decision.deadline_us,
            last_decision.recheck_on_telemetry,
            last_decision.waits_for,
            last_decision.findings,
        )

    def to_last_decision(self) -> LastDecision:
        return LastDecision(
            bytes.fromhex(self.fingerprint),
            self.verdict,
            self.reason,
            self.recheck_us,
            None if self.site is None else sys.intern(self.site),
            self.severity,
            self.deadline_us,
            self.recheck_on_telemetry,
            self.waits_for,
            shared_codes(self.findings),
        )


class _DeviceRow(msgspec.Struct, gc=False):
    """The wire form of a Mac's row; msgspec checks and builds all of it in one step."""

    e: int
    device: DeviceRow | None
    jobs: list[JobRow]
    last_decision: _LastDecisionRow | None
    pending_decision: bool = False
    issued_event: msgspec.Raw = msgspec.Raw()


_EPOCH: Final = msgspec.json.Decoder(_Epoch)
_EPOCH_ROW: Final = msgspec.json.Decoder(_EpochWire)
_ROW: Final = msgspec.json.Decoder(_DeviceRow)
