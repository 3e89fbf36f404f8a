"""One chaos run: a cluster, a fleet and its Macs; strikes on them; and the check of the result."""

import http.client
import json
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Final, Self

from kafka import KafkaProducer  # type: ignore[import-untyped]
from pydantic import TypeAdapter

from agents.clock import ScaledClock
from agents.simulated.client import SimulatedFleetClient
from agents.simulated.wire import FleetPlan, TimeLine
from pipeline.payload_signing import sign_record
from pipeline.signing_keys import KeyStore
from runtime.kafka import KafkaConnection
from runtime.trusted_keys import KeyRing, Purpose
from schemas.envelope import CloudEvent, encode
from schemas.macos import parse_os_version
from schemas.signed_records import CONTROL_RECORD
from schemas.topics import CONTROL
from tests import factories
from tests.chaos import world
from tests.chaos.checker import Findings, judge
from tests.chaos.evidence import (
    Evidence,
    MacState,
    read_commits,
    read_journals,
    read_topics,
    topic_names,
)
from tests.chaos.killer import Killer, schedule
from tests.chaos.load import Load, Mischief
from tests.chaos.programs import DRYDOCK, Fleet, Kind, Layout
from tests.chaos.tamperer import Tamperer
from tests.chaos.worker_program import GROUP
from tests.kafka.brokers import ROOT, KafkaCluster, free_ports

