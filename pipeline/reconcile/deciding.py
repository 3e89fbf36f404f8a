"""Decides for one Mac until nothing follows, then for the Macs that wait for the freed capacity.

One step folds a result or a withdrawal that ends the Mac's job, or halts an action that too many
Macs of the site need, or else makes the decision and issues its job. Each step that changes the
Mac's jobs or the halts is followed by another one: a job that was issued leads to the decision to
hold the Mac for it.
"""

import json
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from operator import attrgetter
from typing import Any, Final, NamedTuple

from pipeline.decide.confirmed_version import with_confirmed_version
from pipeline.decide.decision import Evaluation, evaluate
from pipeline.decide.exposure import Exposure, exposure
from pipeline.decide.fast.after_send import reevaluate_after_send
from pipeline.decide.job import build_job
from pipeline.decide.job_events import issued_event, result_event, superseded_event
from pipeline.decide.situation import Situation, site_of
from pipeline.policy.model import Policy
from pipeline.reconcile.automatic_halt import automatic_halt
from pipeline.reconcile.changes import SOURCE, Changes, DerivedRecord, Rejection, bug_detail
from pipeline.reconcile.decision_queue import DecisionQueue
from pipeline.reconcile.folding import Folding
from pipeline.reconcile.last_decision import (
    LastDecision,
    LastDecisions,
    action_bits,
    fingerprint,
    shared_codes,
)
from pipeline.reconcile.policy_in_force import PolicyInForce
from pipeline.reconcile.site_capacity import SiteCapacity
from pipeline.state.device import Device, from_us, to_us
from pipeline.state.fleet import Fleet
from pipeline.state.identity import Identity
from pipeline.state.job_ends import infer_result
from pipeline.state.jobs import JobEntry, extra_open_jobs, open_job
from schemas.dead_letters import DeadLetterCode
from schemas.decisions import Decision, DecisionInputs, DecisionRecord, Verdict, encode_record
from schemas.envelope import JobIssuedEvent
from schemas.fast.models import construct_unchecked
from schemas.jobs import INSTALLATIONS, Action, Job, JobIssued

Sign = Callable[[Job], JobIssued]
# More than the jobs of one Mac that can be open at once.
_MAX_STEPS: Final = 100


class _Mac(NamedTuple):
    """The inputs of a decision that the events derived from a decision do not change."""

    device: Device
    site: str | None
    policy: Policy
    identity: Identity


