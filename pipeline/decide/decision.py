"""The decision for one Mac: send a job, hold it, or nothing, with the reason and the gates.

| state of the Mac | verdict | reason |
| --- | --- | --- |
| left alone, whatever it lacks | nothing | `protection.left_alone` chooses it |
| a need passes every gate | send the first such need | the need's reason |
| needs, all held | hold | the first closed gate, of the first need or of the open job's need |
| no need, the last reinstall not confirmed | hold | `awaiting_follow_up` |
| no need | nothing | `_without_need` chooses it |

Needs are evaluated in their order (`needs`). A need that is exclusive, or whose job is
open, ends the evaluation: no later need is sent in its place.

An open job is withdrawn (`supersedes`) by a job for another need, by a hold that makes it unwanted
(`withdrawn_by_hold`), or if nothing is needed. Invariant: a job whose executor may have touched the
Mac is withdrawn only if it is a declaration that the Mac has not begun to carry out. The executor
takes that back and reports its end; until then the job is open and no other is sent.
"""

from datetime import datetime
from typing import Final

import msgspec

from pipeline.decide.candidate import Candidate, is_for, make_candidate
from pipeline.decide.earlier_system import has_earlier_system_field, with_present_system
from pipeline.decide.exposure import NO_EXPOSURE, Exposure, deadline_of, exposure, zone_of
from pipeline.decide.findings import (
    UNCERTAIN,
    Finding,
    details,
    findings_of,
    is_unknown_to_mdm,
    of_halted_action,
)
from pipeline.decide.gate_reads import FOLLOW_UP_READS, reasons_on_telemetry
from pipeline.decide.gates import (
    GATES,
    GateResult,
    evaluate_gates,
    opens_by_itself_at,
    to_gate,
)
from pipeline.decide.methods import choose_method, is_update_running
from pipeline.decide.needs.enrollment import has_earlier_enrollment_field, next_enrollment_fault_us
from pipeline.decide.needs.order import loan_times_us, needs
from pipeline.decide.needs.reinstall_history import follow_up_missing
from pipeline.decide.needs.update import is_installable, next_supplement_due_us, upgrade_obstacle
from pipeline.decide.protection import LEFT_ALONE, OBJECTIONS, is_owner_unknown, left_alone
from pipeline.decide.situation import Situation
from pipeline.state.device import from_us
from pipeline.state.jobs import JobEntry
from schemas.decisions import Decision, Gate, Reason, Severity, Verdict
from schemas.fast.models import construct_unchecked
from schemas.jobs import Action, Method
from schemas.results import Outcome

# A report that changes only telemetry can end a decision with one of these reasons.
_TELEMETRY_REASONS: Final = reasons_on_telemetry(*(row.reads for row in GATES), FOLLOW_UP_READS)


# A closed gate with one of these reasons makes an open job unwanted.
_UNWANTED: Final = OBJECTIONS | {Reason.EXEMPT, Reason.LOCKED, Reason.RELEASE_FAILING}

_WAITS_FOR_CAPACITY: Final = frozenset({Reason.SITE_FULL, Reason.HOURLY_LIMIT})


class GatedNeed(msgspec.Struct, frozen=True):
    """A need with the results of all gates, and of the closed ones (none if it can be sent)."""

    candidate: Candidate
    gates: tuple[GateResult, ...]
    closed: tuple[GateResult, ...]

    @classmethod
    def of_results(cls, candidate: Candidate, gates: tuple[GateResult, ...]) -> "GatedNeed":
        """Return the need with these results, which are in the order of GATES."""
        return cls(candidate, gates, tuple([one for one in gates if one.reason is not None]))

    def is_stopped_by(self, reason: Reason) -> bool:
        """Return True if a closed gate gives this reason."""
        return reason in [result.reason for result in self.closed]

    @property
    def opens_at(self) -> datetime | None:
        """The earlier of two times: all closed gates have opened by time; a newer release matures.

        None if neither is known: then only an event can change the need.
        """
        opens, matures_us = opens_by_itself_at(self.closed), self.candidate.need.newer_matures_us
        if matures_us is None:
            return opens
        matures_at = from_us(matures_us)
        return matures_at if opens is None else min(opens, matures_at)


class Evaluation(msgspec.Struct, frozen=True):
    """A decision, and the inputs that can change it without a change of the device's state.

    `recheck_on_telemetry`: True if a report that brings only telemetry can change it.
    `waits_for`: the actions for which capacity of the site can change it. `gated_needs`: for a job
    that is sent, the needs evaluated, the last of which is sent; else empty. `exposed` is the
    exposure of the decision.
    """

    decision: Decision
    recheck_on_telemetry: bool
    waits_for: frozenset[Action] = frozenset()
    gated_needs: tuple[GatedNeed, ...] = ()
    exposed: Exposure = NO_EXPOSURE


