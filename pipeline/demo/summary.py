"""The figures of a run. The same seed gives the same summary."""

from collections import Counter
from typing import Any, Final

from pipeline.demo.drive import STEP
from pipeline.demo.outcome import RunOutcome, time_to_patch
from pipeline.demo.scenario import ADVISORY_AT, Scenario

_ACTIONS: Final = ("update", "upgrade", "reinstall", "reenroll")


def summarize(outcome: RunOutcome, scenario: Scenario, seed: int) -> dict[str, Any]:
    """Return the figures of a run as JSON values.

    `exposed_before` is counted one step after the advisory was published. `hours_to_patched` is
    simulated time from its publication, over the Macs that were patched. `ok` is True if exactly
    the Macs that no job can patch are exposed at the end, and each action of `_ACTIONS` succeeded
    at least once. `unexpectedly_left` are the serial numbers of the Macs that a job could patch
    and that are exposed at the end.
    """
    jobs = outcome.jobs_by()
    succeeded = {action for action, _, result in jobs if result == "succeeded"}
    left = outcome.still_exposed()
    stuck = {udid for udid, part in scenario.parts.items() if part.stays_exposed}
    return {
        "seed": seed,
        "devices": len(scenario.specs),
        "events": outcome.events,
        "decisions": outcome.decisions,
        "exposed_before": outcome.exposed_at(ADVISORY_AT + STEP),
        "exposed_after": outcome.exposed,
        "exposed_expected": len(stuck),
        "hours_to_patched": {
            "50": _hours(time_to_patch(outcome, ADVISORY_AT, 0.50)),
            "95": _hours(time_to_patch(outcome, ADVISORY_AT, 0.95)),
        },
        "jobs": [
            {"action": action, "method": method, "outcome": result, "jobs": count}
            for (action, method, result), count in sorted(jobs.items())
        ],
        "left": [
            {"reason": reason, "macs": count}
            for reason, count in sorted(Counter(one["reason"] for one in left).items())
        ],
        "unexpectedly_left": sorted(one["serial"] for one in left if one["udid"] not in stuck),
        "ok": {one["udid"] for one in left} == stuck and succeeded >= set(_ACTIONS),
    }


def _hours(hours: float | None) -> float | None:
    """Return the hours rounded to one decimal; None stays None."""
    return None if hours is None else round(hours, 1)
