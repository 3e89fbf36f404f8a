"""The modules that `make mutate` samples, each with its tests, and the tests left out."""

from typing import Final

_DECIDE: Final = (
    "tests/unit/decide",
    "tests/unit/policy",
    "tests/unit/reconcile",
    "tests/property/test_affected.py",
    "tests/property/test_decide_laws.py",
)
_RECONCILE: Final = ("tests/unit/reconcile", "tests/property/test_reconcile_laws.py")
_STATE: Final = ("tests/unit/state", "tests/unit/decide", "tests/property/test_state_laws.py")
_AGENTS: Final = ("tests/unit/agents",)
_GATEWAY: Final = ("tests/unit/gateway",)
_INGEST: Final = (
    "tests/unit/ingest",
    "tests/property/test_feed_laws.py",
    "tests/property/test_secrets.py",
)
_RUNTIME: Final = ("tests/unit/runtime",)
_TRUST: Final = ("tests/unit/trust",)
_DISPATCH: Final = (
    "tests/unit/processors/test_dispatch_shard.py",
    "tests/unit/processors/test_dispatch_halts.py",
    "tests/unit/processors/test_dispatch_hours.py",
    "tests/unit/processors/test_signed_control.py",
)

# Tests that no mutant runs, with the reason; pytest ends their names where these end.
EXCLUDED: Final[dict[str, str]] = {
    "tests/unit/agents/ssh/test_run_script.py": "they run a script of the shell in real time",
    "tests/unit/agents/installers": "no module of the table runs there",
}

MODULES: Final[dict[str, tuple[str, ...]]] = {
    "pipeline/decide/gates.py": _DECIDE,
    "pipeline/decide/candidate.py": _DECIDE,
    "pipeline/decide/needs/enrollment.py": _DECIDE,
    "pipeline/decide/needs/reinstall.py": _DECIDE,
    "pipeline/decide/needs/reinstall_history.py": _DECIDE,
    "pipeline/decide/needs/update.py": _DECIDE,
    "pipeline/decide/blast_radius.py": _DECIDE,
    "pipeline/decide/confirmation.py": _DECIDE,
    "pipeline/decide/confirmed_version.py": _DECIDE,
    "pipeline/decide/protection.py": _DECIDE,
    "pipeline/decide/methods.py": _DECIDE,
    "pipeline/decide/windows.py": _DECIDE,
    "pipeline/decide/exposure.py": _DECIDE,
    "pipeline/decide/decision.py": _DECIDE,
    "pipeline/reconcile/automatic_halt.py": _RECONCILE,
    "pipeline/reconcile/failing_releases.py": _RECONCILE,
    "pipeline/reconcile/hourly_jobs.py": _RECONCILE,
    "pipeline/reconcile/new_macs.py": _RECONCILE,
    "pipeline/reconcile/deciding.py": (*_RECONCILE, "tests/property/test_fast_paths.py"),
    "pipeline/reconcile/decision_queue.py": _RECONCILE,
    "pipeline/reconcile/folding.py": _RECONCILE,
    "pipeline/reconcile/last_decision.py": _RECONCILE,
    "pipeline/reconcile/marking.py": _RECONCILE,
    "pipeline/reconcile/policy_in_force.py": _RECONCILE,
    "pipeline/reconcile/reconciler.py": _RECONCILE,
    "pipeline/reconcile/site_capacity.py": _RECONCILE,
    "pipeline/state/fleet.py": _STATE,
    "pipeline/state/controls.py": _STATE,
    "pipeline/state/line_index.py": (*_STATE, "tests/property/test_affected.py"),
    "pipeline/state/change.py": (*_STATE, "tests/property/test_affected.py"),
    "pipeline/state/identities.py": _STATE,
    "pipeline/state/identity.py": _STATE,
    "pipeline/state/strikes.py": _STATE,
    "pipeline/state/jobs.py": _STATE,
    "pipeline/state/job_ends.py": _STATE,
    "pipeline/state/device_folds.py": _STATE,
    "pipeline/state/advisories.py": _STATE,
    "pipeline/state/statements.py": _STATE,
    "agents/first_order.py": _AGENTS,
    "agents/lifecycle.py": _AGENTS,
    "agents/watching.py": _AGENTS,
    "agents/verification.py": _AGENTS,
    "agents/destructive_lock.py": ("tests/unit/agents/test_destructive_lock.py",),
    "agents/mdm/delivery.py": ("tests/unit/agents/mdm",),
    "agents/leases.py": ("tests/unit/agents/test_leases.py",),
    "pipeline/processors/dispatch_shard.py": _DISPATCH,
    "pipeline/processors/queued_job.py": _DISPATCH,
    "pipeline/gateway/delivery.py": _GATEWAY,
    "pipeline/gateway/drain.py": _GATEWAY,
    "pipeline/gateway/reconnecting.py": _GATEWAY,
    "pipeline/gateway/seq_ranges.py": _GATEWAY,
    "pipeline/gateway/spool.py": _GATEWAY,
    "pipeline/gateway/salvage.py": ("tests/faults/test_spool_damage.py",),
    "pipeline/trust/admission.py": _TRUST,
    "pipeline/trust/identity.py": _TRUST,
    "pipeline/trust/senders.py": _TRUST,
    "pipeline/trust/stamps.py": _TRUST,
    "pipeline/trust/times.py": _TRUST,
    "runtime/free_space.py": _RUNTIME,
    "runtime/retry.py": _RUNTIME,
    "runtime/sqlite.py": _RUNTIME,
    "pipeline/ingest/redaction.py": _INGEST,
    "pipeline/ingest/sofa_release.py": _INGEST,
}
