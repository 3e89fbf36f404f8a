"""One Mac, folded from reports: a register per fact, the newest report of each fact wins.

A register is (event time, value). A newer time wins; at the same time the greater value by its
text wins, so applying events twice or in any order ends in the same state. A report touches only
the registers it knows. Check-ins are maximum registers of their times, and so is when each source
last saw the Mac.

Times are whole microseconds since 1970 (`us`), 0 for never: a Device must stay near 1 KB.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from operator import itemgetter
from typing import Any, Final, Generic, Self, TypeVar, overload

from pipeline.state.days import heard, join
from pipeline.state.models import HardwareClass, hardware_class
from schemas.events.checkin import (
    BootstrapTokenSet,
    DdmStatusReported,
    MdmAuthenticated,
    MdmCheckedOut,
    MdmCommandReported,
    MdmTokenUpdated,
)
from schemas.events.inventory import InventoryReported
from schemas.ids import SERIAL_SUBJECT_PREFIX
from schemas.macos import Build, OSVersion, parse_build, parse_os_version

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)

_FIRST_US: Final = (datetime.min.replace(tzinfo=UTC) - _EPOCH) // _MICROSECOND
_LAST_US: Final = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // _MICROSECOND

# A hook's time is stamped by whichever goroutine ran first: the TokenUpdate that completes an
# Authenticate can carry a slightly earlier time.
CHECKIN_SKEW_US: Final = 60 * 1_000_000

SOURCES: Final = ("mdm", "ddm", "jamf", "osquery", "munki", "executor", "admin", "other")
_SOURCE_INDEX: Final = {name: index for index, name in enumerate(SOURCES)}
_MDM_SOURCES: Final = (_SOURCE_INDEX["mdm"], _SOURCE_INDEX["ddm"])
_OWN_SOURCES: Final = tuple(i for name, i in _SOURCE_INDEX.items() if name != "admin")
_OTHER_SOURCES: Final = tuple(i for i in _OWN_SOURCES if i not in _MDM_SOURCES)
_mdm_times: Final[Callable[[tuple[int, ...]], tuple[int, ...]]] = itemgetter(*_MDM_SOURCES)
_own_times: Final[Callable[[tuple[int, ...]], tuple[int, ...]]] = itemgetter(*_OWN_SOURCES)
_other_times: Final[Callable[[tuple[int, ...]], tuple[int, ...]]] = itemgetter(*_OTHER_SOURCES)

AUTHENTICATED, TOKEN_UPDATED, CHECKED_OUT = 0, 1, 2

FIELDS: Final = (
    "install_state",
    "pending_version",
    "pending_build",
    "failure_count",
    "failure_reason",
    "enrollment_type",
    # What inventory reports say, see _FIRST_REPORTED.
    "serial",
    "os_version",
    "build",
    "model",
    "device_id",
    "enrollment_id",
    "site",
    "apple_silicon",
    "supervised",
    "user_approved",
    "ade_enrolled",
    "bootstrap_token_escrowed",
    "volume_owner_available",
    "firmware",
    "system_volume_sealed",
    "mdm_enrolled",
    "mdm_server",
    "identity_expires_at",
    "loan_returned_at",
    "activations",
    "compliant",
    "hostname",
    # Figures, see FIGURES_FROM.
    "boot_at",
    "filevault",
    "free_disk_gb",
    "battery_percent",
    "on_ac_power",
)
_INDEX: Final = {name: index for index, name in enumerate(FIELDS)}
# Inventory reports know these registers and all after them: they are folded in one step.
_FIRST_REPORTED: Final = _INDEX["serial"]
_said: Final = itemgetter(*FIELDS[_FIRST_REPORTED:])
_STATUS: Final = tuple(
    (index, name) for name, index in _INDEX.items() if name in DdmStatusReported.model_fields
)
_NO_VALUES: Final[tuple[Any, ...]] = (None,) * len(FIELDS)
_NO_STAMPS: Final = (0,) * len(FIELDS)
_NEVER_SEEN: Final = (0,) * len(SOURCES)

# A change of these alone cannot change what a Mac needs, only whether it can be done now or has
# been. They stand last so that the facts before them are compared in one step.
FIGURES_FROM: Final = _INDEX["boot_at"]
# What it is called says nothing of a Mac unless the policy goes by names.
NAME_FROM: Final = _INDEX["hostname"]

# Numbers as `InventoryReported` takes them, but for their upper bounds.
_NUMBERS: Final = re.compile(
    rb'("(?:free_disk_gb|battery_percent)":)((?:0|[1-9][0-9]{0,5})(?:\.[0-9]{1,16})?)(?=[,}])'
)
_NUMBERED: Final = {
    b'"free_disk_gb":': (_INDEX["free_disk_gb"], 1e6),
    b'"battery_percent":': (_INDEX["battery_percent"], 100.0),
}

T = TypeVar("T")


def to_us(moment: datetime) -> int:
    """Whole microseconds since 1970 of an aware time."""
    passed = moment - _EPOCH
    return (passed.days * 86_400 + passed.seconds) * 1_000_000 + passed.microseconds


def duration_us(duration: timedelta) -> int:
    """Whole microseconds of a duration."""
    return (duration.days * 86_400 + duration.seconds) * 1_000_000 + duration.microseconds


def from_us(us: int) -> datetime:
    """The aware UTC time of microseconds since 1970; what no calendar holds becomes its end."""
    return _EPOCH + timedelta(microseconds=min(max(us, _FIRST_US), _LAST_US))


class Register(Generic[T]):
    """Reads one register of a Device by name: its value, or None if no source ever said."""

    __slots__ = ("index",)

    def __init__(self, name: str) -> None:
        self.index = _INDEX[name]

    @overload
    def __get__(self, device: None, owner: type) -> Self: ...
    @overload
    def __get__(self, device: "Device", owner: type) -> T | None: ...
    def __get__(self, device: "Device | None", owner: type) -> "T | Self | None":
        if device is None:
            return self
        value: T | None = device.values[self.index]
        return value


class Device:
    """A Mac's folded state. Immutable: folds return a new Device, or the same one if nothing new
    was said. `values` keeps its identity while only times move on. `inventory_days` are the days on
    which anything but MDM heard of it, as `pipeline.state.days` packs them."""

    __slots__ = ("checkins", "inventory_days", "seen", "stamps", "udid", "values")

    serial = Register[str]("serial")
    os_version = Register[OSVersion]("os_version")
    model = Register[str]("model")
    device_id = Register[str]("device_id")
    hostname = Register[str]("hostname")
    enrollment_id = Register[str]("enrollment_id")
    site = Register[str]("site")
    apple_silicon = Register[bool]("apple_silicon")
    supervised = Register[bool]("supervised")
    user_approved = Register[bool]("user_approved")
    ade_enrolled = Register[bool]("ade_enrolled")
    bootstrap_token_escrowed = Register[bool]("bootstrap_token_escrowed")
    volume_owner_available = Register[bool]("volume_owner_available")
    free_disk_gb = Register[float]("free_disk_gb")
    battery_percent = Register[float]("battery_percent")
    on_ac_power = Register[bool]("on_ac_power")
    filevault = Register[bool]("filevault")
    firmware = Register[str]("firmware")
    system_volume_sealed = Register[bool]("system_volume_sealed")
    mdm_enrolled = Register[bool]("mdm_enrolled")
    mdm_server = Register[str]("mdm_server")
    identity_expires_at = Register[datetime]("identity_expires_at")
    boot_at = Register[datetime]("boot_at")
    loan_returned_at = Register[datetime]("loan_returned_at")
    activations = Register[tuple[str, ...]]("activations")
    compliant = Register[bool]("compliant")
    install_state = Register[str]("install_state")
    pending_version = Register[OSVersion]("pending_version")
    failure_count = Register[int]("failure_count")
    failure_reason = Register[str]("failure_reason")
    enrollment_type = Register[str]("enrollment_type")

    def __init__(
        self,
        udid: str,
        values: tuple[Any, ...] = _NO_VALUES,
        stamps: tuple[int, ...] = _NO_STAMPS,
        seen: tuple[int, ...] = _NEVER_SEEN,
        checkins: tuple[int, int, int] = (0, 0, 0),
        inventory_days: int = 0,
    ) -> None:
        self.udid = udid
        self.values = values
        self.stamps = stamps
        self.seen = seen
        self.checkins = checkins
        self.inventory_days = inventory_days

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Device) and all(
            getattr(self, name) == getattr(other, name) for name in Device.__slots__
        )

    def __hash__(self) -> int:
        return hash((self.udid, self.stamps, self.seen, self.checkins))

    def __repr__(self) -> str:
        return f"Device({self.udid!r}, {self.to_wire()!r})"

    def stamp(self, name: str) -> int:
        """When the fact `name` was last reported, in us; 0 for never."""
        return self.stamps[_INDEX[name]]

    @property
    def build(self) -> Build | None:
        """The build reported with the version, or after it; one from before says nothing."""
        build: Build | None = self.values[_BUILD]
        return build if self.stamps[_BUILD] >= self.stamps[_OS_VERSION] else None

    @property
    def hardware(self) -> HardwareClass:
        """Its hardware class, by model, device id and what it says of itself."""
        return hardware_class(self.model, self.device_id, self.apple_silicon)

    @property
    def is_partial(self) -> bool:
        """Whether only a serial number is known: a record to join, not yet a Mac of its own."""
        return self.udid.startswith(SERIAL_SUBJECT_PREFIX)

    @property
    def last_seen_us(self) -> int:
        """When the Mac itself was last heard of by any source."""
        return max(_own_times(self.seen))

    @property
    def mdm_seen_us(self) -> int:
        """When an MDM server last heard of it."""
        return max(self.checkins[TOKEN_UPDATED], *_mdm_times(self.seen))

    @property
    def inventory_seen_us(self) -> int:
        """When anything but MDM last heard of it."""
        return max(_other_times(self.seen))

    @property
    def is_personal(self) -> bool:
        """Whether it is somebody's own Mac: user enrolment manages an account, not the system."""
        return (self.enrollment_type or "").startswith("User Enrollment")

    @property
    def checked_out(self) -> bool:
        """Whether the last word on its enrolment is that the profile was removed."""
        authenticated, token_updated, checked_out = self.checkins
        return checked_out > max(authenticated, token_updated)

    @property
    def enrolling(self) -> bool:
        """Whether an Authenticate still waits for its TokenUpdate."""
        authenticated, token_updated, checked_out = self.checkins
        return authenticated > max(token_updated + CHECKIN_SKEW_US, checked_out)

    @property
    def enrolled(self) -> bool:
        """Whether MDM can be expected to reach it: enrolled as far as is known, not checked out.

        A Mac whose enrolment is older than our log counts once MDM was seen answering for it.
        """
        if self.checked_out or self.enrolling:
            return False
        if self.mdm_enrolled is False and self.stamp("mdm_enrolled") > self.mdm_seen_us:
            return False
        return self.mdm_seen_us > 0 or self.mdm_enrolled is True

    def enrolled_since(self, us: int) -> bool:
        """Whether a fresh Authenticate and its TokenUpdate came after this time."""
        return self.checkins[AUTHENTICATED] > us and self.checkins[TOKEN_UPDATED] > us

    def to_wire(self) -> dict[str, Any]:
        """The state as JSON values: what is persisted and what decision records carry."""
        values = self.values
        return {
            "udid": self.udid,
            "facts": {
                name: [stamp, value if kind is None or value is None else kind(value)]
                for (name, kind), stamp, value in zip(_WIRE, self.stamps, values, strict=True)
                if stamp
            },
            "seen": {name: us for name, us in zip(SOURCES, self.seen, strict=True) if us},
            "checkins": list(self.checkins),
            "inventory_days": self.inventory_days,
        }

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> "Device":
        """The Device that `to_wire` wrote. Facts of a newer version are dropped."""
        values, stamps = list(_NO_VALUES), list(_NO_STAMPS)
        for name, (stamp, value) in wire["facts"].items():
            index = _INDEX.get(name)
            if index is not None:
                values[index], stamps[index] = _from_wire(name, value), stamp
        seen = tuple(wire["seen"].get(name, 0) for name in SOURCES)
        authenticated, token_updated, checked_out = wire["checkins"]
        return cls(
            wire["udid"],
            tuple(values),
            tuple(stamps),
            seen,
            (authenticated, token_updated, checked_out),
            wire.get("inventory_days", 0),
        )


