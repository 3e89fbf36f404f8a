"""Methods: the way in which a need is carried out, and the obstacle of each way.

The policy lists the methods for each action in order of preference. A method is impossible for this
Mac (skipped), blocked (has an obstacle, which a report, an event or time can remove), or free.

| methods of the policy | choice |
| --- | --- |
| at least one free | the first free one that is not spent, else the first free one |
| none free, some blocked | the first that time alone frees, else the first; with its obstacle |
| all impossible | none, with the reason `no_method` |

A method is spent after `tries` failures at this Mac, and `ddm` also if the Mac reports a failed
declaration whose cause a second one does not remove (`declared_failure`).

For a job that erases, `erase_device` is before the methods that need an installer; after them if
the seal of the system is broken, or the policy wants the newest system on a loan unit that does not
run it. Each method of a restart is
used once for one update that keeps failing.

| method | possible | obstacles |
| --- | --- | --- |
| `ddm` | macOS 14 or later | MDM, not supervised, no bootstrap token |
| `mdm_command` | macOS 12 and 13, to a release | as `ddm`, running update |
| `softwareupdate` | updates to a release | no SSH at the site, no volume owner, running update |
| `startosinstall` | target not older than the system | no release, as `softwareupdate` |
| `erase_device` | erases, T2 or Apple silicon, macOS 12 | MDM, no bootstrap token, running update |
| `asr` | `reimage` | no SSH at the site, running update |
| `profiles_renew` | always | no SSH at the site, not in Apple Business Manager |
| `install_profile` | identity about to expire | MDM |
| `restart_update_service` | `restart` | no SSH at the site, running update |
| `restart_device` | `restart` | MDM, running update |

"MDM" is: not enrolled, MDM silent, or an enrollment that must be repaired first. Bootstrap token
and volume owner are needed on Apple silicon and virtual Macs only. Invariant: while MDM drives an
update, no second method is started beside it.

The limits of the system are in `schemas.method_versions`, which the executor reads too. The others
are those of Apple's schema (github.com/apple/device-management): a declaration needs supervision;
EraseDevice keeps the installed system, and needs T2 or Apple silicon for that; startosinstall
installs nothing older than the running system.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from functools import lru_cache
from types import MappingProxyType
from typing import Final, Literal, NamedTuple

import msgspec

from pipeline.decide.needs.enrollment import field_of_enrollment, mdm_is_silent
from pipeline.decide.needs.need import Need
from pipeline.decide.needs.reinstall_history import failed_by_time_alone, restarts
from pipeline.decide.situation import Situation
from pipeline.state.device import duration_us, from_us
from pipeline.state.hardware import HardwareClass
from pipeline.state.jobs import failures
from schemas.ddm_failures import failure_code
from schemas.decisions import Reason
from schemas.ids import clean_text
from schemas.jobs import Action, Method
from schemas.macos import OSVersion
from schemas.method_versions import exists_on
from schemas.results import ErrorCode

# Failures of the update itself, at the Mac. A full disk or an unreachable Mac is none.
INSTALL_FAILURES: Final = frozenset(
    {ErrorCode.INSTALL_FAILED, ErrorCode.NOTHING_HAPPENED, ErrorCode.NO_REPORT}
)
_NEEDS_VOLUME_OWNER: Final = frozenset({HardwareClass.APPLE_SILICON, HardwareClass.VM})
_ERASES_TO_A_SYSTEM: Final = frozenset({HardwareClass.T2, HardwareClass.APPLE_SILICON})
# After a declared update failed for this cause: True if a declaration may succeed the next time,
# False if the next method is used at once. The gates `disk` and `power` hold every method.
_MAY_TRY_AGAIN: Final[Mapping[ErrorCode, bool]] = {
    ErrorCode.NO_DISK_SPACE: True,
    ErrorCode.LOW_POWER: True,
    ErrorCode.DOWNLOAD_FAILED: True,
    ErrorCode.NO_BOOTSTRAP_TOKEN: False,
    ErrorCode.INSTALL_FAILED: False,
}
_RUNNING_STATES: Final = frozenset({"downloading", "prepared", "installing"})
# A running state that was reported longer ago than this no longer blocks other methods.
_RUNNING_MAX_AGE: Final = timedelta(hours=24)
_NO_FAILURES: Final[Mapping[Method, int]] = MappingProxyType({})


class Choice(msgspec.Struct, frozen=True, gc=False):
    """The method of a need and its obstacle: `reason` is None if the method is free.

    `method` is None, with a reason, if every method is impossible. `detail` is text for the gate
    `method`. `until` is the time at which a blocked method, not always `method`, becomes free
    without an event; None if there is no such method.
    """

    method: Method | None
    reason: Reason | None
    detail: str
    until: datetime | None = None


# The reason and the detail of the gate `method`; None for no obstacle.
Obstacle = tuple[Reason, str] | None


def choose_method(s: Situation, need: Need) -> Choice:
    """Return the first free method that the policy allows for the need, else the first blocked one.

    The method of an open job for the need stays. If all are impossible or the policy allows none,
    the method is None and the reason `no_method`. An obstacle ends by time only if it is another
    running update.
    """
    entry = s.open_job
    if entry is not None and (entry.action, entry.intent) == (need.action, need.intent):
        return Choice(entry.method, None, _method_detail(s, entry.method))
    blocked: Choice | None = None
    spent: Choice | None = None
    failed = failures_by_method(s, need)
    for method in _in_order(s, need):
        possible, obstacle = _CHECKS[method](s, need)
        if not possible:
            continue
        ends_at = None
        if obstacle is None:
            obstacle, ends_at = _another_update_runs(s, method)
        if obstacle is None:
            free = Choice(method, None, _method_detail(s, method))
            if not _is_spent(s, need, method, failed):
                return free
            spent = spent or free
        elif blocked is None or (blocked.until is None and ends_at is not None):
            blocked = Choice(method, *obstacle, until=ends_at)
    chosen = spent or blocked
    if chosen is not None:
        return chosen
    return Choice(None, Reason.NO_METHOD, f"no method of the policy can {need.action} this Mac")


def failures_by_method(s: Situation, need: Need) -> Mapping[Method, int]:
    """Return how often each method failed at the Mac for this need, since its last success.

    Only failures of the installation itself count: after them another method can succeed.
    """
    if not s.job_history:
        return _NO_FAILURES
    return Counter(
        entry.method
        for entry in failures(s.job_history, need.action, need.intent)
        if entry.error_code in INSTALL_FAILURES and not failed_by_time_alone(s, entry)
    )


def has_untried_method(s: Situation, need: Need) -> bool:
    """Return True if a free method for the need has not failed too often."""
    choice = choose_method(s, need)
    if choice.method is None or choice.reason is not None:
        return False
    return not _is_spent(s, need, choice.method, failures_by_method(s, need))


def _is_spent(s: Situation, need: Need, method: Method, failed: Mapping[Method, int]) -> bool:
    """Return True if the next method is to be used: this one has no tries left, or cannot work.

    `failed` are the failures by method.
    """
    if failed.get(method, 0) >= s.policy.tries_of(method):
        return True
    code = declared_failure(s, need) if method is Method.DDM else None
    return code is not None and not _MAY_TRY_AGAIN[code]


def declared_failure(s: Situation, need: Need) -> ErrorCode | None:
    """Return the cause of the failure of a declared update to the need's release, None without one.

    It is the Mac's own report, also of a declaration that another program made.
    """
    device = s.device
    if device.install_state != "failed" or not device.failure_reason or need.target is None:
        return None
    pending = device.pending_version
    if pending is not None and pending.release != need.target.version.release:
        return None
    return failure_code(device.failure_reason)


def _in_order(s: Situation, need: Need) -> tuple[Method, ...]:
    """Return the methods that the policy allows, in the order in which they are tried."""
    allowed = _allowed(getattr(s.policy.methods, need.action))
    if need.action is Action.RESTART:
        used = {entry.method for entry in restarts(s, need.intent)}
        return tuple(method for method in allowed if method not in used)
    if not need.erases:
        return allowed
    # It takes minutes, and the installer has 17 GB; but it keeps the system that runs.
    is_too_old = s.policy.loans.system == "newest" and _is_newer(need, s.device.os_version)
    is_unwanted = is_too_old or s.device.system_volume_sealed is False
    return tuple(sorted(allowed, key=lambda method: (method is Method.ERASE_DEVICE) is is_unwanted))


def _is_for_supplement(need: Need) -> bool:
    """Return True for a background security improvement, which only a declaration can name."""
    return need.target is not None and bool(need.target.version.supplement)


def _is_newer(need: Need, version: OSVersion | None) -> bool:
    """Return True if the need's target is newer than this version."""
    return need.target is not None and version is not None and need.target.version > version


