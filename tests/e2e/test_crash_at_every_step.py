"""A crash before or after any durable write, or after any action on a Mac, changes no outcome.

Every Mac is acted on once per intent, and no event is missing.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.embedded.log import Log
from pipeline.embedded.service import Service
from schemas.decisions import Reason
from tests.crash_points import Crash, CrashPoint
from tests.embedded_world import Environment, at, live, needy_macs, open_service

FAULTS_OVER_AT, ENDS_AT = at(3), at(60)
SHARES = 4  # so that several workers can share the work


@dataclass(frozen=True)
class End:
    """The outcome of a run, without times, order and methods.

    A crash costs time, and a Mac that gets its capacity later may have sent more reports.
    """

    acted: Counter[tuple[str, str]]
    macs: dict[str, tuple[object, ...]]
    jobs: dict[str, list[tuple[object, ...]]]
    reasons: dict[str, str]


def is_over(service: Service, environment: Environment) -> bool:
    """Return True if all Macs are compliant, no job is open, and no fault is to come."""
    reasons = {one.reason for one in service.reconciler.last_decisions.values()}
    done = reasons == {Reason.COMPLIANT} and not any(service.reconciler.open_jobs.values())
    return done and environment.now > FAULTS_OVER_AT


def run(data_dir: Path, hook: CrashPoint) -> End:
    """Run the service to the end, restarting it after each crash; return the outcome."""
    environment = Environment.of(*needy_macs())
    while True:
        service = None
        try:
            service = open_service(data_dir, environment, hook)
            while environment.now < ENDS_AT and not is_over(service, environment):
                live(service, environment, environment.now)
            reconciler = service.reconciler
            break
        except Crash:
            continue
        finally:
            if service is not None:
                service.close()
    with Log.open(data_dir) as log:
        logged = Counter((row.source, row.id) for row in log.entries(kind="event"))
        assert environment.sent <= logged.keys()
        assert max(logged.values()) == 1
        assert log.dead_letter_counts() == {}
    return End(
        acted=Counter((udid, job_id) for _, udid, job_id, _, _ in environment.fleet.acted),
        macs={
            udid: (mac.os_version, mac.build, mac.enrolled, mac.sealed)
            for udid, mac in environment.fleet.macs.items()
        },
        jobs={
            udid: sorted(
                (one.job_id, one.action, str(one.outcome), str(one.error_code)) for one in ledger
            )
            for udid, ledger in sorted(reconciler.fleet.job_histories.items())
        },
        reasons={udid: one.reason.value for udid, one in sorted(reconciler.last_decisions.items())},
    )


@pytest.fixture(scope="module")
def clean(disk: Path) -> tuple[End, list[str]]:
    hook = CrashPoint()
    return run(disk / "clean", hook), hook.moments


def test_run_without_crash_makes_every_mac_compliant(clean: tuple[End, list[str]]) -> None:
    end, moments = clean
    assert set(end.reasons.values()) == {"compliant"}
    assert {str(mac[0]) for mac in end.macs.values()} == {"26.2"}
    assert set(end.acted.values()) == {1}
    assert {action for job in end.jobs.values() for _, action, *_ in job} == {
        "update",
        "reinstall",
        "reenroll",
    }
    assert {"accept:before", "intend:before", "touched:after", "response:after"} <= set(moments)


@pytest.mark.slow
@pytest.mark.parametrize("share", range(SHARES))
def test_crash_at_any_step_changes_no_outcome(
    clean: tuple[End, list[str]], disk: Path, share: int
) -> None:
    end, moments = clean
    for number, moment in enumerate(moments, 1):
        if number % SHARES != share:
            continue
        again = run(disk / str(number), CrashPoint(number))
        assert again == end, f"killed at {moment}, the {number}. moment of {len(moments)}"