_BUILD: Final = _INDEX["build"]
_OS_VERSION: Final = _INDEX["os_version"]


def _time_to_wire(moment: datetime) -> str:
    return from_us(to_us(moment)).isoformat()  # equal times, equal bytes


_TO_WIRE: Final[Mapping[str, Callable[[Any], object]]] = {
    "os_version": str,
    "build": str,
    "pending_version": str,
    "pending_build": str,
    "identity_expires_at": _time_to_wire,
    "boot_at": _time_to_wire,
    "loan_returned_at": _time_to_wire,
    "activations": list,
}
_WIRE: Final = tuple((name, _TO_WIRE.get(name)) for name in FIELDS)


def _from_wire(name: str, value: Any) -> Any:
    if name in ("os_version", "pending_version"):
        return parse_os_version(value)
    if name in ("build", "pending_build"):
        return parse_build(value)
    if name in ("identity_expires_at", "boot_at", "loan_returned_at"):
        return datetime.fromisoformat(value)
    return tuple(value) if name == "activations" else value


def _wins(stamp: int, value: object, old_stamp: int, old_value: object) -> bool:
    if stamp != old_stamp:
        return stamp > old_stamp
    return value != old_value and str(value) > str(old_value)


def learn(device: Device, known: Iterable[tuple[int, Any]], us: int, source: int) -> Device:
    """Fold (register index, value) pairs reported at `us` by a source into a Device."""
    values, stamps = device.values, device.stamps
    new_values: list[Any] | None = None
    new_stamps: list[int] | None = None
    for index, value in known:
        old_value, stamp = values[index], stamps[index]
        if us <= stamp and not _wins(us, value, stamp, old_value):
            continue
        if stamp != us:
            if new_stamps is None:
                new_stamps = list(stamps)
            new_stamps[index] = us
        if value != old_value:
            if new_values is None:
                new_values = list(values)
            new_values[index] = value
    fresh = us > device.seen[source]
    days = device.inventory_days
    if source in _OTHER_SOURCES:
        days = heard(days, us)
    unheard = days == device.inventory_days
    if new_values is None and new_stamps is None and not fresh and unheard:
        return device
    seen = device.seen
    if fresh:
        seen = (*seen[:source], us, *seen[source + 1 :])
    return Device(
        device.udid,
        values if new_values is None else tuple(new_values),
        stamps if new_stamps is None else tuple(new_stamps),
        seen,
        device.checkins,
        days,
    )


