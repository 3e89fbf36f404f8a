"""Gates: the checks that a need passes before its job is sent.

Every gate is evaluated and recorded in the decision, in the order of GATES. A need is sent if all
gates pass; the reason of a hold is that of its first closed gate.

| result of a gate | `reason` | `until` |
| --- | --- | --- |
| passed | None | None |
| closed until an event opens it | the reason | None |
| closed until a time opens it | the reason | the time |

Invariant: a closed gate without `until` opens only by an event, so its declaration must name every
field that can open it. GATES declares for each reason the fields that the gate reads for it. If one
of them is telemetry, a report that changes only telemetry leads to a new decision
(`reasons_on_telemetry`). tests/property/test_gate_reads.py compares the declarations with the code.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final, NamedTuple

import msgspec

from pipeline.decide.blast_radius import capacity_objection
from pipeline.decide.candidate import Candidate, is_for
from pipeline.decide.family_hold import is_family_hold
from pipeline.decide.gate_reads import METHOD_READS, Reads
from pipeline.decide.methods import declared_failure
from pipeline.decide.needs.reinstall_history import count_tried
from pipeline.decide.protection import identity_objection, is_locked, owner_objection
from pipeline.decide.situation import Situation, matched_hostname
from pipeline.decide.texts import text_of
from pipeline.decide.windows import opens_at
from pipeline.state.device import duration_us, from_us
from pipeline.state.hardware import HardwareClass
from pipeline.state.jobs import JobEntry, JobHistory, attempts, failures
from schemas.decisions import Gate, Reason
from schemas.events.control import HaltSet
from schemas.ids import clean_text
from schemas.jobs import INSTALLATIONS, Action, Method
from schemas.results import ErrorCode, Outcome

# The cool-down doubles with each failure; the limit keeps the shifted number small.
_MOST_DOUBLINGS: Final = 20
# Long enough that a site with little capacity rehearses all of its Macs before the first one again.
# Short enough that a Mac is patched if the end of the dry run did not reach it: a lost journal.
REHEARSED_AGAIN_AFTER: Final = timedelta(days=14)
_REHEARSED_AGAIN_AFTER_US: Final = duration_us(REHEARSED_AGAIN_AFTER)
# A job with an unknown history waits for a new approval, and for nothing else; one that ended with
# its enrollment did not fail.
_NO_COOL_DOWN: Final = frozenset({ErrorCode.HISTORY_UNKNOWN, ErrorCode.ENROLLMENT_ENDED})
# A failed declaration for want of disk space holds the Mac until it reports its free space, or for
# this time: its user may have made room, and few sources report the space of a disk.
_DISK_FAILURE_LASTS_US: Final = duration_us(timedelta(days=7))
_BIG_INSTALLS: Final = frozenset({Action.UPGRADE, Action.REINSTALL})


class GateResult(msgspec.Struct, frozen=True, gc=False):
    """The result of one gate: `reason` is None if the gate passed.

    `until` is the time at which a closed gate opens without an event; None if it passed, or if only
    an event opens it. `detail` is text for the decision record.
    """

    gate: str
    reason: Reason | None = None
    detail: str = ""
    until: datetime | None = None


@lru_cache(maxsize=1024)
def _passed(gate: str, detail: str = "") -> GateResult:
    """Return the result of a passed gate; cached, because most gates of most Macs have the same."""
    return GateResult(gate, detail=detail)


_EXEMPTION_PASSED: Final = GateResult("exemption")
_OWNER_PASSED: Final = GateResult("owner")
_IDENTITY_PASSED: Final = GateResult("identity")
_HALT_PASSED: Final = GateResult("halt")
_FRESH_PASSED: Final = GateResult("fresh")
_JOB_OPEN_PASSED: Final = GateResult("job_open")
_ATTEMPTS_PASSED: Final = GateResult("attempts")
_MOST_OUT_OF_DATE: Final = 3
_OUT_OF_DATE_WITHIN_US: Final = duration_us(timedelta(hours=1))
_COOL_DOWN_PASSED: Final = GateResult("cool_down")
_SURE_PASSED: Final = GateResult("sure")
_DEFERRAL_PASSED: Final = GateResult("deferral")


def evaluate_gates(s: Situation, c: Candidate) -> tuple[GateResult, ...]:
    """Return the result of every gate, closed or passed, in the order of GATES."""
    return tuple([check(s, c) for check in _CHECKS])


@lru_cache(maxsize=8192)
def to_gate(result: GateResult) -> Gate:
    """Return the result as a `Gate` of a decision; cached, because most Macs have the same."""
    return Gate(
        gate=result.gate, passed=result.reason is None, detail=result.detail, until=result.until
    )


def opens_by_itself_at(closed_gates: tuple[GateResult, ...]) -> datetime | None:
    """Return the latest `until` of these closed gates: then all have opened without an event.

    None if one of them needs an event, or if there are none.
    """
    times = [result.until for result in closed_gates if result.until is not None]
    return max(times) if times and len(times) == len(closed_gates) else None


def _site(s: Situation, _: Candidate) -> GateResult:
    if s.site_name is None:
        return GateResult("site", Reason.SITE_UNKNOWN, "no site of the policy matches")
    return _passed("site", s.site_name)


def _exempt(s: Situation, c: Candidate) -> GateResult:
    device, zone = s.device, UTC if s.site is None else s.site.zone
    for exemption in s.policy.exemptions:
        if exemption.covers(c.need.action, s.now, zone) and exemption.who.matches(
            hostname=matched_hostname(device, s.policy),
            serial=device.serial,
            udid=device.udid,
            model=device.model,
        ):
            ends_at = exemption.ends_at(zone)
            ends = None if ends_at is None else ends_at.astimezone(UTC)
            return GateResult("exemption", Reason.EXEMPT, exemption.why, ends)
    if is_locked(s, c.need.action, c.choice.method, erases=c.erases):
        detail = f"sites.{s.site_name}.destructive permits no erase or reinstall of this Mac"
        return GateResult("exemption", Reason.LOCKED, detail)
    return _EXEMPTION_PASSED


def _owner(s: Situation, c: Candidate) -> GateResult:
    objection = owner_objection(s, c.need, erases=c.erases)
    return _OWNER_PASSED if objection is None else GateResult("owner", *objection)


def _identity(s: Situation, c: Candidate) -> GateResult:
    objection = identity_objection(s, c.need, c.choice.method, erases=c.erases)
    return _IDENTITY_PASSED if objection is None else GateResult("identity", *objection)


def _covers(halt: HaltSet, s: Situation, c: Candidate) -> bool:
    """Return True if the halt applies to this candidate at `s.now`."""
    scope = halt.scope
    if is_family_hold(halt):
        return c.need.release is not None and scope.advisory_id == c.need.release.advisory_id
    if halt.until is not None and s.now >= halt.until:
        return False
    if scope.everything:
        return True
    if scope.site is not None:
        return scope.covers_jobs_of(s.site_name, c.need.action)
    return c.need.release is not None and scope.advisory_id in c.advisory_ids


def _halted(s: Situation, c: Candidate) -> GateResult:
    if not s.halts:
        return _HALT_PASSED
    covering = [halt for halt in s.halts if _covers(halt, s, c)]
    if not covering:
        return _HALT_PASSED
    if all(is_family_hold(halt) for halt in covering):
        return GateResult("halt", Reason.RELEASE_FAILING, covering[0].why)
    untils = [halt.until for halt in covering]
    known = [until for until in untils if until is not None]
    ends = max(known) if len(known) == len(untils) else None
    return GateResult("halt", Reason.HALTED, ", ".join(halt.scope.key for halt in covering), ends)


def _fresh(s: Situation, _: Candidate) -> GateResult:
    seen_us = s.device.last_seen_us
    if seen_us and s.now_us - seen_us <= duration_us(s.policy.thresholds.stale_after):
        return _FRESH_PASSED
    limit = text_of(s.policy.thresholds.stale_after)
    if not seen_us:
        return GateResult("fresh", Reason.STALE_INVENTORY, f"no report; the limit is {limit}")
    seen = f"{from_us(seen_us):%Y-%m-%d %H:%M} UTC"
    detail = f"last report at {seen}; the limit is {limit}"
    return GateResult("fresh", Reason.STALE_INVENTORY, detail)


def check_job_open(s: Situation, c: Candidate) -> GateResult:
    """Return the result of the gate `job_open`, which depends on the open job only."""
    entry = s.open_job
    if entry is None:
        return _JOB_OPEN_PASSED
    if not is_for(entry, c.need) and not entry.may_have_touched:
        return GateResult("job_open", detail=f"supersedes {entry.job_id}")
    return GateResult("job_open", Reason.JOB_OPEN, entry.job_id, from_us(entry.times_out_us))


def _attempts(s: Situation, c: Candidate) -> GateResult:
    failed = failures(s.job_history, c.need.action, c.need.intent) if s.job_history else ()
    if not failed:
        return _ATTEMPTS_PASSED
    tried, detail = _tried(s, failed)
    spent = tried >= s.policy.thresholds.max_attempts
    return GateResult("attempts", Reason.RETRIES_EXHAUSTED if spent else None, detail)


def _cool_down(s: Situation, c: Candidate) -> GateResult:
    rehearsed = _last_rehearsal(s, c)
    if rehearsed is not None:
        again_us = rehearsed.outcome_us + _REHEARSED_AGAIN_AFTER_US
        if s.now_us < again_us:
            detail = f"dry run: {rehearsed.job_id} would have been sent"
            return GateResult("cool_down", Reason.DRY_RUN, detail, from_us(again_us))
    if not s.job_history:
        return _COOL_DOWN_PASSED
    settled_us = _again_after_out_of_date_us(s, c)
    if settled_us is not None:
        detail = f"a newer job arrived before {_MOST_OUT_OF_DATE} within an hour: check the clocks"
        return GateResult("cool_down", Reason.COOLING_DOWN, detail, from_us(settled_us))
    failed = failures(s.job_history, c.need.action, c.need.intent)
    if not failed:
        return _COOL_DOWN_PASSED
    tried, detail = _tried(s, failed)
    limits, doublings = s.policy.thresholds, min(max(tried - 1, 0), _MOST_DOUBLINGS)
    wait_us = min(duration_us(limits.cool_down) << doublings, duration_us(limits.cool_down_max))
    ended_us = [one.outcome_us for one in failed if one.error_code not in _NO_COOL_DOWN]
    again_us = max(ended_us, default=s.now_us - wait_us) + wait_us
    if s.now_us >= again_us:
        return GateResult("cool_down", detail=detail)
    return GateResult("cool_down", Reason.COOLING_DOWN, detail, from_us(again_us))


def _again_after_out_of_date_us(s: Situation, c: Candidate) -> int | None:
    """Return the end of the wait after _MOST_OUT_OF_DATE jobs within an hour, else None.

    An executor supersedes a job that was issued before the newest job of its Mac: with clocks that
    differ, each new job would end so at once. Jobs that were superseded for another reason, as by
    halts, do not count.
    """
    ended_us = [
        one.outcome_us
        for one in attempts(s.job_history, c.need.action, c.need.intent)
        if one.outcome is Outcome.SUPERSEDED
        and one.error_code is ErrorCode.NEWER_JOB
        and not one.reset
        and s.now_us - _OUT_OF_DATE_WITHIN_US < one.outcome_us <= s.now_us
    ]
    if len(ended_us) < _MOST_OUT_OF_DATE:
        return None
    return sorted(ended_us)[-_MOST_OUT_OF_DATE] + _OUT_OF_DATE_WITHIN_US


def _last_rehearsal(s: Situation, c: Candidate) -> JobEntry | None:
    """Return the last ended job for the need if it was rehearsed and not reset, else None."""
    if not s.job_history:
        return None
    ended = attempts(s.job_history, c.need.action, c.need.intent)
    if not ended or ended[-1].reset or ended[-1].outcome is not Outcome.REHEARSED:
        return None
    return ended[-1]


def _tried(s: Situation, failed: JobHistory) -> tuple[int, str]:
    """Return the number of failed jobs in `failed` that reached the Mac, and a gate's detail.

    The detail is text: `2 of 5 attempts failed`.
    """
    tried = count_tried(s, failed)
    if not tried:
        return 0, f"{len(failed)} jobs ended before they reached the Mac"
    return tried, f"{tried} of {s.policy.thresholds.max_attempts} attempts failed"


def _confirmed(s: Situation, c: Candidate) -> GateResult:
    if c.need.needs_person:
        return GateResult("sure", Reason.NEEDS_PERSON, c.need.needs_person)
    if c.need.uncorroborated:
        detail = clean_text(f"only inventory reports that {c.need.uncorroborated}")
        return GateResult("sure", Reason.UNCORROBORATED, detail)
    confirmed_us = c.need.not_before_us
    if confirmed_us is None or s.now_us >= confirmed_us:
        return _SURE_PASSED
    return GateResult(
        "sure",
        Reason.AWAITING_CONTACT,
        "back after an absence: MDM gets a day to reach it",
        from_us(confirmed_us),
    )


def _deferral(s: Situation, c: Candidate) -> GateResult:
    release, opens_us = c.need.release, c.need.opens_us
    matures_us = None if c.is_past_deadline else c.need.matures_us
    if matures_us is not None and c.deadline_us is not None:
        matures_us = min(matures_us, c.deadline_us)
    if release is not None and opens_us is not None and s.now_us < opens_us:
        detail = f"the policy does not move Macs to macOS {release.version.line} yet"
        opens_at = from_us(max(opens_us, matures_us or 0))
        return GateResult("deferral", Reason.DEFERRED, detail, opens_at)
    if release is None or c.need.action in (Action.REINSTALL, Action.REIMAGE):
        return _DEFERRAL_PASSED
    if matures_us is None or s.now_us >= matures_us:
        return _DEFERRAL_PASSED
    severity = c.need.severity
    wait = text_of(s.policy.deferrals.for_severity(severity))
    detail = f"{release.version} ({severity}) waits {wait} after its release"
    return GateResult("deferral", Reason.DEFERRED, detail, from_us(matures_us))


def _method(_: Situation, c: Candidate) -> GateResult:
    return GateResult("method", c.choice.reason, c.choice.detail, c.choice.until)


def _disk(s: Situation, c: Candidate) -> GateResult:
    free, limits = s.device.free_disk_gb, s.policy.thresholds
    if c.need.action not in INSTALLATIONS or c.choice.method in (Method.ERASE_DEVICE, Method.ASR):
        return _passed("disk")
    wanted = limits.disk_upgrade_gb if c.need.action in _BIG_INSTALLS else limits.disk_update_gb
    failed_us = s.device.reported_us("failure_reason")
    if (
        declared_failure(s, c.need) is ErrorCode.NO_DISK_SPACE
        and s.device.reported_us("free_disk_gb") <= failed_us
        and s.now_us < failed_us + _DISK_FAILURE_LASTS_US
    ):
        detail = f"the Mac reported: {s.device.failure_reason}"
        until = from_us(failed_us + _DISK_FAILURE_LASTS_US)
        return GateResult("disk", Reason.LOW_DISK, clean_text(detail), until)
    if free is None:
        return GateResult("disk", detail="unknown: the executor looks first")
    detail = f"{free:g} GB free, {wanted:g} GB wanted"
    return GateResult("disk", None if free >= wanted else Reason.LOW_DISK, detail)


def _power(s: Situation, c: Candidate) -> GateResult:
    device, limits = s.device, s.policy.thresholds
    if c.need.action not in INSTALLATIONS:
        return _passed("power")
    if device.on_ac_power:
        return _passed("power")
    if device.battery_percent is None:
        if device.on_ac_power is False:
            return GateResult("power", Reason.LOW_POWER, "on battery; its charge is not known")
        return GateResult("power", detail="unknown: the executor looks first")
    apple = device.hardware in (HardwareClass.APPLE_SILICON, HardwareClass.VM)
    wanted = limits.battery_apple_silicon if apple else limits.battery_intel
    detail = f"battery {device.battery_percent:g} %, {wanted:g} % wanted"
    return GateResult(
        "power", None if device.battery_percent >= wanted else Reason.LOW_POWER, detail
    )


def _approval(s: Situation, c: Candidate) -> GateResult:
    if not c.erases:
        return _passed("approval", "erases nothing")
    for granted in s.approvals:
        approval = granted.approval
        if (
            approval.job_id == c.job_id
            and approval.udid == s.device.udid
            and approval.action == c.need.action
            and approval.serial in (None, s.device.serial)
            and approval.method in (None, c.choice.method)
            and s.now < approval.expires_at <= s.now + s.policy.approvals.lasts_at_most
        ):
            return GateResult("approval", detail=f"by {approval.by}")
    detail = f"{c.job_id} erases the Mac"
    failed = failures(s.job_history, c.need.action, c.need.intent) if s.job_history else ()
    if failed and failed[-1].error_code is ErrorCode.HISTORY_UNKNOWN:
        detail += f"; perhaps it was erased already: {failed[-1].job_id} ended as history_unknown"
    return GateResult("approval", Reason.AWAITING_APPROVAL, detail)


def _window(s: Situation, c: Candidate) -> GateResult:
    if not c.need.timed or s.site is None or s.site_name is None:
        return _passed("window")
    if c.is_past_deadline:
        return GateResult("window", detail="past its deadline")
    next_at = opens_at(s.policy.windows_of(s.site_name), s.site.zone, s.now)
    if next_at is None:
        until = None
    elif next_at <= s.now:
        return _passed("window", "open")
    else:
        until = next_at
    if c.deadline_us is not None:
        deadline_at = from_us(c.deadline_us)
        until = deadline_at if until is None else min(until, deadline_at)
    return GateResult("window", Reason.OUTSIDE_WINDOW, "closed", until)


def _capacity(s: Situation, c: Candidate) -> GateResult:
    reason, detail = capacity_objection(s, c.need)
    return (
        _passed("site_slots", detail)
        if reason is None
        else GateResult("site_slots", reason, detail)
    )


# --- the table ---


class GateRow(NamedTuple):
    """A gate: its name in decisions, its function, and the fields that it reads.

    `reads` has, for each reason that the gate gives, the fields of the Situation that can open the
    gate. The fields from which the candidate's method and `not_before_us` were computed belong to
    `method` and `sure`, which are the only gates that read these two.
    """

    name: str
    check: Callable[[Situation, Candidate], GateResult]
    reads: Reads


GATES: Final = (
    # The comment of each row is the condition under which the gate passes.
    GateRow(  # a site of the policy matches the Mac
        "site", _site, {Reason.SITE_UNKNOWN: ("site_name",)}
    ),
    GateRow(  # no exemption of the policy covers the Mac and the action, and the job destroys
        # nothing, or the policy does not exclude that for the Mac
        "exemption",
        _exempt,
        {
            Reason.EXEMPT: (
                *("policy", "now", "site", "device.hostname"),
                *("device.corroborated_hostname", "device.serial"),
                *("device.udid", "device.model"),
            ),
            Reason.LOCKED: ("site", "site_name", "policy", "device.serial", "device.udid"),
        },
    ),
    GateRow(  # the owner is known, and has not excluded the erase
        "owner",
        _owner,
        {
            Reason.OWNER_UNKNOWN: (
                *("device.is_of_company", "device.mdm_enrolled"),
                *("device.mdm_seen_us", "policy"),
            ),
            Reason.NEVER_ERASE: ("device.never_erase",),
            Reason.NOT_A_LOAN: ("device.loan_returned_at", "device.ownership"),
        },
    ),
    GateRow(  # the job destroys nothing, or no other Mac has an identifier of this one
        "identity", _identity, {Reason.IDENTITY_CONFLICT: ("identity",)}
    ),
    GateRow(  # no halt covers everything, the Mac's site, the action there, or an advisory of the
        # job; the release is not held for the Mac's model family
        "halt",
        _halted,
        {
            Reason.HALTED: ("halts", "now", "site_name"),
            Reason.RELEASE_FAILING: ("halts", "now", "site_name"),
        },
    ),
    GateRow(  # a source other than an administrator saw the Mac within `stale_after`
        "fresh", _fresh, {Reason.STALE_INVENTORY: ("device.last_seen_us", "now_us", "policy")}
    ),
    GateRow(  # no job is open, or it is for another need and has not touched the Mac (superseded)
        "job_open", check_job_open, {Reason.JOB_OPEN: ("open_job",)}
    ),
    GateRow(  # fewer attempts than `max_attempts` reached the Mac and failed since the last success
        "attempts",
        _attempts,
        {Reason.RETRIES_EXHAUSTED: ("job_history", "policy", "device.last_seen_us")},
    ),
    GateRow(  # the last failure is `cool_down` ago, doubled with each failure, and the last
        # rehearsal 14 days
        "cool_down",
        _cool_down,
        {
            Reason.COOLING_DOWN: ("job_history", "now_us", "policy", "device.last_seen_us"),
            Reason.DRY_RUN: ("job_history", "now_us"),
        },
    ),
    GateRow(  # no person is needed for it; a broken seal and old firmware are corroborated; MDM had
        # a day to reach a returned Mac
        "sure",
        _confirmed,
        {
            Reason.UNCORROBORATED: (
                *("policy", "device.corroborated_seal", "device.corroborated_firmware"),
            ),
            Reason.NEEDS_PERSON: ("policy", "device.ade_enrolled"),
            Reason.AWAITING_CONTACT: (
                *("now_us", "device.inventory_days"),
                *("device.inventory_seen_us", "device.mdm_seen_us"),
            ),
        },
    ),
    GateRow(  # the policy moves Macs to the line already, and the release is older than the
        # policy's deferral, or the deadline has passed
        "deferral",
        _deferral,
        {Reason.DEFERRED: ("now_us", "policy")},
    ),
    GateRow(  # a method that the policy allows has no obstacle (`methods.choose_method`)
        "method",
        _method,
        {
            # The reason is that of one method, but any method without an obstacle opens the gate:
            # every reason needs the fields of all methods.
            Reason.NO_METHOD: METHOD_READS,
            Reason.NO_RELEASE: METHOD_READS,
            Reason.NOT_ENROLLED: METHOD_READS,
            Reason.NOT_SUPERVISED: METHOD_READS,
            Reason.NO_BOOTSTRAP_TOKEN: METHOD_READS,
            Reason.NO_VOLUME_OWNER: METHOD_READS,
            Reason.NEEDS_PERSON: METHOD_READS,
            Reason.OTHER_UPDATE_RUNNING: METHOD_READS,
        },
    ),
    GateRow(  # enough free disk space, an unknown amount, or an action that needs none
        "disk",
        _disk,
        {
            Reason.LOW_DISK: (
                *("device.free_disk_gb", "policy", "now_us", "device.reported_us"),
                *("device.install_state", "device.failure_reason", "device.pending_version"),
            )
        },
    ),
    GateRow(  # AC power, or a battery that is charged enough or not known
        "power",
        _power,
        {
            Reason.LOW_POWER: (
                *("device.battery_percent", "device.on_ac_power"),
                *("device.hardware", "policy"),
            )
        },
    ),
    GateRow(  # the job erases nothing, or an approval for this job has not expired
        "approval",
        _approval,
        {
            Reason.AWAITING_APPROVAL: (
                *("approvals", "device.udid", "device.serial", "job_history", "now"),
                "policy",
            )
        },
    ),
    GateRow(  # the need ignores windows, its deadline has passed, or the site's window is open
        "window", _window, {Reason.OUTSIDE_WINDOW: ("now", "policy", "site", "site_name")}
    ),
    GateRow(  # the Mac is confirmed; the site got fewer jobs for the action in this hour than the
        # policy allows; its other Macs have fewer open jobs than `max_jobs`, if it is an
        # installation
        "site_slots",
        _capacity,
        {
            # A first contact through the MDM channel can change nothing but telemetry.
            Reason.NOT_CONFIRMED: ("site", "is_confirmed", "device.is_known_to_mdm"),
            Reason.HOURLY_LIMIT: ("site", "site_hour_jobs", "site_macs", "policy", "now"),
            Reason.SITE_FULL: ("site", "site_open_jobs"),
        },
    ),
)
_CHECKS: Final = tuple(row.check for row in GATES)
