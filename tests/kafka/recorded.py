"""A small fleet that ran on a broker: its topics and keys are left, its programs have ended."""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from pipeline.demo.scenario import STARTS_AT, Scenario, build
from tests.chaos.programs import STAMPS_ENV
from tests.fleet_demo.running import FleetRun
from tests.kafka.brokers import KafkaCluster
from tests.kafka.started import started

SEED: Final = 3
# Long enough for the advisory to appear, for failed jobs, and for most Macs to be updated.
UNTIL: Final = STARTS_AT + timedelta(days=12)
STEP: Final = timedelta(hours=6)
# Among the first Macs of the demo: NotNow, an ignored command, a lost response, a full disk.
MACS: Final = 12
TOKEN: Final = "a-token-of-the-tests"


@dataclass(frozen=True)
class RecordedFleet:
    """The finished run, and the broker that has its topics."""

    run: FleetRun
    broker: KafkaCluster

    @property
    def keys(self) -> Path:
        """The key directory."""
        return self.run.folder / "keys"

    @property
    def options(self) -> tuple[str, ...]:
        """The options of a command that reads the topics."""
        return ("--bootstrap", self.broker.bootstrap, "--keys", str(self.keys))

    @contextmanager
    def query(self, folder: Path) -> Iterator[str]:
        """Run `drydock query` within the block, and yield its URL."""
        command = ("query", "--keys", str(self.keys))
        env = STAMPS_ENV | {"DRYDOCK_ADMIN_TOKEN": TOKEN}
        with started(folder, "query", command, self.broker.bootstrap, env) as url:
            yield url


def few_macs() -> Scenario:
    """Return the demo's scenario with its first Macs only."""
    whole = build(SEED, 28)
    specs = whole.specs[:MACS]
    return Scenario(specs, {spec.udid: whole.parts[spec.udid] for spec in specs}, whole.releases)


def record_fleet(
    folder: Path, broker: KafkaCluster, scenario: Scenario | None = None, until: datetime = UNTIL
) -> RecordedFleet:
    """Run a fleet, by default of few Macs, on the broker, which has no topics of Drydock yet."""
    run = FleetRun(folder, broker.bootstrap, scenario or few_macs(), SEED, STEP, until)
    deque(run.moments(), maxlen=0)
    return RecordedFleet(run, broker)