@lru_cache(maxsize=256)
def _allowed(names: tuple[str, ...]) -> tuple[Method, ...]:
    return tuple(Method(name) for name in names)


def _method_detail(s: Situation, method: Method) -> str:
    version = s.device.os_version
    text = f"{method} on macOS {version}" if version else str(method)
    if method is not Method.ERASE_DEVICE:
        return text
    # macOS has no ReturnToService; only Automated Device Enrollment brings the Mac back by itself.
    back = "enrolls again through ADE"
    if s.device.ade_enrolled is not True:
        back = "enrolls again only through ADE, which is not known of it"
    return f"{text}: it keeps its system (EACS) and {back}"


def _mdm_obstacle(s: Situation, need: Need) -> Obstacle:
    """Return the obstacle of every method that goes through MDM; None if MDM can be used."""
    if not s.device.enrolled:
        return Reason.NOT_ENROLLED, "not known to be enrolled"
    if not need.mdm_usable or mdm_is_silent(s):
        return Reason.NOT_ENROLLED, "its enrollment must be renewed first"
    return None


def _supervised_update_obstacle(s: Situation, need: Need) -> Obstacle:
    """Return the first obstacle of an update through MDM; None if there is none.

    In order: MDM itself, not known to be supervised, known to have no bootstrap token escrowed.
    """
    obstacle = _mdm_obstacle(s, need)
    if obstacle is not None:
        return obstacle
    supervised = field_of_enrollment(s, "supervised")
    if not supervised:
        known = "not supervised" if supervised is False else "supervision unknown"
        return Reason.NOT_SUPERVISED, known
    if s.device.hardware in _NEEDS_VOLUME_OWNER:
        token = field_of_enrollment(s, "bootstrap_token_escrowed")
        if token is False:
            return Reason.NO_BOOTSTRAP_TOKEN, "no bootstrap token escrowed"
    return None


