"""The objections to one more job of a site: the Mac is not confirmed, the hour's jobs are issued.

Hours are those of UTC. A count for a clock hour needs no time of each job, and the Macs that wait
go in the order of their deadlines when the next hour begins. In any 60 minutes there are at most
twice as many jobs as in an hour.
"""

from datetime import timedelta

from pipeline.decide.needs.need import Need
from pipeline.decide.situation import Situation
from schemas.decisions import Reason
from schemas.jobs import INSTALLATIONS

Objection = tuple[Reason | None, str]


def capacity_objection(s: Situation, need: Need) -> Objection:
    """Return the reason for which the site has no capacity for a job for this need, and a detail.

    The reason is None if it has.
    """
    if s.site is None:
        return None, ""
    if not s.is_confirmed:
        return (
            Reason.NOT_CONFIRMED,
            "no MDM server, no allow-list and no operator confirms this Mac",
        )
    action = need.action
    issued = dict(s.site_hour_jobs).get(action.value, 0)
    limit = s.policy.blast_radius.limit(action, s.site_macs) if issued else None
    if limit is not None and issued >= limit:
        next_hour = s.now.replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)
        jobs = f"{issued} of {limit} {action.value} jobs of this hour issued"
        return Reason.HOURLY_LIMIT, f"{jobs}; the next hour begins at {next_hour:%H:%M} UTC"
    if action not in INSTALLATIONS:
        return None, ""
    full = s.site_open_jobs >= s.site.max_jobs
    return (
        Reason.SITE_FULL if full else None,
        f"{s.site_open_jobs} of {s.site.max_jobs} jobs open",
    )
