"""The folded state of one Mac: the newest value of each field, and the time of its report.

Properties derive the rest from these: enrollment, last contact. Times are whole microseconds since
1970 (`us`), 0 for never. A process holds a hundred thousand Devices or more, so the layout is
compact: a few hundred bytes each, besides texts.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from operator import attrgetter
from typing import Any, Final, Generic, NamedTuple, Self, TypeVar, get_args, overload

import msgspec

from pipeline.state.compact.timestamps import (
    NEVER,
    changed_since,
    last_us,
    newest_us,
    pack_timestamps,
    unpack_timestamps,
)
from pipeline.state.earlier_values import EarlierValues
from pipeline.state.hardware import HardwareClass, hardware_class
from pipeline.state.wire_values import FROM_WIRE, TO_WIRE
from schemas.events.inventory import InventorySource, Ownership
from schemas.ids import SERIAL_SUBJECT_PREFIX
from schemas.macos import Build, OSVersion

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)

_FIRST_US: Final = (datetime.min.replace(tzinfo=UTC) - _EPOCH) // _MICROSECOND
_LAST_US: Final = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // _MICROSECOND

# MDM servers in Go set the times of webhooks in concurrent goroutines: the TokenUpdate that
# completes an Authenticate can have a slightly earlier time.
CHECKIN_SKEW_US: Final = 60 * 1_000_000
# A report can be late, and clocks differ: one that is this much later than a check-in describes the
# enrollment after it.
_LATER_STATE_US: Final = 60 * 60 * 1_000_000

SOURCES: Final[tuple[str, ...]] = get_args(InventorySource)
AUTHENTICATED, TOKEN_UPDATED, CHECKED_OUT = 0, 1, 2

FIELDS: Final = (
    # Before all other fields: see BESIDE_NAMES.
    "earlier_hostnames",
    "earlier_corroborated_hostnames",
    "corroborated_hostname",
    "install_state",
    "pending_version",
    "pending_build",
    "failure_count",
    "failure_reason",
    "enrollment_type",
    "earlier_serials",
    # The newest values that a corroborating source reported (`device_folds.reported_values`).
    "corroborated_seal",
    "corroborated_firmware",
    # Fields of inventory reports. The first of them count from some sources only, see FIRST_OF.
    "ownership",
    "never_erase",
    "retired",
    "enrollment_id",
    "serial",
    "os_version",
    "build",
    "model",
    "device_id",
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
    "profiles",
    "compliant",
    "hostname",
    # Telemetry, see FIRST_TELEMETRY.
    "boot_at",
    "filevault",
    "free_disk_gb",
    "battery_percent",
    "on_ac_power",
)
INDEX: Final = {name: index for index, name in enumerate(FIELDS)}
# The inventory reports of a source have this field and all after it, so one slice covers them. The
# fields before "serial" count from some sources only: people state the owner of a Mac, and only
# the MDM server knows the enrollment id that it assigned.
_FIRST_OF_SOME: Final = {"admin": "ownership", "mdm": "enrollment_id", "ddm": "enrollment_id"}
FIRST_OF: Final = {source: INDEX[_FIRST_OF_SOME.get(source, "serial")] for source in SOURCES}
# A change of only these fields cannot change the action that a Mac needs; it can change gates, or
# show that a job is done. They are last, so that one slice compares all fields before them.
FIRST_TELEMETRY: Final = INDEX["boot_at"]
# The fields and properties of a Device that a report can change although no other field changes:
# telemetry, and all that is derived from the times of reports and contacts.
CHANGED_BY_EVERY_REPORT: Final = frozenset(FIELDS[FIRST_TELEMETRY:]) | {
    "build",  # depends on the newer of the report times of version and build
    "checked_out",
    "enrolled",
    "enrolling",
    "fields_since",
    "inventory_days",
    "inventory_seen_us",
    "is_known_to_mdm",
    "last_seen_us",
    "mdm_seen_us",
    "newest_us",
    "reported_us",
    "timestamps",
    "values",
}
# A change of the host name alone matters only to a policy that matches host names. All fields but
# the present and the earlier host names, and telemetry:
BESIDE_NAMES: Final = slice(INDEX["corroborated_hostname"] + 1, INDEX["hostname"])
# The fields of which earlier values are kept, and the field that has them.
EARLIER: Final = {
    INDEX[name]: INDEX[f"earlier_{name}s"]
    for name in ("hostname", "serial", "corroborated_hostname")
}
_NO_VALUES: Final[tuple[Any, ...]] = (None,) * len(FIELDS)

# `Device.timestamps` has one bit for each field, each source and each kind of check-in, in this
# order. The order exists only in memory and can change: stored rows use names.
_SOURCES: Final = slice(len(FIELDS), len(FIELDS) + len(SOURCES))
_CHECKINS: Final = slice(_SOURCES.stop, _SOURCES.stop + 3)
SEEN_BY: Final = {name: 1 << index for index, name in enumerate(SOURCES, _SOURCES.start)}
CHECKIN: Final = tuple(1 << index for index in range(_CHECKINS.start, _CHECKINS.stop))
_SEEN_BY_MDM: Final = SEEN_BY["mdm"] | SEEN_BY["ddm"]
_ALL_SOURCES: Final = sum(SEEN_BY.values())
_SEEN: Final = _ALL_SOURCES - SEEN_BY["admin"]
SEEN_BY_OTHERS: Final = _SEEN - _SEEN_BY_MDM
# Only senders of the MDM channel report as these, and submit check-ins (`pipeline.trust.senders`).
_MDM_CHANNEL: Final = _SEEN_BY_MDM | SEEN_BY["jamf"] | sum(CHECKIN)
_AUTHENTICATED, _TOKEN_UPDATED, _CHECKED_OUT = CHECKIN
_BUILD: Final = 1 << INDEX["build"]
_OS_VERSION: Final = 1 << INDEX["os_version"]
_MDM_ENROLLED: Final = 1 << INDEX["mdm_enrolled"]

T = TypeVar("T")


def to_us(time: datetime) -> int:
    """Return an aware time as whole microseconds since 1970."""
    passed = time - _EPOCH
    return (passed.days * 86_400 + passed.seconds) * 1_000_000 + passed.microseconds


def duration_us(duration: timedelta) -> int:
    """Return a duration in whole microseconds."""
    return (duration.days * 86_400 + duration.seconds) * 1_000_000 + duration.microseconds


# Cached: many Macs share their deadlines.
@lru_cache(maxsize=1024)
def from_us(us: int) -> datetime:
    """Return the aware UTC time of microseconds since 1970.

    Times outside the years 1 to 9999 give the first or last time that `datetime` can hold.
    """
    return _EPOCH + timedelta(microseconds=min(max(us, _FIRST_US), _LAST_US))


class Register(Generic[T]):
    """Descriptor of one field of a Device: its newest value, or None if no source reported it."""

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
    """The folded state of one Mac. Immutable; a fold without a change returns the same object.

    - `values`: one value for each name in FIELDS; the same tuple object while only times change
    - `timestamps`: the newest report time of each field, source and kind of check-in
      (`pipeline.state.compact.timestamps`)
    - `inventory_days`: the last days on which a source other than MDM, DDM and `admin` reported the
      Mac (`pipeline.state.compact.seen_days`)
    - `report_hash`, `report_fields`: identify the newest report, to recognise a repeat of it
      (`pipeline.state.compact.duplicates`); `report_fields` is 0 if there is none. They are not
      stored, and are ignored by `==`.
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
    corroborated_seal = Register[bool]("corroborated_seal")
    corroborated_firmware = Register[str]("corroborated_firmware")
    mdm_enrolled = Register[bool]("mdm_enrolled")
    mdm_server = Register[str]("mdm_server")
    identity_expires_at = Register[datetime]("identity_expires_at")
    boot_at = Register[datetime]("boot_at")
    loan_returned_at = Register[datetime]("loan_returned_at")
    activations = Register[tuple[str, ...]]("activations")
    profiles = Register[tuple[str, ...]]("profiles")
    compliant = Register[bool]("compliant")
    install_state = Register[str]("install_state")
    pending_version = Register[OSVersion]("pending_version")
    failure_count = Register[int]("failure_count")
    failure_reason = Register[str]("failure_reason")
    enrollment_type = Register[str]("enrollment_type")
    ownership = Register[Ownership]("ownership")
    never_erase = Register[bool]("never_erase")
    retired = Register[bool]("retired")
    earlier_hostnames = Register[EarlierValues]("earlier_hostnames")
    corroborated_hostname = Register[str]("corroborated_hostname")
    earlier_corroborated_hostnames = Register[EarlierValues]("earlier_corroborated_hostnames")
    earlier_serials = Register[EarlierValues]("earlier_serials")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Device) and _COMPARED(self) == _COMPARED(other)

    def __ne__(self, other: object) -> bool:  # msgspec's own compares by identity
        return not self == other

    def __hash__(self) -> int:
        return hash((self.udid, self.timestamps))

    def __repr__(self) -> str:
        return f"Device({self.udid!r}, {self.to_wire()!r})"

    def reported_us(self, name: str) -> int:
        """Return the time, in us, of the newest report of a field in FIELDS; 0 for never."""
        return last_us(self.timestamps, 1 << INDEX[name])

    def fields_since(self, us: int) -> int:
        """Return the fields reported at `us` or later, as bits by their index in FIELDS."""
        later, same = changed_since(self.timestamps, us)
        return later | same

    @property
    def build(self) -> Build | None:
        """The build, if it was reported with the OS version or later; else None.

        A build that is older than the newest report of the OS version is obsolete.
        """
        for _, bits in unpack_timestamps(self.timestamps):
            if bits & (_BUILD | _OS_VERSION):
                build: Build | None = self.values[INDEX["build"]]
                return build if bits & _BUILD else None
        return None

    @property
    def hardware(self) -> HardwareClass:
        """The hardware class, from model, device id and `apple_silicon`; UNKNOWN if unclear."""
        return hardware_class(self.model, self.device_id, self.apple_silicon)

    @property
    def is_partial(self) -> bool:
        """True if the UDID is unknown: a record under a serial number, to be joined to its Mac."""
        return self.udid.startswith(SERIAL_SUBJECT_PREFIX)

    @property
    def newest_us(self) -> int:
        """The time of the newest report or check-in, in us; 0 if there is none."""
        return newest_us(self.timestamps)

    @property
    def last_seen_us(self) -> int:
        """The time of the Mac's last contact with any source but `admin`, in us; 0 for never."""
        return _contacts_of(self.timestamps).seen_us

    @property
    def mdm_seen_us(self) -> int:
        """The time of the Mac's last report or check-in through MDM or DDM, in us; 0 for never."""
        return _contacts_of(self.timestamps).mdm_us

    @property
    def inventory_seen_us(self) -> int:
        """The time of the last report from another source than MDM, DDM and `admin`, in us.

        0 for never.
        """
        return _contacts_of(self.timestamps).inventory_us

    @property
    def is_known_to_mdm(self) -> bool:
        """True if the MDM channel reported the Mac: NanoMDM, MicroMDM or Jamf, or a check-in."""
        return _contacts_of(self.timestamps).is_known_to_mdm

    def is_reported_by(self, name: str, source: str) -> bool:
        """Return True if only this source can have sent the newest report of a field in FIELDS."""
        wanted, field, since = SEEN_BY[source], 1 << INDEX[name], 0
        for _, recorded in unpack_timestamps(self.timestamps):
            since |= recorded
            if recorded & field:
                return bool(recorded & wanted) or since & _ALL_SOURCES == wanted
        return False

    def with_values(self, values: tuple[Any, ...]) -> "Device":
        """Return the state with other values of the same times."""
        return Device(self.udid, values, self.timestamps, self.inventory_days)

    @property
    def checkins(self) -> tuple[int, int, int]:
        """The times of the last Authenticate, TokenUpdate and CheckOut, in us; 0 for never."""
        return _contacts_of(self.timestamps).checkins

    @property
    def is_user_enrolled(self) -> bool:
        """True if its owner enrolled it: User Enrollment manages an account, not the system."""
        return (self.enrollment_type or "").startswith("User Enrollment")

    @property
    def is_personal(self) -> bool:
        """True for a personally owned Mac: enrolled by its owner, or stated to be personal."""
        return self.ownership == "personal" or self.is_user_enrolled

    @property
    def is_of_company(self) -> bool:
        """True if the Mac is known to be the company's: stated, supervised, or enrolled by ADE."""
        stated = self.ownership in ("company", "loan")
        return bool(stated or self.supervised or self.ade_enrolled)

    @property
    def checked_out(self) -> bool:
        """True if a CheckOut is later than every Authenticate and TokenUpdate.

        The MDM profile was then removed. False if a contact through MDM, or a report of
        `mdm_enrolled` True, is an hour later or more: the check-ins of another enrollment were
        lost, as by a restored backup.
        """
        authenticated, token_updated, checked_out = self.checkins
        if checked_out <= max(authenticated, token_updated):
            return False
        shown_us = self.mdm_seen_us
        if self.mdm_enrolled:
            shown_us = max(shown_us, last_us(self.timestamps, _MDM_ENROLLED))
        return shown_us < checked_out + _LATER_STATE_US

    @property
    def enrolling(self) -> bool:
        """True if the TokenUpdate that completes the newest Authenticate has not arrived.

        A TokenUpdate completes it if it is later, or at most CHECKIN_SKEW_US earlier. False after a
        CheckOut of the same time or later, and without an Authenticate. False if a contact through
        MDM is an hour later or more: the server can reach the Mac, so its TokenUpdate was lost.
        """
        authenticated, token_updated, checked_out = self.checkins
        if authenticated <= max(token_updated + CHECKIN_SKEW_US, checked_out):
            return False
        return self.mdm_seen_us < authenticated + _LATER_STATE_US

    @property
    def enrolled(self) -> bool:
        """True if MDM can be expected to reach the Mac: enrolled as far as known, not checked out.

        False after a CheckOut, during an enrollment, and if `mdm_enrolled` was reported False after
        the last contact through MDM. Otherwise any contact through MDM gives True (the enrollment
        can be older than the event log), and so does `mdm_enrolled` True; without both it is False.
        """
        if self.checked_out or self.enrolling:
            return False
        if self.mdm_enrolled is False and (
            last_us(self.timestamps, _MDM_ENROLLED) > self.mdm_seen_us
        ):
            return False
        return self.mdm_seen_us > 0 or self.mdm_enrolled is True

    def enrolled_since(self, us: int) -> bool:
        """Return True if the last Authenticate and the last TokenUpdate are later than `us`."""
        return self.checkins[AUTHENTICATED] > us and self.checkins[TOKEN_UPDATED] > us

    def to_wire(self) -> dict[str, Any]:
        """Return the state as JSON values, for rows and for decision records."""
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
        """Return the Device that `to_wire` wrote. Fields of a newer version are dropped.

        Raises ValueError, KeyError or TypeError for input that no version wrote.
        """
        try:
            parts = msgspec.convert(wire, _Wire)
            facts = msgspec.convert(_known(parts.facts, FIELDS), dict[str, tuple[int, Any] | None])
            seen = msgspec.convert(_known(parts.seen, SOURCES), dict[str, int])
        except msgspec.ValidationError as error:
            raise ValueError(str(error)) from error
        values, bits_by_us = list(_NO_VALUES), dict[int, int]()
        for name, given in facts.items():
            value = None if given is None else given[1]
            read = FROM_WIRE.get(name)
            values[INDEX[name]] = value if read is None or value is None else read(value)
        times = [
            *((INDEX[name], given[0]) for name, given in facts.items() if given is not None),
            *((_SOURCES.start + at, seen.get(name, 0)) for at, name in enumerate(SOURCES)),
            *enumerate(parts.checkins, _CHECKINS.start),
        ]
        for bit, us in times:
            if us > 0:
                bits_by_us[us] = bits_by_us.get(us, 0) | 1 << bit
        timestamps = pack_timestamps(bits_by_us.items())
        return cls(wire["udid"], tuple(values), timestamps, parts.inventory_days)