def _ssh_obstacle(s: Situation) -> Obstacle:
    """Return the obstacle of every method that logs in to the Mac.

    None if the site allows SSH, or if the Mac's site is unknown.
    """
    if s.site is not None and not s.site.ssh:
        return Reason.NO_METHOD, "the site's executor cannot log in to its Macs"
    return None


def _volume_owner_obstacle(s: Situation) -> Obstacle:
    """Return the obstacle of an update over SSH: SSH itself, or no volume owner; None for none."""
    obstacle = _ssh_obstacle(s)
    if obstacle is not None:
        return obstacle
    if s.device.hardware in _NEEDS_VOLUME_OWNER and s.device.volume_owner_available is False:
        return Reason.NO_VOLUME_OWNER, "no volume owner's account at hand"
    return None


def _ddm(s: Situation, need: Need) -> tuple[bool, Obstacle]:
    """Return True if `ddm` is possible (macOS 14 or later; False if unknown), and its obstacle.

    The obstacle is None if there is none, and does not depend on the first value: True with an
    obstacle is possible, but blocked now. A running update is not checked here.
    """
    version = s.device.os_version
    possible = version is not None and exists_on(Method.DDM, version)
    return possible, _supervised_update_obstacle(s, need)


def _mdm_command(s: Situation, need: Need) -> tuple[bool, Obstacle]:
    """Return True if `mdm_command` is possible on this Mac (else False), and its obstacle.

    True with an obstacle: possible, but blocked now. The obstacle is None if there is none, and
    does not depend on the first value. A running update is not checked here.
    """
    version = s.device.os_version
    possible = version is not None and exists_on(Method.MDM_COMMAND, version)
    return possible and not _is_for_supplement(need), _supervised_update_obstacle(s, need)


def _softwareupdate(s: Situation, need: Need) -> tuple[bool, Obstacle]:
    """Return True if `softwareupdate` is possible for the need (else False), and its obstacle.

    True with an obstacle: possible, but blocked now. The obstacle is None if there is none, and
    does not depend on the first value. A running update is not checked here.
    """
    is_possible = need.action is Action.UPDATE and not _is_for_supplement(need)
    return is_possible, _volume_owner_obstacle(s)


