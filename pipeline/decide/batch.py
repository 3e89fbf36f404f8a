"""Decisions for all Macs of a set of events, at one time, without a broker or a store."""

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from typing import Final

from pipeline.decide.decision import decide
from pipeline.decide.situation import Situation
from pipeline.policy.model import Policy
from pipeline.state.device import Device, to_us
from pipeline.state.fleet import Fleet
from pipeline.state.job_ends import infer_result
from pipeline.state.jobs import JobHistory, add_result, open_job
from schemas.decisions import Decision
from schemas.envelope import (
    Event,
    JobEvent,
    JobIssuedEvent,
    JobResultedEvent,
    JobSupersededEvent,
    PolicyChangedEvent,
)

_CLOCK_MARGIN: Final = timedelta(minutes=5)


def is_known_at(event: Event, now: datetime) -> bool:
    """Return True unless the event is dated after `now` and some minutes for clocks that are ahead.

    A later time is not yet known at `now`, or is that of a wrong clock: it would win until then.
    """
    return event.time <= now + _CLOCK_MARGIN


def fold_events(events: Iterable[Event]) -> Fleet:
    """Return the fleet that the events describe; their order and repeats do not matter.

    Policies are ignored. Results are folded after the jobs that they belong to, by time: a result
    without its job would change nothing.
    """
    fleet = Fleet()
    job_events: list[JobEvent] = []
    for event in events:
        if isinstance(event, JobIssuedEvent | JobSupersededEvent | JobResultedEvent):
            job_events.append(event)
        elif not isinstance(event, PolicyChangedEvent):
            fleet.apply(event)
    for event in sorted(job_events, key=_job_order):
        fleet.apply(event)
    return fleet


def decide_all(
    fleet: Fleet, policy: Policy, now: datetime, *, fast_paths: bool = True
) -> Iterator[Decision]:
    """Yield one decision for each Mac, in the order of the UDIDs.

    An open job that the Mac's reports or the time have ended counts as ended. Each Mac is decided
    alone: the jobs that other Macs of its site have open are not counted, so the gate `site_slots`
    compares the site's limit with 0.
    """
    for udid in sorted(fleet.macs()):
        device = fleet.merged_device(udid)
        yield decide(
            Situation(
                device,
                fleet.advisories,
                policy,
                now,
                _with_inferred_result(fleet.job_history_of(device), device, now),
                fleet.halts(),
                fleet.approvals(udid),
                identity=fleet.identity(device),
            ),
            fast_paths=fast_paths,
        )


def _job_order(event: JobEvent) -> tuple[bool, int, str, str]:
    return not isinstance(event, JobIssuedEvent), to_us(event.time), event.source, event.id


def _with_inferred_result(history: JobHistory, device: Device, now: datetime) -> JobHistory:
    """Return the job history with the open job ended, if the Mac's reports or the time end it.

    Else the history is returned unchanged.
    """
    entry = open_job(history)
    result = None if entry is None else infer_result(entry, device, device.udid, now)
    return history if result is None else add_result(history, result, to_us(now))
