"""Reports per second of the worker and of plain consumers, on one broker in one run.

All consume the same topic, each from its last offset: the worker and the plain loops consume all
reports of a round, Faust consumes as many as it can in a bounded time. The worker is started once
and paused while reports are published and others consume: a worker that starts folds its backlog
before it decides, which is less work. A program is measured from its first commit of a round to its
last one, in its own CPU time and in real time. Before the measurement, all must have made the same
jobs.
"""

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, NamedTuple

import msgspec

from pipeline.processors.app import SUBSCRIBED
from schemas.envelope import JobIssuedEvent, decode
from schemas.topics import INVENTORY, jobs_topic
from tests.bench.kafka_loops import KINDS, group_of, jobs_of, state_of
from tests.bench.kafka_reports import TARGET, Reports, facts
from tests.bench.kafka_world import SITE, Program, World

WORKER: Final = "drydock worker"
GROUP: Final = "drydock-worker"
_AT_MOST_S: Final = 20.0
_POLL_S: Final = 0.02


@dataclass(frozen=True, slots=True)
class Contender:
    """A program to compare: `go` starts its turn, `rest` ends it.

    At the end of its turn it must have consumed `topics` to their ends.
    """

    name: str
    group: str
    go: Callable[[], Program]
    rest: Callable[[Program], None] = Program.stop
    topics: tuple[str, ...] = (INVENTORY.name,)


@dataclass(frozen=True, slots=True)
class Lap:
    """The measurement of one contender in one round."""

    reports: int
    cpu_s: float
    wall_s: float


def contenders(world: World) -> list[Contender]:
    """Return all contenders, the worker first."""
    for kind in KINDS:
        world.make_topic(jobs_of(kind))
        world.make_topic(state_of(kind), compacted=True)
    loop = ("-m", "tests.bench.kafka_loops")
    return [
        resident_worker(world),
        *(Contender(k, group_of(k), partial(world.start, k, *loop, k)) for k in KINDS),
    ]


def resident_worker(world: World) -> Contender:
    """Return the real worker; it is started in its first turn, and paused between its turns."""
    running: list[Program] = []

    def go() -> Program:
        if not running:
            running.append(world.worker(world.folder / "data"))
        running[0].go_on()
        return running[0]

    consumed = tuple(topic.name for topic in SUBSCRIBED)
    return Contender(WORKER, GROUP, go, Program.pause, consumed)


def lap(world: World, contender: Contender, at_most_s: float = 1e9) -> Lap:
    """Let a contender consume all reports, or for `at_most_s`, and return its measurement."""
    inventory, all_ = world.partitions([INVENTORY.name]), world.partitions(contender.topics)
    end = sum(world.ends(inventory).values())
    before = world.committed(contender.group, inventory)
    program = contender.go()
    marks: list[_Mark] = []
    while not marks or (marks[-1].done < end and marks[-1].at - marks[0].at < at_most_s):
        time.sleep(_POLL_S)
        program.check()
        done = world.committed(contender.group, inventory)
        if done > (marks[-1].done if marks else before):
            marks.append(_Mark(done, program.cpu_s(), time.monotonic()))
    first, last = marks[0], marks[-1]
    if last.done == end:
        # The records that it publishes to its own topics are part of the work.
        while world.committed(contender.group, all_) < sum(world.ends(all_).values()):
            program.check()
            time.sleep(_POLL_S)
        last = last._replace(cpu_s=program.cpu_s())
    contender.rest(program)
    return Lap(last.done - first.done, last.cpu_s - first.cpu_s, last.at - first.at)


class _Mark(NamedTuple):
    done: int
    cpu_s: float
    at: float


def jobs_made(world: World, contender: Contender) -> set[tuple[str, str]]:
    """Return UDID and version of each job that a contender made."""
    if contender.name != WORKER:
        made = (msgspec.json.decode(one.value) for one in world.read(jobs_of(contender.name)))
        return {(one["udid"], one["version"]) for one in made}
    events = (decode(one.value) for one in world.read(jobs_topic(SITE)))
    jobs = (event.data.job for event in events if isinstance(event, JobIssuedEvent))
    return {(job.udid, str(job.target.version)) for job in jobs if job.target is not None}


def bench_throughput(
    world: World, *, reports: int, runs: int, telemetry: bool, only: str | None = None
) -> dict[str, Any]:
    """Check that all make the same jobs, then measure; return medians over the runs."""
    all_ = [one for one in contenders(world) if only in (None, one.name)]
    source = Reports(telemetry=telemetry)
    world.publish(facts())
    world.publish(source.first_records())
    for contender in all_:
        lap(world, contender)
    jobs = {contender.name: jobs_made(world, contender) for contender in all_}
    wanted = jobs[all_[0].name]
    assert wanted
    assert all(version == TARGET for _, version in wanted)
    unlike = {name: len(found ^ wanted) for name, found in jobs.items() if found != wanted}
    assert not unlike, f"jobs differ from the worker's: {unlike} of {len(wanted)}"
    laps: dict[str, list[Lap]] = {contender.name: [] for contender in all_}
    for number in range(runs):
        world.publish(source.next(reports))
        for contender in all_:
            found = lap(world, contender, _AT_MOST_S)
            laps[contender.name].append(found)
            rate = found.reports / found.cpu_s
            sys.stderr.write(f"  run {number + 1} {contender.name}: {rate:,.0f} /CPU-s\n")
    rates = {name: [one.reports / one.cpu_s for one in found] for name, found in laps.items()}
    base = rates[WORKER]
    return {
        "jobs_alike": len(wanted),
        "reports_a_run": reports,
        "runs": runs,
        "contenders": {
            name: {
                "reports_per_cpu_s": round(statistics.median(rates[name])),
                "reports_per_s": round(
                    statistics.median(one.reports / one.wall_s for one in found)
                ),
                "worker_is_times": round(
                    statistics.median(b / r for b, r in zip(base, rates[name], strict=True)), 2
                ),
                # Some laps of Faust have a quarter of its speed, so its best lap is shown too.
                "best_lap_per_cpu_s": round(max(rates[name])),
                "worker_is_times_best_lap": round(statistics.median(base) / max(rates[name]), 2),
            }
            for name, found in laps.items()
        },
    }