PARTITIONS: Final = 8
# Java with little memory and few threads: three brokers share two cores with all other programs.
_JVM: Final = ("-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
_UP_WITHIN_S: Final = 90.0
_POLL_S: Final = 3.0
_READY_MESSAGE: Final = {
    Kind.GATEWAY: '"listening"',
    Kind.WORKER: '"partitions ready"',
    Kind.AGENT: '"partition acquired"',
}
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Size and duration of a run.

    `speed` is the number of seconds of the Macs' clock in one real second. `settle_s` is the time
    without progress after which the checker judges the run.
    """

    folder: Path
    seed: int = 1
    minutes: float = 12.0
    macs: int = 5000
    kills: int = 200
    speed: float = 60.0
    workers: int = 3
    agents: int = 2
    outages: int = 4
    settle_s: float = 120.0

    @classmethod
    def short(cls, folder: Path) -> Self:
        """Return the options of a run that is short enough for each change in CI."""
        return cls(
            folder=folder,
            minutes=1.0,
            macs=200,
            kills=30,
            speed=180.0,
            outages=1,
            settle_s=90.0,
        )

    @property
    def lasts_s(self) -> float:
        """Duration of the strikes in seconds."""
        return self.minutes * 60


@dataclass(slots=True)
class RunSummary:
    """Result of a run.

    `struck` counts the strikes on programs and brokers, `sent` the changes to events. `alone` has
    the programs that ended by themselves, `codes` the last exit codes, `refused` the bodies of
    unexpected responses. `settled_s` is None if faults were left.
    """

    findings: Findings
    struck: Counter[str]
    sent: Counter[str]
    alone: list[str]
    codes: dict[str, int]
    refused: list[str]
    settled_s: float | None


def run(options: Options, say: Say) -> RunSummary:
    """Run chaos and return the result; every started program has ended then."""
    with ExitStack() as stack:
        began_s = time.monotonic()

        def print_progress(what: str) -> None:
            say(f"{time.monotonic() - began_s:6.1f} s  {what}")

        cluster = stack.enter_context(_cluster(options.folder / "kafka"))
        print_progress("three brokers are up")
        site = _Site(options, cluster, stack, print_progress)
        site.begin()
        site.make_chaos()
        settled_s = site.settle()
        return site.check_result(settled_s)


class _Site:
    """The fleet of one run, with its Macs, its load and its killer."""

    def __init__(self, options: Options, cluster: KafkaCluster, stack: ExitStack, say: Say) -> None:
        self._options = options
        self._cluster = cluster
        self._say = say
        self._connection = KafkaConnection(bootstrap=cluster.bootstrap)
        # Macs without MDM when the reports end: a later enrollment of theirs is not reported.
        self._away: set[str] = set()
        self._plan = world.fleet_plan(
            options.seed,
            options.macs,
            options.speed,
            timedelta(seconds=options.lasts_s) * options.speed,
        )
        self._keys = _keys(options.folder)
        _make_topics(cluster.bootstrap)
        [port] = free_ports(1)
        self._load = Load(("127.0.0.1", port), options.seed, Mischief.within(options.lasts_s))
        self._load.start()
        stack.callback(self._load.stop)
        address = stack.enter_context(_macs(options.folder, self._plan, self._load.url))
        self._macs_at = address
        host, _, macs_port = address.rpartition(":")
        self._macs = SimulatedFleetClient(host, int(macs_port))
        stack.callback(self._macs.close)
        layout = Layout(
            folder=options.folder,
            bootstrap=cluster.bootstrap,
            macs=address,
            gateway_port=port,
            sites=world.SITES,
            workers=options.workers,
            agents=options.agents,
            slots=options.macs,
        )
        line = TimeLine.model_validate_json(_get(address, "/clock"))
        layout.clock.write_text(line.model_dump_json())
        self._clock = ScaledClock(line.start, line.began_s, line.speed)
        self._fleet: Fleet = layout.fleet()
        stack.callback(self._fleet.kill)
        self._tamperer = Tamperer(
            self._connection,
            world.SITES,
            seed=options.seed,
            poison_count=max(20, options.macs // 20),
            lasts_s=options.lasts_s,
        )
        self._killer = Killer(self._fleet, [], say)
        self._outages = _Outages(cluster, options, say)
        stack.callback(self._outages.stop)

    # --- phases ---

    def begin(self) -> None:
        """Publish the policy and the first releases, and start all programs."""
        policy = factories.policy_changed(world.policy_text(self._options.macs), self._clock.now())
        control_key = KeyStore(self._options.folder / "keys").signer(Purpose.CONTROL)
        value = sign_record(encode(policy), CONTROL_RECORD, control_key)
        with KafkaProducer(**self._connection.producer_options()) as producer:
            producer.send(CONTROL.name, key=b"policy", value=value).get(timeout=60)
        self._publish(world.FIRST)
        self._fleet.start()
        self._killer.run_for(_UP_WITHIN_S, self._all_up)
        assert self._all_up(), [p.log_tail() for p in self._fleet.programs]
        self._say("all programs are up")

    def make_chaos(self) -> None:
        """Strike, stop brokers and tamper for the whole duration; publish releases meanwhile."""
        options = self._options
        strikes = schedule(options.seed, options.kills, options.lasts_s)
        self._killer = Killer(self._fleet, strikes, self._say)
        self._tamperer.start()
        self._outages.start()
        for versions, share in ((world.SECOND, 0.1), (world.THIRD, 0.5), ((), 1.0)):
            until_s = options.lasts_s * share
            self._killer.run_for(until_s - self._killer.age_s)
            self._publish(versions)
        self._say("no more strikes")

    def _publish(self, versions: Sequence[str]) -> None:
        now = self._clock.now()
        for version in versions:
            self._say(f"released: macOS {version}")
            self._send(factories.release(version, build=world.BUILDS[version], first_seen_at=now))

    def _send(self, event: CloudEvent) -> None:
        self._load.add_events("/v1/events", encode(event), "sofa")

    def _all_up(self) -> bool:
        return all(
            _READY_MESSAGE[program.kind] in program.log_path.read_text()
            for program in self._fleet.programs
        )

    # --- check ---

    def settle(self) -> float | None:
        """Wait until the checker finds no fault. Return the seconds, None if faults are left."""
        began_s = time.monotonic()
        self._killer.run_for(
            self._options.settle_s, lambda: self._killer.is_over and self._outages.are_over
        )
        self._tamperer.stop()
        self._wait(self._old_macs, "Macs to be updated")
        # Wait for their last reports, then accept no more: the check needs a fixed set of inputs.
        self._killer.run_for(2 * _POLL_S)
        self._away = {mac.udid for mac in self._macs_now() if not mac.enrolled}
        self._load.quiet()
        self._wait(lambda: self._load.waiting, "events to be posted")
        self._wait(self._faults, "faults")
        return None if self._faults() else time.monotonic() - began_s

    def _wait(self, count: Callable[[], int], what: str) -> None:
        """Wait until the count is 0, or has not decreased for `settle_s`."""
        least, since_s = sys.maxsize, time.monotonic()
        while left := count():
            if left < least:
                least, since_s = left, time.monotonic()
            if time.monotonic() - since_s > self._options.settle_s:
                return
            self._say(f"settling: {left} {what}")
            self._killer.run_for(_POLL_S)

    def _faults(self) -> int:
        faults = judge(self._evidence()).faults
        for fault in faults[:1]:
            self._say(f"first fault: {fault.what}")
        return len(faults)

    def _old_macs(self) -> int:
        """Return the number of enrolled Macs below the newest release of their line."""
        newest = {line: parse_os_version(version) for line, version in world.NEWEST.items()}
        versions = [parse_os_version(mac.os_version) for mac in self._macs_now() if mac.enrolled]
        return sum(version < newest.get(version.line, version) for version in versions)

    def check_result(self, settled_s: float | None) -> RunSummary:
        """End all programs, then check the evidence with the executors' journals."""
        codes = self._fleet.end()
        self._say("all programs have ended")
        files = [
            path
            for program in self._fleet.of(Kind.AGENT)
            for path in program.data_dir.glob("*.sqlite")
        ]
        findings = judge(self._evidence(read_journals(files)))
        return RunSummary(
            findings=findings,
            struck=self._killer.counts + self._outages.counts,
            sent=self._load.counts + self._tamperer.counts,
            alone=self._killer.ended_alone,
            codes=codes,
            refused=self._load.refused,
            settled_s=settled_s,
        )

    def _evidence(self, journals: dict[str, bool] | None = None) -> Evidence:
        groups = [GROUP, *(f"drydock.agent.{site}" for site in world.SITES)]
        # Copy the inputs first: an input that is accepted later may not be in the topics yet.
        return Evidence(
            inputs={*self._load.accepted, *self._tamperer.unusable_inputs},
            records=read_topics(self._connection, topic_names(world.SITES)),
            committed=read_commits(self._connection, groups),
            acted=self._macs.acted(),
            macs=[mac for mac in self._macs_now() if mac.udid not in self._away],
            journals=journals,
            trusted=self._keys.jobs,
            newest=world.NEWEST,
            may_repeat={
                spec.udid: spec.faults.failing_installs + spec.faults.failing_downloads
                for spec in self._plan.macs
            },
        )

    def _macs_now(self) -> list[MacState]:
        macs = json.loads(_get(self._macs_at, "/macs"))
        return [MacState(mac["udid"], mac["os_version"], mac["enrolled"]) for mac in macs]


class _Outages:
    """A thread that stops or kills one broker at a time and starts it again."""

    def __init__(self, cluster: KafkaCluster, options: Options, say: Say) -> None:
        self.counts: Counter[str] = Counter()
        self._cluster = cluster
        self._say = say
        random = Random(options.seed)
        gap_s = options.lasts_s / (options.outages + 1)
        self._at_s = [gap_s * (number + 1) for number in range(options.outages)]
        self._down_s = min(15.0, gap_s / 3)
        self._nodes = [random.choice(cluster.nodes) for _ in self._at_s]
        self._over = threading.Event()
        self._ending = threading.Event()
        # A broker dies with the thread that started it, so this thread lives until `stop`.
        self._thread = threading.Thread(target=self._run, daemon=True, name="outages")

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    @property
    def are_over(self) -> bool:
        """True if all brokers are back and no outage follows."""
        return self._over.is_set()

    def stop(self) -> None:
        """End the thread; the brokers that it started end too."""
        self._ending.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        began_s = time.monotonic()
        for number, (at_s, node) in enumerate(zip(self._at_s, self._nodes, strict=True)):
            if self._ending.wait(max(0.0, began_s + at_s - time.monotonic())):
                break
            how = "kill" if number % 2 else "stop"
            self._say(f"{how} broker {node}")
            if how == "kill":
                self._cluster.kill(node)
            else:
                self._cluster.stop(node)
            self.counts[f"{how} broker"] += 1
            self._ending.wait(self._down_s)
            self._cluster.restart(node)
            self._say(f"broker {node} is back")
        self._over.set()
        self._ending.wait()


@contextmanager
def _cluster(folder: Path) -> Iterator[KafkaCluster]:
    cluster = KafkaCluster(3, folder, free_ports(6), jvm=_JVM)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.kill()


def _make_topics(bootstrap: str) -> None:
    options = ["--sites", ",".join(world.SITES), "--partitions", str(PARTITIONS)]
    subprocess.run(
        [*DRYDOCK, "topics", "apply", "--bootstrap", bootstrap, "--replication", "3", *options],
        cwd=ROOT,
        check=True,
        stdout=subprocess.DEVNULL,
    )


def _keys(folder: Path) -> KeyRing:
    store = KeyStore(folder / "keys")
    for purpose in Purpose:
        store.make(purpose)
    return KeyRing.load(folder / "keys")


@contextmanager
def _macs(folder: Path, plan: FleetPlan, sink: str) -> Iterator[str]:
    """Run the process of the simulated Macs; yield its HOST:PORT."""
    path = folder / "fleet.json"
    path.write_bytes(TypeAdapter(FleetPlan).dump_json(plan))
    with (folder / "macs.log").open("wb") as log:
        server = subprocess.Popen(
            [
                *(sys.executable, "-W", "ignore", "-m", "agents.simulated", "--fleet", str(path)),
                *("--data-dir", str(folder / "macs"), "--sink", sink),
            ],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=log,
        )
    assert server.stdout is not None
    try:
        address = json.loads(server.stdout.readline())
        yield f"{address['host']}:{address['port']}"
    finally:
        server.kill()
        server.wait()
        server.stdout.close()


def _get(address: str, path: str) -> bytes:
    connection = http.client.HTTPConnection(address, timeout=60)
    try:
        connection.request("GET", path)
        return connection.getresponse().read()
    finally:
        connection.close()
