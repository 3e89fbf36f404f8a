"""The halt that Drydock itself sets: too many Macs of a site need one action within a day.

| Macs of the site that got a job for the action | one more Mac needs it |
| --- | --- |
| in the last 24 hours, fewer than `blast_radius.halt_above` allows | it gets its job |
| as many as allowed | the action is halted at the site; no job is issued |
| some of them before an operator resumed it | these do not count, nor do their later jobs |

The halt follows from the times of the jobs, the policy, and the last change of the halt. It is an
event like the halt of an operator, so a replay folds it. In one process the jobs are those issued,
on Kafka those that dispatch has published, because no partition knows a whole site.
"""

from datetime import datetime, timedelta
from typing import Final

from pipeline.policy.model import Policy
from pipeline.reconcile.changes import SOURCE
from pipeline.reconcile.hourly_jobs import HourlyJobs
from pipeline.state.device import duration_us, from_us, to_us
from pipeline.state.fleet import Fleet
from schemas.envelope import HaltSetEvent
from schemas.events.control import DRYDOCK_ITSELF, HaltScope, HaltSet
from schemas.ids import event_id
from schemas.jobs import Action

_DAY_US: Final = duration_us(timedelta(days=1))
# A resume less than a day ago, and the jobs of the day before it.
LOOK_BACK_US: Final = 2 * _DAY_US


def action_scope(site: str, action: Action) -> HaltScope:
    """Return the scope of a halt of one action at a site."""
    return HaltScope(site=site, action=action.value)


def automatic_halt(
    jobs: HourlyJobs,
    policy: Policy,
    fleet: Fleet,
    *,
    site: str,
    action: Action,
    udid: str,
    macs: int,
    now: datetime,
) -> HaltSetEvent | None:
    """Return the halt of the action at the site, if this Mac may not get a job for it any more.

    None if it may. `macs` is the number of the site's confirmed Macs. The caller ensures that no
    halt of the action is in force.
    """
    limit = policy.blast_radius.halt_limit(action, macs)
    if limit is None:
        return None
    scope, now_us = action_scope(site, action), to_us(now)
    resumed_us, day_ago_us = fleet.halt_changed_us(scope), now_us - _DAY_US
    earlier: set[str] = set()
    # While an action is halted, no job is issued: those of the moment of its end are later.
    if resumed_us > day_ago_us:
        earlier = jobs.macs_between(site, action, resumed_us - _DAY_US, resumed_us)
    counted = jobs.macs_between(site, action, max(day_ago_us, resumed_us), now_us + 1) - earlier
    if udid in counted or udid in earlier or len(counted) < limit:
        return None
    why = (
        f"{len(counted)} of {macs} Macs got a job for {action.value} within a day, and more need"
        f" it; find the cause, then: drydock resume {scope.key}"
    )
    # A halt counts only if it is later than the last change of its scope.
    at = from_us(max(now_us, resumed_us + 1))
    return HaltSetEvent(
        id=event_id("automatic halt", scope.key, at.isoformat()),
        source=SOURCE,
        subject=scope.key,
        time=at,
        data=HaltSet(scope=scope, by=DRYDOCK_ITSELF, why=why),
    )
