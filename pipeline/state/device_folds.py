"""Folds of events about a Mac into its state: the newest report of each field wins.

A later time wins; at equal times the greater value by its text wins. So events that are applied
twice or in any order give the same state. A report changes only the fields that it has. The time of
each kind of check-in, and of the last contact of each source, is the maximum of its times.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from operator import itemgetter
from typing import Any, Final

from pipeline.state.compact.seen_days import add_day, days_after, merge_days
from pipeline.state.compact.timestamps import (
    changed_since,
    last_us,
    newest_us,
    pack_timestamps,
    record,
    unpack_timestamps,
)
from pipeline.state.device import (
    AUTHENTICATED,
    CHECKED_OUT,
    CHECKIN,
    EARLIER,
    FIELDS,
    FIRST_OF,
    INDEX,
    SEEN_BY,
    SEEN_BY_OTHERS,
    TOKEN_UPDATED,
    Device,
)
from pipeline.state.earlier_values import add_earlier
from schemas.envelope import (
    AuthenticatedEvent,
    BootstrapTokenEvent,
    CheckedOutEvent,
    CloudEvent,
    CommandReportedEvent,
    DdmStatusEvent,
    InventoryEvent,
    TokenUpdatedEvent,
)
from schemas.events.checkin import (
    BootstrapTokenSet,
    DdmStatusReported,
    MdmAuthenticated,
    MdmCheckedOut,
    MdmCommandReported,
    MdmTokenUpdated,
)
from schemas.events.inventory import InventoryReported
from schemas.macos import OSVersion, version_with_build

_VALUES_OF: Final = {source: itemgetter(*FIELDS[first:]) for source, first in FIRST_OF.items()}
# The MDM channel, executors and operators (`pipeline.trust.senders`).
_CORROBORATING: Final = frozenset({"mdm", "ddm", "jamf", "executor", "admin"})
_SEAL, _FIRMWARE = INDEX["corroborated_seal"], INDEX["corroborated_firmware"]
_HOSTNAME: Final = INDEX["corroborated_hostname"]
_EARLIER_BITS: Final = sum(1 << at for at in EARLIER.values())
_OS_VERSION: Final = INDEX["os_version"]
_STATUS: Final = tuple(name for name in FIELDS if name in DdmStatusReported.model_fields)


def merge_fields(
    device: Device, known: Iterable[tuple[int, Any]], us: int, source_bits: int
) -> Device:
    """Return the Device with a report folded in; the same object if nothing changed.

    `known` has the report's (field index, value) pairs, each index once; None values are skipped.
    `us` is the time of the report; one dated 1970 or earlier is ignored. `source_bits` are the bits
    in `Device.timestamps` of the source and the kind of check-in. A value replaces one that is
    older, or that has the same time and a smaller text.
    """
    if us <= 0:
        return device
    values, timestamps = device.values, device.timestamps
    later, same = (0, 0) if us > newest_us(timestamps) else changed_since(timestamps, us)
    new: list[Any] | None = None
    lost: list[tuple[int, str, int]] = []
    bits = source_bits
    for index, value in known:
        if value is None:
            continue
        bit = 1 << index
        bits |= bit
        old = values[index]
        if value is old or value == old:
            continue
        wins = not (bit & later or (bit & same and str(value) <= str(old)))
        if index in EARLIER and old is not None:
            lost.append((index, old, last_us(timestamps, bit)) if wins else (index, value, us))
        if not wins:
            continue
        new = new or list(values)
        new[index] = value
    new_timestamps, days = record(timestamps, bits, us), device.inventory_days
    if lost:
        kept, new_timestamps = _keep_earlier(new or values, new_timestamps, lost)
        new = kept or new
    if source_bits & SEEN_BY_OTHERS:
        days = add_day(days, us)
    if new is None and new_timestamps is timestamps and days == device.inventory_days:
        return device
    same_report = (device.report_hash, device.report_fields) if new is None else ()
    return Device(device.udid, tuple(new or values), new_timestamps, days, *same_report)


def _keep_earlier(
    values: Sequence[Any], timestamps: bytes, lost: Iterable[tuple[int, str, int]]
) -> tuple[list[Any] | None, bytes]:
    """Return the values and timestamps with these values of fields of EARLIER kept as earlier ones.

    `lost` has, for each value that a newer one replaced, its field's index, the value and its time
    in us. The values are None if they are unchanged.
    """
    new: list[Any] | None = None
    for index, value, us in lost:
        at = EARLIER[index]
        known = (new or values)[at] or ()
        kept = add_earlier(known, (value, us), values[index])
        if kept == known:
            continue
        new = new or list(values)
        new[at] = kept
        timestamps = record(timestamps, 1 << at, kept[0][1])
    return new, timestamps


def apply_inventory(device: Device, data: InventoryReported, us: int) -> Device:
    """Return the Device with an inventory report of time `us` folded in.

    The same object if nothing changed.

    Hot path: it runs for every report of every Mac, so it reads the model's `__dict__`.
    """
    return merge_fields(device, reported_values(data), us, SEEN_BY[data.source])


def reported_values(data: InventoryReported) -> Iterable[tuple[int, Any]]:
    """Return the (field index, value) pairs of a report that count from its source (FIRST_OF).

    The version is None if it does not exist or contradicts the build (`version_with_build`).
    Host name, seal and firmware of a corroborating source are repeated in fields of their own:
    globs of the policy and a reinstall need such a report, and any sender can state them.
    """
    first, values = FIRST_OF[data.source], _VALUES_OF[data.source](data.__dict__)
    stated = data.os_version
    if stated is not None and (version := version_with_build(stated, data.build)) != stated:
        values = [*values]
        values[_OS_VERSION - first] = version
    known = enumerate(values, first)
    if data.source not in _CORROBORATING:
        return known
    repeated = (
        *((_SEAL, data.system_volume_sealed), (_FIRMWARE, data.firmware)),
        (_HOSTNAME, data.hostname),
    )
    return chain(known, repeated)


def apply_authenticated(device: Device, data: MdmAuthenticated, us: int) -> Device:
    """Return the Device with an Authenticate of time `us` folded in.

    An enrollment began, and the Mac reported its properties.
    """
    fields = {
        "serial": data.serial,
        "os_version": _version(data),
        "build": data.build,
        "model": data.model,
        "hostname": data.hostname,
        "corroborated_hostname": data.hostname,
        "enrollment_id": data.enrollment_id,
        "enrollment_type": data.enrollment_type,
        "mdm_server": data.server,
    }
    return _merge_mdm_fields(device, fields, us, CHECKIN[AUTHENTICATED])


def apply_token_updated(device: Device, data: MdmTokenUpdated, us: int) -> Device:
    """Return the Device with a TokenUpdate of time `us` folded in.

    The MDM server can now send push notifications to the Mac.
    """
    fields = {
        "enrollment_id": data.enrollment_id,
        "enrollment_type": data.enrollment_type,
        "mdm_server": data.server,
    }
    return _merge_mdm_fields(device, fields, us, CHECKIN[TOKEN_UPDATED])


def apply_checked_out(device: Device, data: MdmCheckedOut, us: int) -> Device:
    """Return the Device with a CheckOut of time `us` folded in: the MDM profile was removed."""
    fields = {"enrollment_id": data.enrollment_id}
    return _merge_mdm_fields(device, fields, us, CHECKIN[CHECKED_OUT])


def apply_command_reported(device: Device, data: MdmCommandReported, us: int) -> Device:
    """Return the Device with a poll or a command's result of time `us` folded in.

    Only the time of the contact and the enrollment id are recorded. The data of a result arrives
    separately, as an inventory event.
    """
    return _merge_mdm_fields(device, {"enrollment_id": data.enrollment_id}, us)


def apply_bootstrap_token(device: Device, data: BootstrapTokenSet, us: int) -> Device:
    """Return the Device with a bootstrap token, escrowed or cleared at `us`, folded in."""
    return _merge_mdm_fields(device, {"bootstrap_token_escrowed": data.escrowed}, us)


def apply_ddm_status(device: Device, data: DdmStatusReported, us: int) -> Device:
    """Return the Device with a declarative status report of time `us` folded in.

    Absent items are unchanged, in a full report too.
    """
    reported = {**data.__dict__, "os_version": _version(data)}
    return merge_fields(
        device, [(INDEX[name], reported[name]) for name in _STATUS], us, SEEN_BY["ddm"]
    )


def _version(data: DdmStatusReported | MdmAuthenticated) -> OSVersion | None:
    """Return the version of a report, if it exists and agrees with the build."""
    return None if data.os_version is None else version_with_build(data.os_version, data.build)


def _merge_mdm_fields(
    device: Device, fields: Mapping[str, object], us: int, checkin: int = 0
) -> Device:
    """Return the Device with values by field name, reported through MDM at `us`, folded in.

    `checkin` is the bit of the kind of check-in (of CHECKIN); 0 if the contact is no check-in.
    """
    known = [(INDEX[name], value) for name, value in fields.items()]
    return merge_fields(device, known, us, SEEN_BY["mdm"] | checkin)


def forget_until(device: Device, us: int) -> Device:
    """Return the state without the reports and check-ins up to `us`, in us since 1970.

    The same object if it has none. The day of `us` is forgotten as a whole.
    """
    entries = [*unpack_timestamps(device.timestamps)]
    kept = [entry for entry in entries if entry[0] > us]
    days = days_after(device.inventory_days, us)
    if len(kept) == len(entries) and days == device.inventory_days:
        return device
    left, values = 0, list(device.values)
    for _, bits in kept:
        left |= bits
    for at in range(len(values)):
        if not left >> at & 1:
            values[at] = None
    for at in EARLIER.values():
        values[at] = tuple(one for one in values[at] or () if one[1] > us) or None
    return Device(device.udid, tuple(values), pack_timestamps(kept), days)


def merge(device: Device, other: Device) -> Device:
    """Return two records of one Mac as one, with the newer value of each field.

    It has the UDID of `device`, the days of both (`merge_days`), and no hash of a report.
    """
    days = merge_days(device.inventory_days, other.inventory_days)
    for us, bits in unpack_timestamps(other.timestamps):
        present = bits & ~_EARLIER_BITS
        known = [(at, it) for at, it in enumerate(other.values) if present >> at & 1]
        device = merge_fields(device, known, us, present)
    for at, kept_at in EARLIER.items():
        for value, us in other.values[kept_at] or ():
            device = merge_fields(device, [(at, value)], us, 0)
    return Device(device.udid, device.values, device.timestamps, days)


# The change that an event of each type makes; the last argument is the event's time in us.
FOLDS: Final[Mapping[type[CloudEvent], Callable[[Device, Any, int], Device]]] = {
    InventoryEvent: apply_inventory,
    AuthenticatedEvent: apply_authenticated,
    TokenUpdatedEvent: apply_token_updated,
    CheckedOutEvent: apply_checked_out,
    CommandReportedEvent: apply_command_reported,
    BootstrapTokenEvent: apply_bootstrap_token,
    DdmStatusEvent: apply_ddm_status,
}