def _startosinstall(s: Situation, need: Need) -> tuple[bool, Obstacle]:
    """Return True if `startosinstall` is possible for the need (else False), and its obstacle.

    Possible also if the Mac's version is unknown. True with an obstacle: possible,
    but blocked now. The obstacle is None if there is none. A running update is not checked here.
    """
    version, target = s.device.os_version, need.target
    if target is None:
        return True, (Reason.NO_RELEASE, "no release that it could install is known")
    possible = version is None or target.version >= version.release
    return possible, _volume_owner_obstacle(s)


def _erase_device(s: Situation, need: Need) -> tuple[bool, Obstacle]:
    """Return True if `erase_device` is possible for the need (else False), and its obstacle.

    True with an obstacle: possible, but blocked now. The obstacle is None if there is none, and
    does not depend on the first value. A running update is not checked here.
    """
    # EraseDevice keeps the installed system, so it cannot repair or update one.
    version, hardware = s.device.os_version, s.device.hardware
    has_system = version is not None and exists_on(Method.ERASE_DEVICE, version)
    has_eacs = hardware in _ERASES_TO_A_SYSTEM and has_system
    obstacle = _mdm_obstacle(s, need)
    if obstacle is None and hardware is HardwareClass.APPLE_SILICON:
        token = field_of_enrollment(s, "bootstrap_token_escrowed")
        if not token:
            known = "no bootstrap token escrowed" if token is False else "bootstrap token unknown"
            obstacle = Reason.NO_BOOTSTRAP_TOKEN, known
    return need.erases and has_eacs, obstacle


def _asr(s: Situation, need: Need) -> tuple[bool, Obstacle]:
    """Return True if `asr` is possible for the need (else False), and its obstacle.

    True with an obstacle: possible, but blocked now. The obstacle is None if there is none, and
    does not depend on the first value. A running update is not checked here.
    """
    return need.action is Action.REIMAGE, _ssh_obstacle(s)


def _profiles_renew(s: Situation, _: Need) -> tuple[bool, Obstacle]:
    """Return True, as `profiles_renew` is always possible, and its obstacle; None for none."""
    obstacle = _ssh_obstacle(s)
    if obstacle is None and s.device.ade_enrolled is not True:
        manual = s.device.ade_enrolled is False or s.device.hardware is HardwareClass.VM
        if manual:
            detail = "not in Apple Business Manager as far as is known: enrol it by hand"
            return True, (Reason.NEEDS_PERSON, detail)
    return True, obstacle


def _install_profile(s: Situation, need: Need) -> tuple[bool, Obstacle]:
    """Return True if a new enrollment profile over MDM cures the need, and the obstacle of MDM.

    An enrollment that has ended cannot be renewed in this way, and user approval does not follow
    from a profile that MDM installs. The obstacle is None if there is none.
    """
    return need.reason is Reason.IDENTITY_EXPIRING, _mdm_obstacle(s, need)


def _restart_device(s: Situation, need: Need) -> tuple[bool, Obstacle]:
    """Return True if the need is a restart, and the obstacle of MDM; None for none."""
    return need.action is Action.RESTART, _mdm_obstacle(s, need)


def _restart_update_service(s: Situation, need: Need) -> tuple[bool, Obstacle]:
    """Return True if the need is a restart, and the obstacle of SSH; None for none."""
    return need.action is Action.RESTART, _ssh_obstacle(s)


def _activation_command(s: Situation, need: Need) -> tuple[bool, Obstacle]:
    """Return True if the need is an activation, and the obstacle of SSH; None for none."""
    return need.action is Action.ACTIVATE, _ssh_obstacle(s)


_CHECKS: Final[Mapping[Method, Callable[[Situation, Need], tuple[bool, Obstacle]]]] = {
    Method.DDM: _ddm,
    Method.MDM_COMMAND: _mdm_command,
    Method.SOFTWAREUPDATE: _softwareupdate,
    Method.STARTOSINSTALL: _startosinstall,
    Method.ERASE_DEVICE: _erase_device,
    Method.ASR: _asr,
    Method.PROFILES_RENEW: _profiles_renew,
    Method.INSTALL_PROFILE: _install_profile,
    Method.RESTART_DEVICE: _restart_device,
    Method.RESTART_UPDATE_SERVICE: _restart_update_service,
    Method.ACTIVATION_COMMAND: _activation_command,
}