def decide(s: Situation, *, fast_paths: bool = True) -> Decision:
    """Return the decision for this Mac, with its reason and gates.

    Pure and total: any Situation gives one Decision. With `fast_paths` the decision's own values
    are not validated again; the result is the same.
    """
    return evaluate(s, fast_paths=fast_paths).decision


def evaluate(s: Situation, *, fast_paths: bool = True) -> Evaluation:
    """Return the decision, and the inputs that can change it (see Evaluation)."""
    s = with_present_system(s)
    alone, exposed = left_alone(s), exposure(s)
    if alone is not None:
        # Nobody can act on these Macs, so their releases are not overdue.
        missing = exposed if alone is Reason.UDID_UNKNOWN else NO_EXPOSURE
        is_retired = alone is Reason.RETIRED
        left = _nothing(s, missing, alone)
        return Evaluation(left, recheck_on_telemetry=is_retired, exposed=missing)
    held: list[GatedNeed] = []
    for need in needs(s, exposed):
        candidate = make_candidate(s, need, choose_method(s, need), exposed)
        held.append(GatedNeed.of_results(candidate, evaluate_gates(s, candidate)))
        if not held[-1].closed:
            sent = _send(s, candidate, held[-1].gates, fast_paths=fast_paths)
            return Evaluation(
                sent, recheck_on_telemetry=True, gated_needs=tuple(held), exposed=exposed
            )
        # An open job for this need must not be withdrawn for a less urgent need.
        if need.exclusive or held[-1].is_stopped_by(Reason.JOB_OPEN):
            break
    if not held:
        rest = _without_need(s, exposed)
        return Evaluation(
            rest,
            recheck_on_telemetry=rest.reason in _TELEMETRY_REASONS or _waits_for_contact(s),
            exposed=exposed,
        )
    return evaluation_of_hold(s, held, hold(s, held, fast_paths=fast_paths))


def _waits_for_contact(s: Situation) -> bool:
    """Return True if a report or a contact can change the decision, although no field changes."""
    return (
        has_earlier_system_field(s)
        or s.contradicted is not None
        or s.device.enrolling
        or is_unknown_to_mdm(s)
        or is_owner_unknown(s)
        or has_earlier_enrollment_field(s)
    )


def evaluation_of_hold(s: Situation, held: list[GatedNeed], decision: Decision) -> Evaluation:
    """Return `decision`, the hold for `held`, with the inputs that can end it."""
    reasons = {result.reason for one in held for result in one.closed}
    return Evaluation(
        decision,
        # Any MDM contact can show that a Mac is enrolled after all.
        recheck_on_telemetry=not reasons.isdisjoint(_TELEMETRY_REASONS)
        or any(
            one.candidate.need.action is Action.REENROLL or not one.candidate.need.mdm_usable
            for one in held
        )
        or _waits_for_contact(s),
        waits_for=frozenset(
            [
                one.candidate.need.action
                for one in held
                if any(result.reason in _WAITS_FOR_CAPACITY for result in one.closed)
            ]
        ),
        exposed=held[0].candidate.exposed,
    )


def _without_need(s: Situation, exposed: Exposure) -> Decision:
    """Return the decision for a Mac without needs.

    It is `nothing`, with the reason `compliant` or a reason for which no job helps; a hold if the
    version is known and the last reinstall is not confirmed in every point.
    """
    version = s.device.os_version
    if version is None:
        return _nothing(s, exposed, Reason.OS_UNKNOWN)
    missing = follow_up_missing(s)
    if missing:
        return _awaiting_follow_up(s, exposed, missing)
    stuck = upgrade_obstacle(s)
    if stuck is not None:
        return _nothing(s, exposed, stuck)
    if s.line_is_supported is False:
        upgrades = s.policy.upgrades.out_of_support
        return _nothing(s, exposed, Reason.NO_ADVISORY if upgrades else Reason.EXEMPT)
    if exposed.line.releases:
        waits = all(release.version.supplement for release in exposed.line.releases)
        # Otherwise it lacks a release that Apple offers to no Mac any more.
        return _nothing(s, exposed, Reason.SUPPLEMENT_PENDING if waits else Reason.UNCERTAIN)
    if s.line_is_supported is None or version.line not in s.advisories.lines:
        return _nothing(s, exposed, Reason.NO_ADVISORY)
    findings = findings_of(s, exposed, has_need=False)
    certain = UNCERTAIN.isdisjoint(code for code, _ in findings)
    return _nothing(s, exposed, Reason.COMPLIANT if certain else Reason.UNCERTAIN, findings)


