"""Controls of a fleet, set by operators or the service: policy, halts, approvals, resets. Pure.

Each event replaces the value of its key if it wins by time; equal times have a rule of their own,
so that events applied twice, or in any order, give the same state.
"""

from collections.abc import Collection, Mapping
from typing import Any

from schemas.envelope import (
    ApprovalDeniedEvent,
    ApprovalGrantedEvent,
    AttemptsResetEvent,
    HaltClearedEvent,
    HaltSetEvent,
    PolicyChangedEvent,
)
from schemas.events.control import (
    ApprovalGranted,
    AttemptsReset,
    HaltScope,
    HaltSet,
    PolicyChanged,
)

ControlEvent = (
    PolicyChangedEvent
    | HaltSetEvent
    | HaltClearedEvent
    | ApprovalGrantedEvent
    | ApprovalDeniedEvent
    | AttemptsResetEvent
)


class Controls:
    """The newest policy, and the newest halt, approval and reset of each key, with their times."""

    def __init__(self) -> None:
        self._halts: dict[str, tuple[int, HaltSet | None]] = {}
        self._active_halts: tuple[HaltSet, ...] = ()
        self._approvals: dict[str, tuple[int, ApprovalGranted | None]] = {}
        self._approved_jobs: dict[str, dict[str, None]] = {}
        self._policy: tuple[int, PolicyChanged] | None = None
        self._resets: dict[str, tuple[int, AttemptsReset]] = {}

    # --- folding ---

    def fold(self, event: ControlEvent, us: int) -> bool:
        """Fold one event of the time `us`; return True if it changed anything."""
        if isinstance(event, PolicyChangedEvent):
            return self._apply_policy((us, event.data))
        if isinstance(event, AttemptsResetEvent):
            return self._apply_reset((us, event.data))
        if isinstance(event, HaltSetEvent | HaltClearedEvent):
            halt = event.data if isinstance(event, HaltSetEvent) else None
            return self._apply_halt(event.data.scope.key, (us, halt))
        granted = event.data if isinstance(event, ApprovalGrantedEvent) else None
        _, job_id = approved(event)
        return self._apply_approval(job_id, (us, granted))

    def _apply_policy(self, new: tuple[int, PolicyChanged]) -> bool:
        if self._policy is not None and _policy_order(new) <= _policy_order(self._policy):
            return False
        self._policy = new
        return True

    def _apply_halt(self, key: str, new: tuple[int, HaltSet | None]) -> bool:
        old = self._halts.get(key)
        if old is not None and _halt_order(new) <= _halt_order(old):
            return False
        self._halts[key] = new
        self._list_halts()
        return True

    def _apply_approval(self, job_id: str, new: tuple[int, ApprovalGranted | None]) -> bool:
        old = self._approvals.get(job_id)
        if old is not None and _grant_order(new) <= _grant_order(old):
            return False
        self._set_approval(job_id, *new)
        return True

    def _apply_reset(self, new: tuple[int, AttemptsReset]) -> bool:
        key = new[1].key
        old = self._resets.get(key)
        if old is not None and _reset_order(new) <= _reset_order(old):
            return False
        self._resets[key] = new
        return True

    def _list_halts(self) -> None:
        self._active_halts = tuple(
            halt for _, (_, halt) in sorted(self._halts.items()) if halt is not None
        )

    def _set_approval(self, job_id: str, us: int, granted: ApprovalGranted | None) -> None:
        """Replace the approval of a job by this one; None means that it was denied at `us`."""
        old = self._approvals.get(job_id)
        if old is not None and old[1] is not None:
            del self._approved_jobs[old[1].approval.udid][job_id]
        self._approvals[job_id] = (us, granted)
        if granted is not None:
            self._approved_jobs.setdefault(granted.approval.udid, {})[job_id] = None

    def snapshot(self) -> "Controls":
        """Return a copy that later events do not change."""
        copied = Controls()
        copied._halts = dict(self._halts)
        copied._active_halts = self._active_halts
        copied._approvals = dict(self._approvals)
        copied._approved_jobs = {udid: dict(jobs) for udid, jobs in self._approved_jobs.items()}
        copied._policy = self._policy
        copied._resets = dict(self._resets)
        return copied

    # --- queries ---

    @property
    def policy(self) -> PolicyChanged | None:
        """The policy in force; None before the first."""
        return None if self._policy is None else self._policy[1]

    @property
    def halts(self) -> tuple[HaltSet, ...]:
        """The halts that were not cleared, sorted by scope; expired ones are included."""
        return self._active_halts

    @property
    def resets(self) -> Collection[tuple[int, AttemptsReset]]:
        """The newest reset of each scope, with its time in us since 1970."""
        return self._resets.values()

    def halt_changed_us(self, scope: HaltScope) -> int:
        """Return the time, in us since 1970, of the newest change of this halt, or 0."""
        return self._halts.get(scope.key, (0, None))[0]

    def approvals(self, udid: str) -> tuple[ApprovalGranted, ...]:
        """Return the approvals for this Mac that were not denied later, sorted by job id."""
        jobs = self._approved_jobs.get(udid)
        if not jobs:
            return ()
        grants = (self._approvals[job_id][1] for job_id in sorted(jobs))
        return tuple(grant for grant in grants if grant is not None)

    # --- persistence ---

    def to_fields(self) -> dict[str, Any]:
        """Return the controls as JSON values with their times, for `load`."""
        return {
            "halts": {
                key: [us, None if halt is None else halt.model_dump(mode="json")]
                for key, (us, halt) in sorted(self._halts.items())
            },
            "approvals": {
                key: [us, None if grant is None else grant.model_dump(mode="json")]
                for key, (us, grant) in sorted(self._approvals.items())
            },
            "policy": None
            if self._policy is None
            else [self._policy[0], self._policy[1].model_dump(mode="json")],
            "resets": {
                key: [us, reset.model_dump(mode="json")]
                for key, (us, reset) in sorted(self._resets.items())
            },
        }

    def load(self, wire: Mapping[str, Any]) -> None:
        """Load what `to_fields` wrote into empty controls; `resets` may be missing."""
        for key, (us, halt) in wire["halts"].items():
            self._halts[key] = (us, None if halt is None else HaltSet.model_validate(halt))
        self._list_halts()
        for key, (us, grant) in wire["approvals"].items():
            granted = None if grant is None else ApprovalGranted.model_validate(grant)
            self._set_approval(key, us, granted)
        if wire["policy"] is not None:
            us, policy = wire["policy"]
            self._policy = (us, PolicyChanged.model_validate(policy))
        for key, (us, reset) in wire.get("resets", {}).items():
            self._resets[key] = (us, AttemptsReset.model_validate(reset))


