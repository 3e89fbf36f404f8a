"""Fields of the system that ran before the last installation: they end with it.

| field | ends with |
| --- | --- |
| firmware, seal | each installation |
| free disk space, FileVault, volume owner | an erase |

An installation brings firmware and seal, and an erase removes the data and the accounts of the Mac.
A report from before it describes the earlier system, although no source has reported the field
since. Such a field is unknown; after an erase no volume owner is left.
"""

from dataclasses import replace
from typing import Any, Final

from pipeline.decide.confirmed_version import with_confirmed_version
from pipeline.decide.situation import Situation
from pipeline.state.device import FIELDS, INDEX
from schemas.jobs import INSTALLATIONS
from schemas.results import Outcome

_INSTALLED: Final = tuple(
    INDEX[name]
    for name in ("firmware", "corroborated_firmware", "system_volume_sealed", "corroborated_seal")
)
_VOLUME_OWNER: Final = INDEX["volume_owner_available"]
_ERASED: Final = (INDEX["free_disk_gb"], INDEX["filevault"], _VOLUME_OWNER)


def with_present_system(s: Situation) -> Situation:
    """Return the Situation as the rules read it: with the system that runs, as far as is known.

    It has the version of `with_confirmed_version`, and no field of an earlier system. The same
    object if the newest report of each field counts.
    """
    return _without_earlier_system(with_confirmed_version(s))


def has_earlier_system_field(s: Situation) -> bool:
    """Return True if the newest report of a field is of an earlier system.

    A new report of the same value makes it count, although no value changes, so the Mac must be
    decided again.
    """
    return any(
        not s.device.fields_since(since_us) >> index & 1 and s.device.reported_us(FIELDS[index])
        for indexes, since_us in _ended(s)
        for index in indexes
    )


def _without_earlier_system(s: Situation) -> Situation:
    device = s.device
    values: list[Any] = [*device.values]
    for indexes, since_us in _ended(s):
        reported = device.fields_since(since_us)
        for index in indexes:
            if values[index] is not None and not reported >> index & 1:
                values[index] = False if index == _VOLUME_OWNER else None
    if values == [*device.values]:
        return s
    return replace(s, device=device.with_values(tuple(values)))


def _ended(s: Situation) -> tuple[tuple[tuple[int, ...], int], ...]:
    """Return the fields that end with an installation, each with its time in us since 1970.

    Only the last job that installed a system counts, and the last one that erased the Mac.
    """
    installed_us = erased_us = 0
    for entry in s.job_history:
        if entry.outcome is Outcome.SUCCEEDED and entry.action in INSTALLATIONS:
            since_us = entry.acted_us or entry.since_us
            installed_us = max(installed_us, since_us)
            erased_us = max(erased_us, since_us if entry.erases else 0)
    ended = ((_INSTALLED, installed_us), (_ERASED, erased_us))
    return tuple([one for one in ended if one[1]])