def _severity(exposed: Exposure) -> Severity | None:
    """Return the worst severity of the missing releases; None if the Mac lacks none."""
    return exposed.severity if exposed.cve_releases.releases else None


def _withdrawable_job(s: Situation) -> JobEntry | None:
    """Return the open job if it can still be withdrawn.

    None if no job is open, or if its executor may have touched the Mac; a declared update can be
    withdrawn until the Mac begins it.
    """
    entry = s.open_job
    if entry is None or (entry.may_have_touched and not _is_only_declared(s, entry)):
        return None
    return entry


def _is_only_declared(s: Situation, entry: JobEntry) -> bool:
    """Return True if a begun job is a declaration, and no report shows that the Mac carries it out.

    After `acted` its executor has taken the declaration back already.
    """
    is_declared = entry.method is Method.DDM and entry.outcome is not Outcome.ACTED
    return is_declared and not is_update_running(s)


def withdrawn_by_hold(s: Situation, held: list[GatedNeed]) -> str | None:
    """Return the id of the open job that a hold makes unwanted; None if no job is withdrawn.

    A job that cannot be withdrawn is kept. Another is kept if it is of the Mac's present site
    and serves a held need that is neither exempt nor objected to (`protection`), and whose release
    is not held for the model family: it was issued for that need, or it has the same action and a
    release that the Mac still lacks and is offered. A newer release replaces such a job when it is
    sent, not while it is held; a declared update when the open job alone holds the newer one. A
    site that changed, or a need that comes before it, does not end a declared update.
    """
    entry = _withdrawable_job(s)
    if entry is None:
        return None
    if entry.may_have_touched:
        return entry.job_id if _is_declared_in_vain(s, entry, held) else None
    kept = entry.site == s.site_name and any(
        _UNWANTED.isdisjoint(result.reason for result in one.closed)
        and (
            is_for(entry, one.candidate.need)
            or (entry.action is one.candidate.need.action and _still_offered(s, entry))
        )
        for one in held
    )
    return None if kept else entry.job_id


def _is_declared_in_vain(s: Situation, entry: JobEntry, held: list[GatedNeed]) -> bool:
    """Return True if a declared update is unwanted: held, offered no more, or replaced at once.

    The reasons of another action, such as of an exempt upgrade, count only if no need has its own:
    else it would be sent again, and withdrawn, without end.
    """
    own = _needs_of_action(s, entry, held)
    reasons = {result.reason for one in own or held for result in one.closed}
    if not _UNWANTED.isdisjoint(reasons) or not _still_offered(s, entry):
        return True
    return any(_holds_only_for(entry, one) for one in (*held, *own))


def _needs_of_action(s: Situation, entry: JobEntry, held: list[GatedNeed]) -> list[GatedNeed]:
    """Return the needs with the action of the open job, also those after the held ones."""
    own = [one for one in held if one.candidate.need.action is entry.action]
    if own:
        return own
    exposed = exposure(s)
    for need in needs(s, exposed):
        if need.action is entry.action:
            candidate = make_candidate(s, need, choose_method(s, need), exposed)
            own.append(GatedNeed.of_results(candidate, evaluate_gates(s, candidate)))
    return own


def _holds_only_for(entry: JobEntry, one: GatedNeed) -> bool:
    """Return True if this open job alone holds the update or upgrade to another release."""
    need, closed = one.candidate.need, [result.reason for result in one.closed]
    is_other = need.action in (Action.UPDATE, Action.UPGRADE) and not is_for(entry, need)
    return is_other and closed == [Reason.JOB_OPEN]


def _still_offered(s: Situation, entry: JobEntry) -> bool:
    """Return True if the job updates or upgrades to a release that the Mac lacks and is offered.

    False for other actions, a job without a target, and a Mac whose version is unknown.
    """
    device = s.device
    if entry.action not in (Action.UPDATE, Action.UPGRADE) or device.os_version is None:
        return False
    if entry.version is None:
        return False
    missing = s.advisories.missing(entry.version.line, device.os_version, device.build, s.device_id)
    return is_installable(s, missing, entry.version)


def next_eligible_at(s: Situation, *times: datetime | None) -> datetime | None:
    """Return the first future time at which the decision can change without an event; None if none.

    Considered are `times`, the timeout of the open job, the next fault of the enrollment, and for a
    loan unit its return and the end of the wait for its erase.
    """
    more_us = (*loan_times_us(s), next_enrollment_fault_us(s))
    known = [*times, *(from_us(us) for us in more_us if us is not None)]
    return _first_future(s, *known, _job_timeout(s))


