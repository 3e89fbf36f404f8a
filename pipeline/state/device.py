"""One Mac as all reports together describe it: its facts, when each was told, and by whom.

What a Mac does not say of itself is read off these: whether it is enrolled, when it was last seen.
Times are whole microseconds since 1970 (`us`), 0 for never. A Device is one of a hundred thousand:
it is a few hundred bytes beside its texts.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from operator import attrgetter
from typing import Any, Final, Generic, Self, TypeVar, overload

import msgspec

from pipeline.state.hardware import HardwareClass, hardware_class
from pipeline.state.timestamps import NEVER, last_us, newest_us, pack_timestamps, unpack_timestamps
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
AUTHENTICATED, TOKEN_UPDATED, CHECKED_OUT = 0, 1, 2

FIELDS: Final = (
    "install_state",
    "pending_version",
    "pending_build",
    "failure_count",
    "failure_reason",
    "enrollment_type",
    # What inventory reports say, see FIRST_REPORTED.
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
INDEX: Final = {name: index for index, name in enumerate(FIELDS)}
# Inventory reports know these registers and all after them: they are folded in one step.
FIRST_REPORTED: Final = INDEX["serial"]
# A change of these alone cannot change what a Mac needs, only whether it can be done now or has
# been. They stand last so that the facts before them are compared in one step.
FIRST_TELEMETRY: Final = INDEX["boot_at"]
# What a report can change that brings no other news: figures, and what is read off the times at
# which a fact was reported or the Mac was seen. Fields and properties of a Device, by name.
TELEMETRY: Final = frozenset(FIELDS[FIRST_TELEMETRY:]) | {
    "build",  # goes by which of version and build was reported last
    "enrolled",
    "inventory_days",
    "inventory_seen_us",
    "last_seen_us",
    "mdm_seen_us",
    "newest_us",
    "reported_us",
    "timestamps",
    "values",
}
# What it is called says nothing of a Mac unless the policy goes by names.
NAME_FROM: Final = INDEX["hostname"]
_NO_VALUES: Final[tuple[Any, ...]] = (None,) * len(FIELDS)

# What stamps are kept of: each fact, each source that heard of the Mac, each kind of check-in. A
# thing is a bit, in this order, which only memory knows: rows name things.
_SOURCES: Final = slice(len(FIELDS), len(FIELDS) + len(SOURCES))
_CHECKINS: Final = slice(_SOURCES.stop, _SOURCES.stop + 3)
SEEN_BY: Final = {name: 1 << index for index, name in enumerate(SOURCES, _SOURCES.start)}
CHECKIN: Final = tuple(1 << index for index in range(_CHECKINS.start, _CHECKINS.stop))
_SEEN_BY_MDM: Final = SEEN_BY["mdm"] | SEEN_BY["ddm"]
_SEEN: Final = sum(SEEN_BY.values()) - SEEN_BY["admin"]
SEEN_BY_OTHERS: Final = _SEEN - _SEEN_BY_MDM
_AUTHENTICATED, _TOKEN_UPDATED, _CHECKED_OUT = CHECKIN
_BUILD: Final = 1 << INDEX["build"]
_OS_VERSION: Final = 1 << INDEX["os_version"]
_MDM_ENROLLED: Final = 1 << INDEX["mdm_enrolled"]

T = TypeVar("T")


def to_us(time: datetime) -> int:
    """Whole microseconds since 1970 of an aware time."""
    passed = time - _EPOCH
    return (passed.days * 86_400 + passed.seconds) * 1_000_000 + passed.microseconds


def duration_us(duration: timedelta) -> int:
    """Whole microseconds of a duration."""
    return (duration.days * 86_400 + duration.seconds) * 1_000_000 + duration.microseconds


# Deadlines and the like are the same for many Macs.
@lru_cache(maxsize=1024)
def from_us(us: int) -> datetime:
    """The aware UTC time of microseconds since 1970; what no calendar holds becomes its end."""
    return _EPOCH + timedelta(microseconds=min(max(us, _FIRST_US), _LAST_US))


class Register(Generic[T]):
    """Reads one register of a Device by name: its value, or None if no source ever said."""

    __slots__ = ("index",)

    def __init__(self, name: str) -> None:
        self.index = INDEX[name]

    @overload
    def __get__(self, device: None, owner: type) -> Self: ...
    @overload
    def __get__(self, device: "Device", owner: type) -> T | None: ...
    def __get__(self, device: "Device | None", owner: type) -> "T | Self | None":
        if device is None:
            return self
        value: T | None = device.values[self.index]
        return value


class Device(msgspec.Struct, frozen=True, eq=False, gc=False):
    """A Mac's folded state. Immutable: folds return a new Device, or the same one if nothing new
    was said. `values` are the facts, in the order of FIELDS, and keep their identity while only
    times move on. `timestamps` hold when each was last reported, and the Mac seen
    (`pipeline.state.timestamps`). `inventory_days` are the days on which a source other than MDM
    reported it (`pipeline.state.seen_days`).

    `report_hash` and `report_fields` identify the newest report, so that a repeat of it is
    recognised while `values` are the same object (`pipeline.state.duplicates`); `report_fields` is
    0 where there is none. They are never stored, and Macs that differ in nothing else are equal.
    """

    udid: str
    values: tuple[Any, ...] = _NO_VALUES
    timestamps: bytes = NEVER
    inventory_days: int = 0
    report_hash: int = 0
    report_fields: int = 0

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

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Device) and _COMPARED(self) == _COMPARED(other)

    def __ne__(self, other: object) -> bool:  # msgspec's own compares by identity
        return not self == other

    def __hash__(self) -> int:
        return hash((self.udid, self.timestamps))

    def __repr__(self) -> str:
        return f"Device({self.udid!r}, {self.to_wire()!r})"

    def reported_us(self, name: str) -> int:
        """When the fact `name` was last reported, in us; 0 for never."""
        return last_us(self.timestamps, 1 << INDEX[name])

    @property
    def build(self) -> Build | None:
        """The build reported with the version, or after it; one from before says nothing."""
        for _, bits in unpack_timestamps(self.timestamps):
            if bits & (_BUILD | _OS_VERSION):
                build: Build | None = self.values[INDEX["build"]]
                return build if bits & _BUILD else None
        return None

    @property
    def hardware(self) -> HardwareClass:
        """Its hardware class, by model, device id and what it says of itself."""
        return hardware_class(self.model, self.device_id, self.apple_silicon)

    @property
    def is_partial(self) -> bool:
        """Whether only a serial number is known: a record to join, not yet a Mac of its own."""
        return self.udid.startswith(SERIAL_SUBJECT_PREFIX)

    @property
    def newest_us(self) -> int:
        """The newest moment of which anything is known of it."""
        return newest_us(self.timestamps)

    @property
    def last_seen_us(self) -> int:
        """When the Mac itself was last heard of by any source."""
        return last_us(self.timestamps, _SEEN)

    @property
    def mdm_seen_us(self) -> int:
        """When an MDM server last heard of it."""
        return last_us(self.timestamps, _SEEN_BY_MDM | _TOKEN_UPDATED)

    @property
    def inventory_seen_us(self) -> int:
        """When anything but MDM last heard of it."""
        return last_us(self.timestamps, SEEN_BY_OTHERS)

    @property
    def checkins(self) -> tuple[int, int, int]:
        """When it last sent an Authenticate, a TokenUpdate and a CheckOut."""
        authenticated, token_updated, checked_out = CHECKIN
        return (
            last_us(self.timestamps, authenticated),
            last_us(self.timestamps, token_updated),
            last_us(self.timestamps, checked_out),
        )

    @property
    def is_personal(self) -> bool:
        """Whether it is somebody's own Mac: user enrolment manages an account, not the system."""
        return (self.enrollment_type or "").startswith("User Enrollment")

    @property
    def checked_out(self) -> bool:
        """Whether the last word on its enrolment is that the profile was removed."""
        out_us = last_us(self.timestamps, _CHECKED_OUT)
        return out_us > last_us(self.timestamps, _AUTHENTICATED | _TOKEN_UPDATED)

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
        if self.mdm_enrolled is False and (
            last_us(self.timestamps, _MDM_ENROLLED) > self.mdm_seen_us
        ):
            return False
        return self.mdm_seen_us > 0 or self.mdm_enrolled is True

    def enrolled_since(self, us: int) -> bool:
        """Whether a fresh Authenticate and its TokenUpdate came after this time."""
        return self.checkins[AUTHENTICATED] > us and self.checkins[TOKEN_UPDATED] > us

    def to_wire(self) -> dict[str, Any]:
        """The state as JSON values: what is persisted and what decision records carry."""
        times = [0] * _CHECKINS.stop
        for at, bits in unpack_timestamps(self.timestamps):
            for bit in _bits(bits):
                times[bit] = at
        return {
            "udid": self.udid,
            "facts": {
                name: [us, value if kind is None or value is None else kind(value)]
                for (name, kind), us, value in zip(_WIRE, times, self.values, strict=False)
                if us
            },
            "seen": {name: us for name, us in zip(SOURCES, times[_SOURCES], strict=True) if us},
            "checkins": times[_CHECKINS],
            "inventory_days": self.inventory_days,
        }

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> "Device":
        """The Device that `to_wire` wrote. What only a newer version knows is dropped. ValueError,
        KeyError or TypeError for what no version wrote."""
        try:
            row = msgspec.convert(wire, DeviceRow)
        except msgspec.ValidationError as error:
            raise ValueError(str(error)) from error
        return cls.of_row(wire["udid"], row)

    @classmethod
    def of_row(cls, udid: str, row: "DeviceRow", share: Callable[[str], str] = str) -> "Device":
        """The same of a row already decoded; `share` may give another object for a text that many
        Macs say. ValueError for what no version wrote."""
        values: list[Any] = []
        bits_by_us: dict[int, int] = {}
        push, get, last, bits = values.append, bits_by_us.get, 0, 0
        for given, bit in zip(_astuple(row.facts), _FACTS, strict=False):
            if given is None:
                push(None)
                continue
            us, value = given
            push(value)
            if us != last:  # mostly all were told at once
                bits_by_us[last] = get(last, 0) | bits
                last, bits = us, 0
            bits |= bit
        bits_by_us[last] = get(last, 0) | bits
        for at, read in _FROM_WIRE:
            value = values[at]
            if value is not None:
                values[at] = read(value)
        for at in _SHARED_TEXTS:
            value = values[at]
            if isinstance(value, str):
                values[at] = share(value)
        for us, bit in zip(_astuple(row.seen) + row.checkins, _SEEN_AND_CHECKINS, strict=False):
            if us:
                bits_by_us[us] = get(us, 0) | bit
        timestamps = pack_timestamps([one for one in bits_by_us.items() if one[0] > 0 and one[1]])
        return cls(udid, tuple(values), timestamps, row.inventory_days)


