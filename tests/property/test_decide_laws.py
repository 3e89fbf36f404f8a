"""Laws of a decision: they hold for every Situation."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

from hypothesis import event, given, settings
from hypothesis import strategies as st

from pipeline.decide.decision import decide
from pipeline.decide.job import build_job
from pipeline.decide.recomputation import recompute
from pipeline.decide.situation import Situation
from pipeline.decide.windows import opens_at
from pipeline.reconcile.last_decision import fingerprint
from pipeline.reconcile.reconciler import Reconciler
from pipeline.state.device import to_us
from pipeline.state.jobs import add_job, add_result, open_job
from schemas.decisions import Decision, DecisionRecord, Gate, Reason, Severity, Verdict
from schemas.jobs import Action, Method, Target
from schemas.macos import parse_os_version
from schemas.results import Outcome
from tests.factories import NOW, result
from tests.strategies import situations

NOTHING = frozenset(
    {
        Reason.COMPLIANT,
        Reason.NO_ADVISORY,
        Reason.UNFIXABLE_HARDWARE,
        Reason.OS_UNKNOWN,
        Reason.UDID_UNKNOWN,
        Reason.SUPPLEMENT_PENDING,
        Reason.USER_ENROLLED,
        Reason.PERSONAL,
        Reason.RETIRED,
        Reason.MODEL_UNKNOWN,
        Reason.EXEMPT,
        Reason.UNCERTAIN,
    }
)
SEND = frozenset(
    {
        Reason.SECURITY_UPDATE,
        Reason.ROUTINE_UPDATE,
        Reason.LINE_OUT_OF_SUPPORT,
        Reason.POLICY_UPGRADE,
        Reason.UPDATE_KEEPS_FAILING,
        Reason.FIRMWARE_MISMATCH,
        Reason.SEAL_BROKEN,
        Reason.LOAN_RETURNED,
        Reason.CHECKED_OUT,
        Reason.ENROLLMENT_INCOMPLETE,
        Reason.NEVER_ENROLLED,
        Reason.MDM_SILENT,
        Reason.NOT_USER_APPROVED,
        Reason.WRONG_MDM_SERVER,
        Reason.IDENTITY_EXPIRING,
        Reason.REENROLL_AFTER_REINSTALL,
    }
)
# A hold never has a reason of `send`. Two reasons belong to both `hold` and `nothing`.
HOLD = frozenset(Reason) - SEND - (NOTHING - {Reason.MODEL_UNKNOWN, Reason.EXEMPT})
REASON_OF_GATE: dict[str, set[str]] = {
    "site": {Reason.SITE_UNKNOWN},
    "exemption": {Reason.EXEMPT, Reason.LOCKED},
    "owner": {Reason.OWNER_UNKNOWN, Reason.NEVER_ERASE, Reason.NOT_A_LOAN},
    "identity": {Reason.IDENTITY_CONFLICT},
    "halt": {Reason.HALTED, Reason.RELEASE_FAILING},
    "fresh": {Reason.STALE_INVENTORY},
    "job_open": {Reason.JOB_OPEN},
    "attempts": {Reason.RETRIES_EXHAUSTED},
    "cool_down": {Reason.COOLING_DOWN},
    "sure": {Reason.AWAITING_CONTACT, Reason.NEEDS_PERSON, Reason.UNCORROBORATED},
    "deferral": {Reason.DEFERRED},
    "method": {
        Reason.NO_METHOD,
        Reason.NO_RELEASE,
        Reason.NOT_ENROLLED,
        Reason.NOT_SUPERVISED,
        Reason.NO_BOOTSTRAP_TOKEN,
        Reason.NO_VOLUME_OWNER,
        Reason.OTHER_UPDATE_RUNNING,
        Reason.NEEDS_PERSON,
    },
    "disk": {Reason.LOW_DISK},
    "power": {Reason.LOW_POWER},
    "approval": {Reason.AWAITING_APPROVAL},
    "window": {Reason.OUTSIDE_WINDOW},
    "site_slots": {Reason.SITE_FULL, Reason.HOURLY_LIMIT, Reason.NOT_CONFIRMED},
    "follow_up": {Reason.AWAITING_FOLLOW_UP},
}


def _has_the_right_reason(s: Situation, decision: Decision) -> None:
    failing = [gate.gate for gate in decision.gates if not gate.passed]
    if decision.decision is Verdict.HOLD:
        assert decision.reason in HOLD
        assert decision.reason in REASON_OF_GATE[failing[0]]
    else:
        assert not failing
        assert decision.reason in (SEND if decision.decision is Verdict.SEND else NOTHING)
    if decision.reason is Reason.COMPLIANT:
        assert not decision.cves


def _can_be_computed_again(s: Situation, decision: Decision) -> None:
    assert decide(replace(s)).model_dump_json() == decision.model_dump_json()
    record = Reconciler().record_of(decision, s)
    read = DecisionRecord.model_validate_json(record.model_dump_json())
    assert recompute(read, s.policy, s.advisories).model_dump_json() == decision.model_dump_json()


def _sends_a_new_job(s: Situation, decision: Decision) -> None:
    if decision.decision is not Verdict.SEND:
        return
    job = build_job(s, decision)
    assert (job.job_id, job.erases) == (decision.job_id, decision.erases)
    assert s.now < job.expires_at
    assert job.job_id not in {entry.job_id for entry in s.job_history}
    assert s.approvals or not job.erases


def _keeps_to_the_window(s: Situation, decision: Decision) -> None:
    if decision.decision is not Verdict.SEND or decision.action is Action.REENROLL:
        return
    if decision.reason is Reason.LOAN_RETURNED and not s.policy.loans.wait_for_window:
        return
    assert s.site is not None
    assert s.site_name is not None
    is_open = opens_at(s.policy.windows_of(s.site_name), s.site.zone, s.now) == s.now
    assert is_open or (decision.deadline_at is not None and s.now >= decision.deadline_at)


def _leaves_begun_jobs_alone(s: Situation, decision: Decision) -> None:
    entry = open_job(s.job_history)
    if entry is not None and entry.may_have_touched:
        assert decision.decision is not Verdict.SEND
        if decision.supersedes is not None:
            assert entry.method is Method.DDM
            reported_us = s.device.reported_us("install_state")
            is_old = reported_us <= to_us(s.now - timedelta(days=1))
            assert s.device.install_state not in ("prepared", "installing") or is_old
    if decision.supersedes is not None:
        assert entry is not None
        assert decision.supersedes == entry.job_id


def _keeps_an_order_that_was_just_begun(s: Situation, decision: Decision) -> None:
    """A declared update that is withdrawn at once would be sent, and withdrawn, without end."""
    if decision.decision is not Verdict.SEND:
        return
    job = build_job(s, decision)
    started = result(job, Outcome.STARTED)
    history = add_result(add_job(s.job_history, job), started, s.now_us)
    assert decide(replace(s, job_history=history)).supersedes is None


LAWS = (
    _has_the_right_reason,
    _keeps_an_order_that_was_just_begun,
    _can_be_computed_again,
    _sends_a_new_job,
    _keeps_to_the_window,
    _leaves_begun_jobs_alone,
)


@settings(max_examples=4 * settings().max_examples)
@given(situations())
def test_every_situation_gets_one_lawful_decision(s: Situation) -> None:
    decision = decide(s)
    event(decision.reason.value)
    for law in LAWS:
        law(s, decision)


@given(situations(), st.integers(1, 60 * 24 * 30))
def test_time_alone_sends_no_job_before_next_eligible_at(s: Situation, minutes: int) -> None:
    """`next_eligible_at` is not too late: no job could be sent before it without an event."""
    decision = decide(s)
    later = s.now + timedelta(minutes=minutes)
    until = decision.next_eligible_at
    if decision.decision is Verdict.SEND or (until is not None and later >= until):
        return
    assert decide(replace(s, now=later)).decision is not Verdict.SEND


OTHER: dict[str, Any] = {
    "udid": "MAC-2",
    "serial": "C02OTHER0001",
    "site": "tokyo",
    "decision": Verdict.HOLD,
    "action": Action.UPGRADE,
    "method": Method.ASR,
    "target": Target(version=parse_os_version("26.9")),
    "reason": Reason.OUTSIDE_WINDOW,
    "advisory_ids": ("macOS-26.9",),
    "cves": ("CVE-2026-9",),
    "exploited_cves": ("CVE-2026-9",),
    "deadline_at": NOW,
    "next_eligible_at": NOW,
    "severity": Severity.LOW,
    "erases": True,
    "job_id": "job-other",
    "intent": "26.9",
    "generation": 9,
    "supersedes": "job-old",
    "findings": ("something",),
}
NOT_IN_FINGERPRINT = {"gates", "evidence", "finding_details"}


def test_fingerprint_covers_every_field_but_texts_of_observations() -> None:
    plain = Decision(udid="MAC-1", decision=Verdict.SEND, reason=Reason.SECURITY_UPDATE)
    assert set(OTHER) | NOT_IN_FINGERPRINT == set(Decision.model_fields)
    others = [plain.model_copy(update={name: value}) for name, value in OTHER.items()]
    prints = [fingerprint(one) for one in (plain, *others)]
    assert len(set(prints)) == len(prints)
    excluded = {
        "gates": (Gate(gate="disk", passed=True),),
        "evidence": ("yes",),
        "finding_details": ("yes",),
    }
    assert fingerprint(plain.model_copy(update=excluded)) == prints[0]
