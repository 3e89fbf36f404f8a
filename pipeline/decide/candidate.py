"""A need as the gates read it: with its method, exposure, deadline and the id of its next job."""

import msgspec

from pipeline.decide.exposure import Exposure, deadline_of, zone_of
from pipeline.decide.methods import Choice
from pipeline.decide.needs.need import Need, target
from pipeline.decide.situation import Situation
from pipeline.state.jobs import JobEntry
from schemas.ids import derive_job_id
from schemas.jobs import Method, Target


class Candidate(msgspec.Struct, frozen=True):
    """A need with its method, exposure, deadline and job id, as the gates read it.

    `deadline_us` is in us since 1970, and None for a need that does not wait for windows or a Mac
    without a missing release. `is_past_deadline` is True from then on. `generation` is the number
    of the job among all jobs for this intent, from 0. `running` is the release on the Mac; None if
    its version is unknown.
    """

    need: Need
    choice: Choice
    exposed: Exposure
    deadline_us: int | None
    is_past_deadline: bool
    job_id: str
    generation: int
    running: Target | None = None

    @property
    def erases(self) -> bool:
        """True if the job destroys the data on the Mac."""
        return self.need.erases or self.choice.method is Method.ERASE_DEVICE

    @property
    def target(self) -> Target | None:
        """The release that the Mac has after the job; EraseDevice keeps the one that runs.

        None if that is not known, or if the job installs nothing.
        """
        return self.running if self.choice.method is Method.ERASE_DEVICE else self.need.target

    @property
    def advisory_ids(self) -> tuple[str, ...]:
        """The advisories that the Mac lacks; that of the job's release comes first if added.

        A halt on any of them covers a need with a release.
        """
        release, ids = self.need.release, self.exposed.cve_releases.advisory_ids
        return ids if release is None or release.advisory_id in ids else (release.advisory_id, *ids)


def make_candidate(s: Situation, need: Need, choice: Choice, exposed: Exposure) -> Candidate:
    """Return the need as a candidate, with its deadline and the id of its next job.

    The generation is one more than the highest of the other jobs for this intent, or 0 for the
    first. The open job is not counted: while it is open, the next job for its intent is itself.
    """
    earlier = [
        entry.generation
        for entry in s.job_history
        if entry.action is need.action and entry.intent == need.intent and entry is not s.open_job
    ]
    generation = max(earlier) + 1 if earlier else 0
    deadline_us = _deadline_us(s, need, exposed)
    return Candidate(
        need,
        choice,
        exposed,
        deadline_us,
        deadline_us is not None and s.now_us >= deadline_us,
        derive_job_id(s.device.udid, need.action, need.intent, generation),
        generation,
        running=None
        if s.device.os_version is None
        else target(s.device.os_version, s.device.build),
    )


def _deadline_us(s: Situation, need: Need, exposed: Exposure) -> int | None:
    """Return the earlier deadline of the Mac's exposure and of the need itself, in us, or None."""
    if not need.timed:
        return None
    due_us = exposed.deadline_us(s.policy.deadlines, zone_of(s))
    if need.due_us is not None:
        due_us = need.due_us if due_us is None else min(due_us, need.due_us)
    return deadline_of(s, due_us)


def is_for(entry: JobEntry, need: Need) -> bool:
    """Return True if the job has the action and the intent of this need."""
    return entry.action is need.action and entry.intent == need.intent