class Deciding:
    """Decides for the Macs of one fleet; without `sign` no job can be issued."""

    def __init__(
        self,
        fleet: Fleet,
        in_force: PolicyInForce,
        capacity: SiteCapacity,
        last_decisions: LastDecisions,
        queue: DecisionQueue,
        folding: Folding,
        sign: Sign | None,
        *,
        fast_paths: bool,
    ) -> None:
        self._fleet = fleet
        self._in_force = in_force
        self._capacity = capacity
        self._last_decisions = last_decisions
        self._queue = queue
        self._folding = folding
        self._sign = sign
        self._fast_paths = fast_paths
        # The detail of the last dead letter of a Mac that has not been decided since.
        self._failing: dict[str, str] = {}
        # The last evaluation, if it sent a job: the next one is mostly of the same Mac.
        self._last_sent: tuple[Situation, Evaluation] | None = None
        # A Mac and its wire form: two records in a row are mostly of the same.
        self._last_wire: tuple[Device, dict[str, Any]] | None = None

    def decide(self, udid: str, now: datetime, changes: Changes) -> None:
        """Decide for one Mac with all that follows from it.

        Events that end its jobs are folded first: the Mac's reports, the time or the decision end
        a job. Then freed capacity is assigned. Without a policy, and for a record that belongs to
        another Mac, nothing is done. The last decision of a forgotten Mac is dropped. An exception
        is a Rejection; the last decision stays.
        """
        if self._in_force.policy is None or self._fleet.canonical_udid(udid) is not None:
            return
        freed: dict[str, None] = {}
        try:
            self._decide_to_end(udid, now, freed, changes)
        except Exception as error:  # noqa: BLE001 - one Mac's bug must not hold up the others
            self._reject_decision(udid, error, changes)
        if self._fleet.is_forgotten(udid):
            self._last_decisions.remove(udid)
            changes.last_decisions[udid] = None
        for site in freed:
            self.assign_capacity(site, now, changes)

    def assign_capacity(self, site: str, now: datetime, changes: Changes) -> None:
        """Decide for Macs that wait for the site, while it has capacity.

        The Mac with the first deadline is decided first, a Mac without a deadline last. A Mac that
        is decided leaves the queue. Nothing without a policy, or if the policy lacks the site.
        """
        policy = self._in_force.policy
        if policy is None or site not in policy.sites:
            return
        while actions := self._actions_with_capacity(site, policy, to_us(now)):
            udid = self._capacity.pop_waiting(site, actions, self._last_decisions.by_udid)
            if udid is None:
                return
            self.decide(udid, now, changes)

    def _actions_with_capacity(self, site: str, policy: Policy, now_us: int) -> list[Action]:
        """Return the actions for which the site can get another job."""
        is_full = self._capacity.site_jobs[site] >= policy.sites[site].max_jobs
        macs, found = self._folding.sizes.macs_of(site), []
        for action in Action:
            limit = policy.blast_radius.limit(action, macs)
            issued = self._capacity.count_issued(site, action, now_us)
            if (limit is None or issued < limit) and not (is_full and action in INSTALLATIONS):
                found.append(action)
        return found

    def _decide_to_end(
        self, udid: str, now: datetime, freed: dict[str, None], changes: Changes
    ) -> None:
        mac = self._mac_of(udid)  # no step changes it
        for _ in range(_MAX_STEPS):
            if not self._step(udid, self._situation_of(mac, now), freed, changes):
                return
        raise AssertionError(f"the jobs of {udid} change without end")

    def _step(
        self, udid: str, situation: Situation, freed: dict[str, None], changes: Changes
    ) -> bool:
        """Fold the next event that ends a job of the Mac, or else decide for it.

        A decision is kept if it differs from the last one or sends a job. The sites where a job
        ended are added to `freed`. Returns True if the Mac's jobs changed: then it must be decided
        again.
        """
        last, now = self._last_decisions.by_udid.get(udid), situation.now
        entry = situation.open_job
        if entry is not None and self._ends_job(entry, situation, freed, changes):
            return True
        found = self._evaluate(situation)
        decision = found.decision
        sends = decision.decision is Verdict.SEND
        # Before a withdrawal: an open job is not withdrawn for a job that the halt holds.
        if sends and self._halts_action(situation, decision, changes):
            return True
        digest = fingerprint(decision)
        # The withdrawal of a begun job is sent once: its executor answers with a result.
        is_new = last is None or last.fingerprint != digest
        is_due = entry is not None and (is_new or not entry.may_have_touched)
        if decision.supersedes is not None and entry is not None and is_due:
            by = decision.job_id or decision.reason.value
            event = superseded_event(entry, udid, by, SOURCE, now)
            if self._folding.apply_derived(event, udid, freed, changes):
                return True
        # A job that was ordered before and is in no job history was lost: it is sent again.
        if not is_new and not sends:
            return False
        # All that can raise comes first: then either all of it is in `changes`, or nothing.
        issued = self._issue(situation, decision, now) if sends else None
        record = self.record_of(decision, situation)
        body = encode_record(record, fast_paths=self._fast_paths)
        self._remember_decision(found, digest)
        self._failing.pop(udid, None)
        changes.records.append(DerivedRecord(udid, body, record))
        changes.last_decisions[udid] = None
        self._last_sent = (situation, found) if sends and self._fast_paths else None
        if issued is None:
            return False
        return self._folding.apply_derived(issued, udid, freed, changes)

    def _ends_job(
        self, entry: JobEntry, s: Situation, freed: dict[str, None], changes: Changes
    ) -> bool:
        """Fold the event that ends an extra open job of the Mac, or its open job `entry`.

        Returns True if one changed the Mac's jobs.
        """
        udid = s.device.udid
        for extra in extra_open_jobs(s.job_history):
            event = superseded_event(extra, udid, entry.job_id, SOURCE, s.now)
            if self._folding.apply_derived(event, udid, freed, changes):
                return True
        result = infer_result(entry, s.device, udid, s.now)
        if result is None:
            return False
        settled = result_event(result, SOURCE, s.now)
        return self._folding.apply_derived(settled, udid, freed, changes)

    def _halts_action(self, s: Situation, decision: Decision, changes: Changes) -> bool:
        """Halt the action of a decision to send if too many Macs of its site got a job for it.

        Returns True if it is halted, and the Macs that the halt affects are queued.
        """
        if not self._capacity.has_whole_sites:
            return False
        assert decision.site is not None, "a gate holds a Mac without a site"
        assert decision.action is not None
        event = automatic_halt(
            *(self._capacity.issued, s.policy, self._fleet),
            site=decision.site,
            action=decision.action,
            udid=s.device.udid,
            macs=s.site_macs,
            now=s.now,
        )
        if event is None:
            return False
        self._queue.add_batch(self._folding.apply_halt(event, changes))
        return True

    def _issue(self, s: Situation, decision: Decision, now: datetime) -> JobIssuedEvent:
        """Return the event that issues the signed job of a decision to send."""
        assert self._sign is not None, "a reconciler without `sign` only folds"
        job = build_job(s, decision, fast_paths=self._fast_paths)
        return issued_event(self._sign(job), SOURCE, now)

    def _evaluate(self, s: Situation) -> Evaluation:
        """Return the evaluation of this Situation.

        Only the gate `job_open` is evaluated again if the last decision sent a job, and that job,
        now open, is the only difference of the Situations.
        """
        if self._last_sent is not None:
            (before, evaluation), self._last_sent = self._last_sent, None
            if _differs_by_open_job(s, before, evaluation.decision.job_id):
                return reevaluate_after_send(s, evaluation)
        return evaluate(s, fast_paths=self._fast_paths)

    def _reject_decision(self, udid: str, error: Exception, changes: Changes) -> None:
        """Add a Rejection for a Mac for which deciding raised, with its state.

        Nothing if the Mac failed with the same error before, without a decision since.
        """
        detail = bug_detail("deciding", error)
        if self._failing.get(udid) != detail:
            self._failing[udid] = detail
            raw = json.dumps(self._fleet.merged_device(udid).to_wire()).encode()
            changes.rejections.append(Rejection(raw, DeadLetterCode.BUG, detail, udid=udid))

    # --- the inputs of a decision ---

    def situation(self, udid: str, now: datetime) -> Situation:
        """Return the Situation of this Mac at `now`. The caller ensures that there is a policy."""
        return self._situation_of(self._mac_of(udid), now)

    def _mac_of(self, udid: str) -> "_Mac":
        policy = self._in_force.policy
        assert policy is not None
        device = self._fleet.merged_device(udid)
        return _Mac(device, site_of(device, policy), policy, self._fleet.identity(device))

    def _situation_of(self, mac: "_Mac", now: datetime) -> Situation:
        device, site, policy, identity = mac
        history = self._fleet.job_history_of(device)
        own_job = open_job(history)
        found = Situation(
            device,
            self._fleet.advisories,
            policy,
            now,
            history,
            (*self._fleet.halts(), *self._folding.failing_releases.holds(device)),
            self._fleet.approvals(device.udid),
            self._capacity.count_others(site, own_job),
            identity=identity,
            site_macs=self._folding.sizes.macs_of(site),
            site_hour_jobs=self._capacity.others_of_hour(site, own_job, to_us(now)),
        )
        if self._fast_paths:
            # The values that the Situation's own properties would compute.
            settings = None if site is None else policy.sites[site]
            found.__dict__.update(site_name=site, site=settings, open_job=own_job)
        return found

    def record_of(self, decision: Decision, s: Situation) -> DecisionRecord:
        """Return the record of a decision of this Situation.

        Its inputs suffice to compute the decision again, with the policy and the catalogue of its
        digests.
        """
        values = {
            "now": s.now,
            "device": self._wire_of(s.device),
            "job_history": [entry.to_wire() for entry in s.job_history],
            "policy_digest": self._in_force.digest,
            "catalog_digest": s.advisories.digest,
            "halts": tuple([halt.model_dump_json() for halt in s.halts]),
            "approvals": tuple([one.model_dump(mode="json") for one in s.approvals]),
            "site_open_jobs": s.site_open_jobs,
            "identity": s.identity.to_wire(),
            "site_macs": s.site_macs,
            "site_hour_jobs": s.site_hour_jobs,
        }
        if not self._fast_paths:
            return DecisionRecord(decision=decision, inputs=DecisionInputs(**values))
        inputs = construct_unchecked(DecisionInputs, values)
        return construct_unchecked(DecisionRecord, {"decision": decision, "inputs": inputs})

    def _wire_of(self, device: Device) -> dict[str, Any]:
        """Return the device as JSON values; with `fast_paths` those of the last device are kept."""
        if not self._fast_paths:
            return device.to_wire()
        if self._last_wire is None or self._last_wire[0] is not device:
            self._last_wire = device, device.to_wire()
        return self._last_wire[1]

    # --- last decisions ---

    def keep(self, udid: str, last: LastDecision) -> None:
        """Keep the Mac's last decision, with its timer and its wait for capacity."""
        self._last_decisions.put(udid, last)
        if last.recheck_us:
            self._queue.set_timer(udid, last.recheck_us)
        self._capacity.wait(udid, last)

    def restore(self, udid: str, last: LastDecision) -> None:
        """Keep a stored decision, and compute the Mac's exposure from the present catalogue.

        If the catalogue has changed since the decision, the Mac is decided again.
        """
        policy, device = self._in_force.policy, self._fleet.devices.get(udid)
        if last.severity is not None and policy is not None and device is not None:
            # Only metrics have the exposure, and no Mac prevents a start.
            with suppress(Exception):
                exposed = self._exposure(udid, policy)
                last = last._replace(
                    exposed_us=exposed.since_us, exploited=exposed.cve_releases.exploited
                )
        self.keep(udid, last)

    def _exposure(self, udid: str, policy: Policy) -> Exposure:
        device = self._fleet.merged_device(udid)
        history = self._fleet.job_history_of(device)
        # An exposure does not depend on the time.
        s = Situation(device, self._fleet.advisories, policy, from_us(0), history)
        return exposure(with_confirmed_version(s))

    def _remember_decision(self, found: Evaluation, digest: bytes) -> None:
        """Keep the evaluation as the Mac's last decision, with its timer and its queue entry."""
        decision = found.decision
        deadline, next_at = decision.deadline_at, decision.next_eligible_at
        last = LastDecision(
            digest,
            decision.decision,
            decision.reason,
            0 if next_at is None else to_us(next_at),
            decision.site,
            decision.severity if decision.cves else None,
            0 if deadline is None else to_us(deadline),
            found.recheck_on_telemetry,
            action_bits(found.waits_for),
            shared_codes(decision.findings),
            found.exposed.since_us if decision.cves else 0,
            found.exposed.cve_releases.exploited if decision.exploited_cves else (),
        )
        self.keep(decision.udid, last)


_ALL_BUT_HISTORY: Final = attrgetter(
    *("device", "advisories", "policy", "now", "halts", "approvals", "site_open_jobs", "identity"),
    *("site_macs", "site_hour_jobs"),
)


def _differs_by_open_job(s: Situation, before: Situation, job_id: str | None) -> bool:
    """Return True if the Situation is `before` plus the open job `job_id` as its newest job."""
    if not s.job_history or s.job_history[-1].job_id != job_id or not s.job_history[-1].is_open:
        return False
    return s.job_history[:-1] == before.job_history and _ALL_BUT_HISTORY(s) == _ALL_BUT_HISTORY(
        before
    )
