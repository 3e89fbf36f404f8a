"""The records that belong to one Mac, and the Macs whose identity is in conflict.

`pipeline.state.identity` has the rules as a table.
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, islice

from pipeline.state.compact.alias_index import AliasIndex
from pipeline.state.device import AUTHENTICATED, INDEX, Device
from pipeline.state.device_folds import forget_until
from pipeline.state.identity import CERTAIN, SHOWN_CONFLICTS, SILENT_US, Identity, Settlements
from schemas.findings import FindingCode
from schemas.ids import SERIAL_SUBJECT_PREFIX, is_real_serial

_SERIAL, _ENROLLMENT = INDEX["serial"], INDEX["enrollment_id"]


class Identities:
    """The identities of the Macs in `devices`, the records of a fleet by key.

    The caller reports each change of a record by `add` and `remove`. `settlements` has the acts of
    operators.
    """

    def __init__(self, devices: Mapping[str, Device]) -> None:
        self._devices = devices
        # The UDIDs of all Macs that reported this serial number, or this enrollment id.
        self._by_serial = AliasIndex()
        self._by_enrollment = AliasIndex()
        self.settlements = Settlements()

    # --- records ---

    def add(self, old: Device | None, device: Device) -> None:
        """Index a record that was stored in place of `old`."""
        if device.is_partial:
            return
        serial, enrollment = device.values[_SERIAL], device.values[_ENROLLMENT]
        if old is None or old.values[_SERIAL] != serial:
            self._by_serial.add(serial, device.udid)
        if enrollment != device.udid:
            self._by_enrollment.add(enrollment, device.udid)

    def remove(self, device: Device) -> None:
        """Remove a record from the indexes."""
        self._by_serial.remove(device.serial, device.udid)
        self._by_enrollment.remove(device.enrollment_id, device.udid)

    def view(self, key: str) -> Device | None:
        """Return the record under this key without forgotten reports; None without a record."""
        device = self._devices.get(key)
        if device is None or not self.settlements:
            return device
        us = self.settlements.forgotten_us(key.removeprefix(SERIAL_SUBJECT_PREFIX))
        return forget_until(device, us) if us else device

    def is_forgotten(self, key: str) -> bool:
        """Return True if an operator chose to forget all that the record reported."""
        device = self.view(key) if self.settlements else None
        return device is not None and not device.timestamps

    def is_only_record(self, device: Device) -> bool:
        """Return True if this is the record of a Mac that certainly has no other record.

        False for a record under a serial number, or under an enrollment id that another record
        reported; for an enrollment id other than the key; and if several Macs reported the serial
        number. If True, a newer time alone changes no value of the Mac.
        """
        udid, values = device.udid, device.values
        serial, enrollment = values[_SERIAL], values[_ENROLLMENT]
        if enrollment != udid and enrollment is not None:
            return False
        if udid in self._by_enrollment or udid.startswith(SERIAL_SUBJECT_PREFIX):
            return False
        return serial is None or (
            SERIAL_SUBJECT_PREFIX + serial not in self._devices
            and not self._by_serial.is_shared(serial)
        )

    def canonical_udid(self, key: str) -> str | None:
        """Return the UDID of the Mac to which the record `key` belongs.

        None if the record is itself a Mac, if no Mac has this serial number or enrollment id, or if
        several have it. A record that has another enrollment id is itself a Mac, so that records
        cannot belong to each other in a cycle.
        """
        if not key.startswith(SERIAL_SUBJECT_PREFIX):
            return self._udid_of_enrollment(key)
        udids = self.udids_with_serial(key.removeprefix(SERIAL_SUBJECT_PREFIX))
        return udids[0] if len(udids) == 1 else None

    def udids_with_serial(self, serial: str) -> tuple[str, ...]:
        """Return the UDIDs of the Macs with this serial number that no other Mac replaced."""
        claimants = self._claimants(serial)
        if len(claimants) < 2:
            return claimants
        return tuple(one for one in claimants if self._replaced_by(one, claimants) is None)

    def related(self, device: Device) -> Iterator[str]:
        """Yield the keys of the records that share an identifier with this one, and its own.

        Nothing for a Mac that shares none, and for the records of one Mac.
        """
        serial, enrollment, udid = device.serial, device.enrollment_id, device.udid
        if serial is not None and self._by_serial.is_shared(serial):
            yield from self._by_serial.udids(serial)
            yield SERIAL_SUBJECT_PREFIX + serial
        if enrollment is not None and enrollment != udid and self._is_contested(enrollment):
            yield from self._by_enrollment.udids(enrollment)
            yield enrollment
        if self._is_contested(udid):
            yield from self._by_enrollment.udids(udid)
            yield udid

    def related_to(self, keys: Iterable[str]) -> set[str]:
        """Return the known records among these, and all records of their Macs and related ones."""
        found: set[str] = set()
        for key in keys:
            device = self._devices.get(key)
            if device is None:
                continue
            names = {key, *aliases(device), *self.related(device)}
            found |= names | {self.canonical_udid(name) or name for name in names}
        return {one for one in found if one in self._devices}

    def _is_contested(self, enrollment: str) -> bool:
        """Return True if Macs have this enrollment id, and a record under it belongs to none."""
        if enrollment not in self._by_enrollment:
            return False
        is_own = enrollment in self._devices and self._udid_of_enrollment(enrollment) is None
        return is_own or self._by_enrollment.is_shared(enrollment)

    def _claimants(self, serial: str) -> tuple[str, ...]:
        """Return the UDIDs of the Macs whose newest serial number is this one, sorted."""
        udids = self._by_serial.udids(serial)
        found = {
            self._udid_of_enrollment(udid) or udid
            for udid in udids
            if (device := self.view(udid)) is not None and device.serial == serial
        }
        return tuple(sorted(found))

    def _udid_of_enrollment(self, key: str) -> str | None:
        """Return the UDID of the Mac to which the record under the enrollment id `key` belongs.

        None if the record is itself a Mac, or if not exactly one Mac has this enrollment id now.
        """
        if key not in self._by_enrollment:
            return None  # most often
        claimants = self._enrollment_claimants(key)
        if len(claimants) != 1:
            return None
        claimant = self.view(claimants[0])
        assert claimant is not None
        if self._is_mac_besides(key, claimant) or self._are_separate(key, claimant.udid):
            return None
        return claimant.udid

    def _enrollment_claimants(self, key: str) -> tuple[str, ...]:
        """Return the UDIDs of the other Macs whose newest enrollment id is `key`, sorted."""
        return tuple(
            sorted(
                udid
                for udid in self._by_enrollment.udids(key)
                if (device := self.view(udid)) is not None and device.enrollment_id == key
            )
        )

    def _is_mac_besides(self, key: str, claimant: Device) -> bool:
        """Return True if the record under the enrollment id is a Mac of its own.

        It has another enrollment id or another serial number than the claimant, or MDM manages the
        whole device under this id.
        """
        record = self.view(key)
        if record is None:
            return False
        if record.enrollment_id not in (None, key):
            return True
        manages_device = record.enrollment_type is not None and not record.is_user_enrolled
        serials = {one for one in (record.serial, claimant.serial) if is_real_serial(one)}
        return manages_device or len(serials) > 1

    # --- conflicts ---

    def identity(self, device: Device) -> Identity:
        """Return the identity of a Mac; `device` is its merged state."""
        serial, udid = device.serial, device.udid
        is_plain = (
            device.earlier_serials is None
            and (device.enrollment_id is None or device.enrollment_id == udid)
            and (serial is None or not self._by_serial.is_shared(serial))
            and udid not in self._by_enrollment
        )
        if is_plain:
            return CERTAIN
        claimants = () if serial is None else self._claimants(serial)
        replaced_by = None if device.is_partial else self._replaced_by(udid, claimants)
        if replaced_by is not None:
            return Identity(replaced_by[0])
        conflicts = chain(
            self._shared_serial(device, claimants),
            self._changed_serial(device),
            self._shared_enrollment(device),
        )
        return Identity(None, tuple(islice(conflicts, SHOWN_CONFLICTS)))

    def _shared_serial(
        self, device: Device, claimants: tuple[str, ...]
    ) -> Iterator[tuple[FindingCode, str]]:
        if device.is_partial and self.canonical_udid(device.udid) is not None:
            return
        for other in claimants:
            if other == device.udid or self._are_separate(other, device.udid):
                continue
            replaced_by = self._replaced_by(other, claimants)
            if replaced_by is None or not replaced_by[1]:
                yield FindingCode.SERIAL_SHARED, other

    def _changed_serial(self, device: Device) -> Iterator[tuple[FindingCode, str]]:
        if not is_real_serial(device.serial):
            return
        for serial, us in device.earlier_serials or ():
            settled = self.settlements.of_pair(device.udid, serial)
            is_settled = settled is not None and us <= settled[0]
            if is_real_serial(serial) and not is_settled:
                yield FindingCode.SERIAL_CHANGED, serial

    def _shared_enrollment(self, device: Device) -> Iterator[tuple[FindingCode, str]]:
        if device.is_partial:
            return  # it gets no job, and an enrollment belongs to a UDID
        udid, enrollment = device.udid, device.enrollment_id
        others = {
            one
            for one in self._enrollment_claimants(udid)
            if self._is_mac_besides(udid, self._devices[one])
        }
        if enrollment is not None and enrollment != udid:
            others |= {*self._enrollment_claimants(enrollment)} - {udid}
            if self._is_mac_besides(enrollment, device):
                others.add(enrollment)
        for other in sorted(others):
            if not self._are_separate(other, udid):
                yield FindingCode.ENROLLMENT_SHARED, other

    def _are_separate(self, one: str, other: str) -> bool:
        settled = self.settlements.of_pair(one, other)
        return settled is not None and settled[1].settlement == "separate"

    def _replaced_by(self, udid: str, claimants: tuple[str, ...]) -> tuple[str, bool] | None:
        """Return the Mac that replaced this one, and True if that is confirmed; None if none did.

        `claimants` are the Macs with its serial number. It is confirmed by an operator or by an
        enrollment.
        """
        found: tuple[bool, int, str] | None = None
        for other in claimants:
            confirmed = None if other == udid else self._replaces(other, udid)
            if confirmed is not None:
                theirs = self.view(other)
                assert theirs is not None
                found = max(found or (False, 0, ""), (confirmed, theirs.last_seen_us, other))
        return None if found is None else (found[2], found[0])

    def _replaces(self, new: str, old: str) -> bool | None:
        """Return True if `new` certainly replaced `old`, False if probably; None if it did not."""
        settled = self.settlements.of_pair(new, old)
        ours, theirs = self.view(old), self.view(new)
        assert ours is not None
        assert theirs is not None
        if settled is not None:
            us, act = settled
            if act.settlement == "separate":
                return None
            history = ours if act.device == old else theirs
            if history.last_seen_us <= us:
                return True if history is ours else None
        if any(is_real_serial(serial) for serial, _ in theirs.earlier_serials or ()):
            return None  # its serial number is in doubt itself
        if theirs.checkins[AUTHENTICATED] > ours.last_seen_us:
            return True
        return False if theirs.mdm_seen_us - ours.last_seen_us > SILENT_US else None


def aliases(device: Device) -> tuple[str, ...]:
    """Return the other keys under which records of this Mac can exist; none for a partial record.

    First `serial:` with its serial number, then its enrollment id.
    """
    if device.is_partial:
        return ()
    serial, enrollment = device.serial, device.enrollment_id
    by_serial = (SERIAL_SUBJECT_PREFIX + serial,) if serial and is_real_serial(serial) else ()
    if enrollment is None or enrollment == device.udid:
        return by_serial
    return (*by_serial, enrollment)
