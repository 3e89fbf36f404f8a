"""Decisions for one Mac, and their records with all inputs, from which replay decides again."""

from enum import StrEnum
from typing import Any

from pydantic import AwareDatetime

from schemas.fast.json_bytes import record_json
from schemas.ids import TextField
from schemas.jobs import Action, Method, Target
from schemas.model import WireModel


class Verdict(StrEnum):
    """The kind of a decision: send a job, hold it for now, or nothing to do."""

    SEND = "send"
    HOLD = "hold"
    NOTHING = "nothing"


class Reason(StrEnum):
    """The closed set of reasons of a decision. The value is the same in log, metric and record."""

    # nothing
    COMPLIANT = "compliant"
    NO_ADVISORY = "no_advisory"
    UNFIXABLE_HARDWARE = "unfixable_hardware"
    OS_UNKNOWN = "os_unknown"
    UDID_UNKNOWN = "udid_unknown"
    USER_ENROLLED = "user_enrolled"
    PERSONAL = "personal"
    RETIRED = "retired"
    SUPPLEMENT_PENDING = "supplement_pending"
    UNCERTAIN = "uncertain"
    # send
    SECURITY_UPDATE = "security_update"
    ROUTINE_UPDATE = "routine_update"
    LINE_OUT_OF_SUPPORT = "line_out_of_support"
    POLICY_UPGRADE = "policy_upgrade"
    UPDATE_KEEPS_FAILING = "update_keeps_failing"
    FIRMWARE_MISMATCH = "firmware_mismatch"
    SEAL_BROKEN = "seal_broken"
    LOAN_RETURNED = "loan_returned"
    CHECKED_OUT = "checked_out"
    NEVER_ENROLLED = "never_enrolled"
    MDM_SILENT = "mdm_silent"
    NOT_USER_APPROVED = "not_user_approved"
    WRONG_MDM_SERVER = "wrong_mdm_server"
    IDENTITY_EXPIRING = "identity_expiring"
    REENROLL_AFTER_REINSTALL = "reenroll_after_reinstall"
    ENROLLMENT_INCOMPLETE = "enrollment_incomplete"
    ACTIVATION_MISSING = "activation_missing"
    # hold
    NO_POLICY = "no_policy"
    EXEMPT = "exempt"
    HALTED = "halted"
    RELEASE_FAILING = "release_failing"
    SITE_UNKNOWN = "site_unknown"
    OWNER_UNKNOWN = "owner_unknown"
    LOCKED = "locked"
    NEVER_ERASE = "never_erase"
    NOT_A_LOAN = "not_a_loan"
    IDENTITY_CONFLICT = "identity_conflict"
    STALE_INVENTORY = "stale_inventory"
    JOB_OPEN = "job_open"
    COOLING_DOWN = "cooling_down"
    DRY_RUN = "dry_run"
    RETRIES_EXHAUSTED = "retries_exhausted"
    DEFERRED = "deferred"
    OUTSIDE_WINDOW = "outside_window"
    LOW_DISK = "low_disk"
    LOW_POWER = "low_power"
    NO_BOOTSTRAP_TOKEN = "no_bootstrap_token"
    NO_VOLUME_OWNER = "no_volume_owner"
    NOT_SUPERVISED = "not_supervised"
    NOT_ENROLLED = "not_enrolled"
    NO_METHOD = "no_method"
    NO_RELEASE = "no_release"
    OTHER_UPDATE_RUNNING = "other_update_running"
    MODEL_UNKNOWN = "model_unknown"
    NEEDS_PERSON = "needs_person"
    AWAITING_APPROVAL = "awaiting_approval"
    AWAITING_CONTACT = "awaiting_contact"
    AWAITING_FOLLOW_UP = "awaiting_follow_up"
    SITE_FULL = "site_full"
    HOURLY_LIMIT = "hourly_limit"
    NOT_CONFIRMED = "not_confirmed"
    UNCORROBORATED = "uncorroborated"


class Severity(StrEnum):
    """Severity of a Mac's worst exposure. A policy sets times for each value."""

    EXPLOITED = "exploited"
    CRITICAL = "critical"
    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"
    ROUTINE = "routine"


class Gate(WireModel):
    """One check of a decision. `until` is the time at which a failed gate can pass by itself.

    It is None if the gate passed, or if only an event can make it pass.
    """

    gate: TextField
    passed: bool
    detail: TextField = ""
    until: AwareDatetime | None = None


class Decision(WireModel):
    """The verdict for one Mac at one time, with its reason and gates.

    - `gates`: in the order of evaluation; the first that did not pass is the reason of a hold.
    - `next_eligible_at`: the earliest time at which the decision can change without an event; None
      if only an event can change it, and in every decision to send.
    - `supersedes`: the id of an open job that this decision withdraws: not yet begun, or declared.
    - `cves`: all CVEs that the Mac is exposed to; `exploited_cves`: those known to be exploited.
    - `evidence`: the observations that justify a reinstall, or a reimage or its refusal.
    - `findings`: codes of `schemas.findings.FindingCode`: what is wrong or unknown, and no job
      corrects; `finding_details`: what was observed, as texts.
    """

    udid: TextField
    serial: TextField | None = None
    site: TextField | None = None
    decision: Verdict
    action: Action | None = None
    method: Method | None = None
    target: Target | None = None
    reason: Reason
    gates: tuple[Gate, ...] = ()
    advisory_ids: tuple[TextField, ...] = ()
    cves: tuple[str, ...] = ()
    exploited_cves: tuple[str, ...] = ()
    deadline_at: AwareDatetime | None = None
    next_eligible_at: AwareDatetime | None = None
    severity: Severity | None = None
    erases: bool = False
    job_id: TextField | None = None
    intent: TextField | None = None
    generation: int | None = None
    supersedes: TextField | None = None
    evidence: tuple[TextField, ...] = ()
    findings: tuple[TextField, ...] = ()
    finding_details: tuple[TextField, ...] = ()


class DecisionInputs(WireModel):
    """All inputs of one decision.

    `policy_digest` and `catalog_digest` are SHA-256 digests of the policy's text and of the
    catalogue of advisories, which are kept outside the record. `device` is `Device.to_wire()`;
    `job_history` is a list of `JobEntry.to_wire()`. `identity` is None for a Mac whose identifiers
    no other Mac has, else its conflicts (`pipeline.state.identity.Identity`). `site_macs` are the
    confirmed Macs of the site, `site_hour_jobs` by action the jobs that it got in this hour.
    """

    now: AwareDatetime
    device: Any
    job_history: Any = None
    policy_digest: str | None = None
    catalog_digest: str
    halts: tuple[str, ...] = ()
    approvals: tuple[Any, ...] = ()
    site_open_jobs: int = 0
    identity: Any = None
    site_macs: int = 0
    site_hour_jobs: tuple[tuple[str, int], ...] = ()


class DecisionRecord(WireModel):
    """A decision with its inputs: deciding from `inputs` again gives the same `decision`."""

    decision: Decision
    inputs: DecisionInputs


def encode_record(record: DecisionRecord, *, fast_paths: bool = True) -> bytes:
    """Return the record as JSON; the same bytes with `fast_paths` or without."""
    return record_json(record) if fast_paths else record.model_dump_json().encode()