def approved(event: ApprovalGrantedEvent | ApprovalDeniedEvent) -> tuple[str, str]:
    """Return UDID and job id of the approval that the event grants or denies."""
    if isinstance(event, ApprovalGrantedEvent):
        return event.data.approval.udid, event.data.approval.job_id
    return event.data.udid, event.data.job_id


def _policy_order(one: tuple[int, PolicyChanged]) -> tuple[int, str, str]:
    """Return a sort key, of which the greatest wins: time, then digest, then the event's JSON."""
    return one[0], one[1].digest, one[1].model_dump_json()


def _halt_order(one: tuple[int, HaltSet | None]) -> tuple[int, bool, str]:
    """Return a sort key, of which the greatest wins: time first.

    At equal times the halt wins over its clearing (None), the safer choice.
    """
    us, halt = one
    return us, halt is not None, "" if halt is None else halt.model_dump_json()


def _grant_order(one: tuple[int, ApprovalGranted | None]) -> tuple[int, bool, str]:
    """Return a sort key, of which the greatest wins: time first.

    At equal times the denial (None) wins over the approval, the safer choice.
    """
    us, grant = one
    return us, grant is None, "" if grant is None else grant.model_dump_json()


def _reset_order(one: tuple[int, AttemptsReset]) -> tuple[int, str]:
    """Return a sort key, of which the greatest wins: time, then the event's JSON."""
    return one[0], one[1].model_dump_json()