_Facts = msgspec.defstruct(
    "_Facts", [(name, tuple[int, Any] | None, None) for name in FIELDS], gc=False
)
_Seen = msgspec.defstruct("_Seen", [(name, int, 0) for name in SOURCES], gc=False)


class DeviceRow(msgspec.Struct, gc=False):
    """What `Device.to_wire` writes, to be decoded into: a million are read before a worker begins,
    and one dictionary for each, and one for its facts, would be most of the time it takes."""

    facts: _Facts  # type: ignore[valid-type]
    seen: _Seen  # type: ignore[valid-type]
    checkins: tuple[int, int, int]
    inventory_days: int = 0


_astuple: Final[Callable[[Any], tuple[Any, ...]]] = msgspec.structs.astuple


_COMPARED: Final = attrgetter("udid", "values", "timestamps", "inventory_days")


@lru_cache(maxsize=4096)
def _bits(bits: int) -> tuple[int, ...]:
    return tuple(at for at in range(bits.bit_length()) if bits >> at & 1)


def _time_to_wire(time: datetime) -> str:
    return from_us(to_us(time)).isoformat()  # equal times, equal bytes


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


_FACTS: Final = tuple(1 << index for index in range(len(FIELDS)))
_SEEN_AND_CHECKINS: Final = (*SEEN_BY.values(), *CHECKIN)
_FROM_WIRE: Final[tuple[tuple[int, Callable[[Any], object]], ...]] = (
    (INDEX["os_version"], parse_os_version),
    (INDEX["build"], parse_build),
    (INDEX["pending_version"], parse_os_version),
    (INDEX["pending_build"], parse_build),
    (INDEX["identity_expires_at"], datetime.fromisoformat),
    (INDEX["boot_at"], datetime.fromisoformat),
    (INDEX["loan_returned_at"], datetime.fromisoformat),
    (INDEX["activations"], tuple),
)
# Decoded, every text is an object of its own; these are worth to be one for all.
_SHARED_TEXTS: Final = tuple(
    INDEX[name]
    for name in (
        *("model", "device_id", "site", "firmware"),
        *("mdm_server", "enrollment_type", "install_state"),
    )
)