def known_of(data: InventoryReported) -> tuple[int, ...]:
    """The registers that a report says something of."""
    said = enumerate(_said(data.__dict__), _FIRST_REPORTED)
    return tuple([index for index, value in said if value is not None])


def split_figures(data: bytes) -> tuple[int, list[tuple[bytes, bytes]]]:
    """The hash of a report's JSON without the numbers that move with every report, and these
    numbers by name.

    In JSON text a quote is escaped inside a string, so nothing but a key can look like one; but
    it may be another object's key: `are_figures_of` says whether they are the report's own.
    """
    parts = _NUMBERS.split(data)
    figures = [*zip(parts[1::3], parts[2::3], strict=True)]
    del parts[2::3]
    return hash(tuple(parts)), figures


def are_figures_of(data: InventoryReported, figures: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether these are the report's own figures, each once."""
    told = [(_NUMBERED[name][0], float(number)) for name, number in figures]
    said = _said(data.__dict__)
    own = {key: said[key - _FIRST_REPORTED] for key, _ in _NUMBERED.values()}
    return sorted(told) == sorted((key, it) for key, it in own.items() if it is not None)


def say_again(
    device: Device,
    known: tuple[int, ...],
    figures: Iterable[tuple[bytes, bytes]],
    us: int,
    source: str,
) -> Device | None:
    """The Device after a report that said what it knew came again at a later time with these
    figures: what `apply_inventory` gives then, without looking at the other values. None where it
    takes more than that: for an older report, or figures that are none."""
    which, days = _SOURCE_INDEX[source], device.inventory_days
    seen, values = device.seen, device.values
    if us <= seen[which] or us <= max(device.stamps):
        return None
    changed: list[Any] | None = None
    for name, number in figures:
        key, most = _NUMBERED[name]
        value = float(number)
        if value > most:
            return None
        if value != values[key] or changed is not None:
            changed = list(values) if changed is None else changed
            changed[key] = value
    stamps = list(device.stamps)
    for index in known:
        stamps[index] = us
    return Device(
        device.udid,
        values if changed is None else tuple(changed),
        tuple(stamps),
        (*seen[:which], us, *seen[which + 1 :]),
        device.checkins,
        heard(days, us) if which in _OTHER_SOURCES else days,
    )


def apply_inventory(device: Device, data: InventoryReported, us: int) -> Device:
    """Fold an inventory report.

    The one fold that runs for every report of every Mac: it reads the model's own dict, and a
    report newer than every fact before it, as nearly all are, is folded without asking fact by
    fact. `learn` is the rule, and what the others take.
    """
    said = _said(data.__dict__)
    source = _SOURCE_INDEX[data.source]
    stamps, seen = device.stamps, device.seen
    if us <= max(stamps) or us <= seen[source]:
        known = [(at, it) for at, it in enumerate(said, _FIRST_REPORTED) if it is not None]
        return learn(device, known, us, source)
    values, old = device.values, device.values[_FIRST_REPORTED:]
    new = tuple([was if it is None or it == was else it for it, was in zip(said, old, strict=True)])
    moved = [
        stamp if it is None else us
        for it, stamp in zip(said, stamps[_FIRST_REPORTED:], strict=True)
    ]
    days = device.inventory_days
    return Device(
        device.udid,
        values if new == old else values[:_FIRST_REPORTED] + new,
        stamps[:_FIRST_REPORTED] + tuple(moved),
        (*seen[:source], us, *seen[source + 1 :]),
        device.checkins,
        heard(days, us) if source in _OTHER_SOURCES else days,
    )


def _check_in(device: Device, which: int, us: int) -> Device:
    if us <= device.checkins[which]:
        return device
    checkins = list(device.checkins)
    checkins[which] = us
    authenticated, token_updated, checked_out = checkins
    return Device(
        device.udid,
        device.values,
        device.stamps,
        device.seen,
        (authenticated, token_updated, checked_out),
        device.inventory_days,
    )


def apply_authenticated(device: Device, data: MdmAuthenticated, us: int) -> Device:
    """Fold an Authenticate: an enrolment began, and the Mac said what it is."""
    facts = {
        "serial": data.serial,
        "os_version": data.os_version,
        "build": data.build,
        "model": data.model,
        "hostname": data.hostname,
        "enrollment_id": data.enrollment_id,
        "enrollment_type": data.enrollment_type,
        "mdm_server": data.server,
    }
    device = _learn_named(device, facts, us, "mdm")
    return _check_in(device, AUTHENTICATED, us)


def apply_token_updated(device: Device, data: MdmTokenUpdated, us: int) -> Device:
    """Fold a TokenUpdate: the Mac can be pushed to."""
    facts = {
        "enrollment_id": data.enrollment_id,
        "enrollment_type": data.enrollment_type,
        "mdm_server": data.server,
    }
    return _check_in(_learn_named(device, facts, us, "mdm"), TOKEN_UPDATED, us)


def apply_checked_out(device: Device, data: MdmCheckedOut, us: int) -> Device:
    """Fold a CheckOut: the profile was removed."""
    device = _learn_named(device, {"enrollment_id": data.enrollment_id}, us, "mdm")
    return _check_in(device, CHECKED_OUT, us)


def apply_command_reported(device: Device, data: MdmCommandReported, us: int) -> Device:
    """Fold a poll or an answer: the Mac was there. Results arrive as inventory events."""
    return _learn_named(device, {"enrollment_id": data.enrollment_id}, us, "mdm")


def apply_bootstrap_token(device: Device, data: BootstrapTokenSet, us: int) -> Device:
    """Fold an escrowed or cleared bootstrap token."""
    return _learn_named(device, {"bootstrap_token_escrowed": data.escrowed}, us, "mdm")


def apply_ddm_status(device: Device, data: DdmStatusReported, us: int) -> Device:
    """Fold a declarative status report; items it does not hold are unchanged."""
    said = data.__dict__
    known = [(index, said[name]) for index, name in _STATUS if said[name] is not None]
    return learn(device, known, us, _SOURCE_INDEX["ddm"])


def _learn_named(device: Device, facts: Mapping[str, object], us: int, source: str) -> Device:
    known = [(_INDEX[name], value) for name, value in facts.items() if value is not None]
    return learn(device, known, us, _SOURCE_INDEX[source])


def merge(device: Device, other: Device) -> Device:
    """Join two records of one Mac into the first's identity: register by register."""
    values, stamps = list(device.values), list(device.stamps)
    for index, (stamp, value) in enumerate(zip(other.stamps, other.values, strict=True)):
        if stamp and _wins(stamp, value, stamps[index], values[index]):
            values[index], stamps[index] = value, stamp
    seen = tuple(map(max, device.seen, other.seen))
    authenticated, token_updated, checked_out = map(max, device.checkins, other.checkins)
    return Device(
        device.udid,
        tuple(values),
        tuple(stamps),
        seen,
        (authenticated, token_updated, checked_out),
        join(device.inventory_days, other.inventory_days),
    )
