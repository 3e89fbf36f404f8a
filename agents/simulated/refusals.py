"""Refusals by real Macs and MDM servers of an order that they cannot carry out."""

from typing import TYPE_CHECKING, Final

from agents.mac import Ack
from schemas.jobs import MDM_METHODS, Job, Method
from schemas.results import ErrorCode

if TYPE_CHECKING:
    from agents.simulated.machine import SimulatedMac

_INSTALLERS: Final = frozenset({Method.SOFTWAREUPDATE, Method.STARTOSINSTALL})
# T2 and Apple silicon do not boot from another disk without a person.
_RESTORABLE: Final = frozenset({"intel", "t1"})


def refusal(mac: "SimulatedMac", job: Job) -> Ack | None:
    """Return the refusal of this order, None if the Mac can carry it out.

    DDM needs macOS 14 and supervision; macOS 27 has no `ScheduleOSUpdate`
    (github.com/apple/device-management).
    """
    spec, method, major = mac.spec, job.method, mac.os_version.major
    if method in MDM_METHODS and not mac.enrolled:
        return Ack.refused(ErrorCode.NOT_ENROLLED, "not enrolled")
    if method is Method.DDM and (major < 14 or not spec.supervised):
        return Ack.refused(ErrorCode.UNSUPPORTED, "needs macOS 14 and supervision")
    if method is Method.MDM_COMMAND and (major >= 27 or not spec.supervised):
        return Ack.refused(ErrorCode.COMMAND_REJECTED, "unknown command")
    if method in _INSTALLERS and spec.apple_silicon and not spec.volume_owner:
        return Ack.refused(ErrorCode.NO_VOLUME_OWNER, "failed to authenticate")
    if method is Method.ASR and spec.hardware not in _RESTORABLE:
        return Ack.refused(ErrorCode.UNSUPPORTED, "this hardware cannot be restored by asr")
    if method is Method.ASR and job.target is not None and job.target.build != mac.build:
        return Ack.refused(ErrorCode.UNSUPPORTED, "an image is not the way to another build")
    if method is Method.PROFILES_RENEW and not spec.ade:
        return Ack.refused(ErrorCode.COMMAND_REJECTED, "34000: no enrollment configuration")
    return None