def _job_timeout(s: Situation) -> datetime | None:
    return None if s.open_job is None else from_us(s.open_job.times_out_us)


def _first_future(s: Situation, *times: datetime | None) -> datetime | None:
    return min([one for one in times if one is not None and one > s.now], default=None)


def _nothing(
    s: Situation, exposed: Exposure, reason: Reason, findings: tuple[Finding, ...] | None = None
) -> Decision:
    """Return the decision `nothing` with this reason; it withdraws the open job if it can.

    `findings` are those of the Mac without a need, worked out here if they are None.
    """
    if findings is None:
        findings = findings_of(s, exposed, has_need=False)
    if reason in LEFT_ALONE:
        next_at = _first_future(s, _job_timeout(s))
    else:
        due_us = next_supplement_due_us(s, exposed.line)
        next_at = next_eligible_at(s, None if due_us is None else from_us(due_us))
    deadline_us = deadline_of(s, exposed.deadline_us(s.policy.deadlines, zone_of(s)))
    withdrawn = _withdrawable_job(s)
    return Decision(
        udid=s.device.udid,
        serial=s.device.serial,
        site=s.site_name,
        decision=Verdict.NOTHING,
        reason=reason,
        advisory_ids=exposed.cve_releases.advisory_ids,
        cves=exposed.cves,
        exploited_cves=exposed.cve_releases.exploited,
        severity=_severity(exposed),
        deadline_at=None if deadline_us is None else from_us(deadline_us),
        next_eligible_at=next_at,
        supersedes=None if withdrawn is None else withdrawn.job_id,
        findings=tuple(code for code, _ in findings),
        finding_details=details(findings),
    )


def _awaiting_follow_up(s: Situation, exposed: Exposure, missing: tuple[str, ...]) -> Decision:
    quiet = _nothing(s, exposed, Reason.AWAITING_FOLLOW_UP)
    gate = Gate(gate="follow_up", passed=False, detail=", ".join(missing))
    return quiet.model_copy(update={"decision": Verdict.HOLD, "gates": (gate,)})


def _send(
    s: Situation, c: Candidate, gates: tuple[GateResult, ...], *, fast_paths: bool
) -> Decision:
    entry = s.open_job
    supersedes = None if entry is None else entry.job_id
    return _build_decision(
        *(s, c, gates, Verdict.SEND, c.need.reason), supersedes=supersedes, fast_paths=fast_paths
    )


def hold(s: Situation, held: list[GatedNeed], *, fast_paths: bool) -> Decision:
    """Return the hold for `held`, which is not empty.

    It shows the need that the gate `job_open` holds, if there is one, else the first need; its
    reason is that of the need's first closed gate.
    """
    shown = held[-1] if held[-1].is_stopped_by(Reason.JOB_OPEN) else held[0]
    reason = shown.closed[0].reason
    assert reason is not None
    return _build_decision(
        *(s, shown.candidate, shown.gates, Verdict.HOLD, reason),
        next_at=next_eligible_at(s, *(one.opens_at for one in held)),
        supersedes=withdrawn_by_hold(s, held),
        fast_paths=fast_paths,
    )


def _build_decision(
    s: Situation,
    c: Candidate,
    gates: tuple[GateResult, ...],
    verdict: Verdict,
    reason: Reason,
    *,
    next_at: datetime | None = None,
    supersedes: str | None = None,
    fast_paths: bool,
) -> Decision:
    need, findings = c.need, findings_of(s, c.exposed, has_need=True)
    if s.halts:
        findings += of_halted_action(s, need.action)
    values = {
        "udid": s.device.udid,
        "serial": s.device.serial,
        "site": s.site_name,
        "decision": verdict,
        "action": need.action,
        "method": c.choice.method,
        "target": c.target,
        "reason": reason,
        "gates": tuple(map(to_gate, gates)),
        "advisory_ids": c.advisory_ids,
        "cves": c.exposed.cves,
        "exploited_cves": c.exposed.cve_releases.exploited,
        "deadline_at": None if c.deadline_us is None else from_us(c.deadline_us),
        "next_eligible_at": next_at,
        "severity": _severity(c.exposed),
        "erases": c.erases,
        "job_id": c.job_id,
        "intent": need.intent,
        "generation": c.generation,
        "supersedes": supersedes,
        "evidence": need.evidence,
        "findings": tuple(code for code, _ in findings),
        "finding_details": details(findings),
    }
    # Only evidence contains text of the Mac inside longer text, which can exceed the limit of
    # TextField, so it is validated.
    if need.evidence or not fast_paths:
        return Decision(**values)
    return construct_unchecked(Decision, values)