class _Contacts(NamedTuple):
    """The times of check-ins and last contacts, as the properties of Device with these names."""

    checkins: tuple[int, int, int]
    seen_us: int
    mdm_us: int
    inventory_us: int
    is_known_to_mdm: bool


# Few: a decision about one Mac asks for these times some thirty times.
@lru_cache(maxsize=64)
def _contacts_of(timestamps: bytes) -> _Contacts:
    authenticated, token_updated, checked_out = CHECKIN
    return _Contacts(
        (
            last_us(timestamps, authenticated),
            last_us(timestamps, token_updated),
            last_us(timestamps, checked_out),
        ),
        last_us(timestamps, _SEEN),
        last_us(timestamps, _SEEN_BY_MDM | _TOKEN_UPDATED),
        last_us(timestamps, SEEN_BY_OTHERS),
        last_us(timestamps, _MDM_CHANNEL) > 0,
    )


class _Wire(msgspec.Struct):
    """The JSON values of `Device.to_wire`, with fields and sources of any version."""

    facts: dict[str, Any]
    seen: dict[str, Any]
    checkins: tuple[int, int, int]
    inventory_days: int = 0


def _known(values: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    return {name: values[name] for name in names if name in values}


_COMPARED: Final = attrgetter("udid", "values", "timestamps", "inventory_days")


@lru_cache(maxsize=4096)
def _bits(bits: int) -> tuple[int, ...]:
    """Return the positions of the bits that are set, lowest first."""
    return tuple(at for at in range(bits.bit_length()) if bits >> at & 1)


_WIRE: Final = tuple((name, TO_WIRE.get(name)) for name in FIELDS)