def _another_update_runs(s: Situation, method: Method) -> tuple[Obstacle, datetime | None]:
    """Return the obstacle of an update that MDM already drives, and the time when that ends.

    The obstacle ends 24 hours after the report of the update. None and None without such an update,
    or if it has ended. A declaration may replace an earlier declaration, and a re-enrollment
    installs nothing: these methods have no such obstacle.
    """
    if method in (Method.DDM, Method.PROFILES_RENEW, Method.INSTALL_PROFILE):
        return None, None
    if is_update_running(s):
        detail = f"a declared update is {s.device.install_state}"
        return (Reason.OTHER_UPDATE_RUNNING, detail), from_us(_running_until_us(s))
    return None, None


def is_update_running(s: Situation) -> bool:
    """Return True if the Mac reported within a day that it downloads or installs an update.

    False once it reports the version that it was to install: many Macs send no last state.
    """
    device = s.device
    if device.install_state not in _RUNNING_STATES or s.now_us >= _running_until_us(s):
        return False
    pending, version = device.pending_version, device.os_version
    if pending is None or version is None or pending.supplement:
        return True
    is_later = device.reported_us("os_version") > device.reported_us("install_state")
    return not (is_later and version.release >= pending.release)


def _running_until_us(s: Situation) -> int:
    return s.device.reported_us("install_state") + duration_us(_RUNNING_MAX_AGE)


class MethodRow(NamedTuple):
    """One method of the policy for a need: its name, its state, and the reason for the state.

    `state`: `chosen`; `passed over`, free but not chosen; `blocked` by an obstacle; `impossible` on
    this Mac or for this need.
    """

    method: Method
    state: Literal["chosen", "passed over", "blocked", "impossible"]
    detail: str


def method_rows(s: Situation, need: Need) -> tuple[MethodRow, ...]:
    """Return a row for each method that the policy allows for the need, in the order of trying."""
    choice = choose_method(s, need)
    return tuple(_row(s, need, method, choice) for method in _in_order(s, need))


def _row(s: Situation, need: Need, method: Method, choice: Choice) -> MethodRow:
    if choice.reason is None and method is choice.method:
        return MethodRow(method, "chosen", choice.detail)
    possible, obstacle = _CHECKS[method](s, need)
    if not possible:
        return MethodRow(method, "impossible", _NEEDED[method])
    obstacle = obstacle or _another_update_runs(s, method)[0]
    if obstacle is not None:
        reason, detail = obstacle
        return MethodRow(method, "blocked", f"{reason}: {detail}")
    failed = failures_by_method(s, need).get(method, 0)
    tries = s.policy.tries_of(method)
    if failed >= tries:
        return MethodRow(method, "passed over", f"failed {failed} times; the limit is {tries}")
    if _is_spent(s, need, method, {}):
        detail = f"the Mac reported: {s.device.failure_reason}"
        return MethodRow(method, "passed over", clean_text(detail))
    if s.open_job is not None:
        return MethodRow(method, "passed over", "the open job has another method")
    return MethodRow(method, "passed over", "an earlier method is free")


# What each method needs; a Mac or a need without it makes the method impossible.
_NEEDED: Final[Mapping[Method, str]] = {
    Method.DDM: "needs macOS 14",
    Method.MDM_COMMAND: "installs releases on macOS 12 and 13",
    Method.SOFTWAREUPDATE: "is for updates to a release",
    Method.STARTOSINSTALL: "installs nothing older than the system that runs",
    Method.ERASE_DEVICE: "is for erases, on macOS 12 with a T2 or Apple silicon",
    Method.ASR: "is for a reimage",
    Method.PROFILES_RENEW: "",
    Method.INSTALL_PROFILE: "is for an identity that is about to expire",
    Method.RESTART_DEVICE: "is for a restart",
    Method.RESTART_UPDATE_SERVICE: "is for a restart",
    Method.ACTIVATION_COMMAND: "is for an activation",
}
