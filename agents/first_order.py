"""Evidence that the first order of a job was given before this journal knew the job. Pure.

A journal can be lost, or an older copy of it restored. Then a job arrives as new although its order
was given, so the Mac is examined before every first order. The history of a job is *unknown* if the
job was issued before the journal began to be complete (`agents.journal.Journal.complete_since`).

| history | the Mac shows | an erasing job | another job |
| --- | --- | --- | --- |
| any | the mark of the order | watch the order | watch it; declare its time again, fit or not |
| any | the order in the queue of its MDM server | wait for it | wait for it |
| unknown | the target, installed and booted since the issue | done | done |
| any | another installation since the issue | refuse | give the order |
| unknown | a boot since the issue, or no boot time | refuse | give the order |
| unknown | none of these, within IN_FLIGHT of the arrival | look again | give the order |
| unknown | none of these, later | give the order | give the order |
| known | none of the first four | give the order | give the order |

An update or upgrade whose target the Mac runs is done in each row (`agents.preflight`). An order
that is given twice erases a Mac twice or repeats an installation; a refusal costs one approval.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from agents.mac import Observation
from agents.preflight import erases, ran_since
from schemas.jobs import Job

# A Mac's clock may be slow by this: a boot that seems to be this much older than the order counts
# as a boot since the order.
CLOCK_MARGIN: Final = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Marked:
    """The Mac has carried out the order, or is carrying it out."""


@dataclass(frozen=True, slots=True)
class Queued:
    """The order waits in the queue of the Mac's MDM server."""


@dataclass(frozen=True, slots=True)
class Done:
    """The Mac shows the effect of the order."""


@dataclass(frozen=True, slots=True)
class Doubtful:
    """The order may have been given, and to give it twice would erase the Mac twice."""

    detail: str


@dataclass(frozen=True, slots=True)
class InFlight:
    """An order that was given earlier may still arrive: look again at `until`."""

    until: datetime


@dataclass(frozen=True, slots=True)
class NotGiven:
    """Nothing shows an earlier order."""


Evidence = Marked | Queued | Done | Doubtful | InFlight | NotGiven


def earlier_order(
    job: Job,
    look: Observation,
    now: datetime,
    *,
    marker: str,
    history_unknown: bool,
    settled_at: datetime,
) -> Evidence:
    """Return the evidence for an earlier order of this job, by the table of the module.

    `marker` is the name of the order. The mark of another step of the attempt counts too: a job
    that was issued again can have another method. At `settled_at` an order that was given before
    the job arrived has arrived at the Mac, or never will.
    """
    attempt = marker.rpartition("/")[0] + "/"
    if any(mark.startswith(attempt) for mark in look.marks):
        return Marked()
    if marker in look.pending:
        return Queued()
    installed_at, issued_at = look.installed_at, job.issued_at
    if history_unknown and installed_at is not None and ran_since(job, look, None, issued_at):
        return Done()
    if not erases(job):
        return NotGiven()
    if installed_at is not None and installed_at > issued_at:
        return Doubtful("a system was installed since the job was issued")
    if not history_unknown:
        return NotGiven()
    if look.boot_at is None:
        return Doubtful("the journal is newer than the job, and the Mac's boot time is unknown")
    if max(look.boot_at, installed_at or look.boot_at) > issued_at - CLOCK_MARGIN:
        return Doubtful("the journal is newer than the job, and the Mac booted since")
    return InFlight(settled_at) if now < settled_at else NotGiven()
