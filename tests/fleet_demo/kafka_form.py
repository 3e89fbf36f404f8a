"""The fleet form behind the demo's interface: the gateway, the control topic, the Macs' server.

Each call returns when the fleet is quiescent. The clock does not move meanwhile, so a call has the
same effect as in the embedded form, although several processes take part.
"""

import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from kafka import KafkaProducer  # type: ignore[import-untyped]

from agents.clock import SteppedClock
from agents.simulated.fleet_server import SimulatedFleetHttpServer, SimulatedFleetServer, SinkError
from agents.simulated.sinks import GatewaySink
from agents.simulated.wire import FleetPlan
from pipeline.demo.drive import FleetSample, OutsideEvent, site_lines
from pipeline.demo.scenario import STARTS_AT, Scenario
from pipeline.payload_signing import sign_record
from runtime.kafka import KafkaConnection
from schemas.decisions import Decision, Reason
from schemas.envelope import (
    AdvisoryEvent,
    ApprovalGrantedEvent,
    DeviceEvent,
    PolicyChangedEvent,
    encode,
)
from schemas.signed_records import CONTROL_RECORD
from schemas.topics import CONTROL
from tests.chaos.programs import SECRETS
from tests.fleet_demo.quiescence import Quiescence
from tests.fleet_demo.reading import Reading

_READ_EVERY: Final = 32
_POSTED_WITHIN_S: Final = 30.0
_POST_AGAIN_S: Final = 0.05


@contextmanager
def macs_served(
    scenario: Scenario, seed: int, clock: SteppedClock
) -> Iterator[SimulatedFleetHttpServer]:
    """Serve the scenario's Macs on loopback, with `clock` as their time."""
    plan = FleetPlan(
        start=STARTS_AT,
        macs=scenario.specs,
        releases=scenario.releases,
        lines=site_lines(),
        seed=seed,
    )
    fleet_server = SimulatedFleetServer(plan, None, None, clock)
    server = SimulatedFleetHttpServer("127.0.0.1", 0, fleet_server)
    serving = threading.Thread(target=server.serve_forever, daemon=True, name="macs")
    serving.start()
    try:
        yield server
    finally:
        server.shutdown()
        serving.join()
        server.server_close()
        fleet_server.stop()


class KafkaForm:
    """A running fleet and its Macs; `fleet_server` must use the same `clock`."""

    def __init__(
        self,
        connection: KafkaConnection,
        gateway: str,
        fleet_server: SimulatedFleetServer,
        clock: SteppedClock,
        quiescence: Quiescence,
        control_key: Ed25519PrivateKey,
    ) -> None:
        self._control_key = control_key
        self.reading = Reading(connection)
        self._sink = GatewaySink(gateway, *(SECRETS[name] for name in ("nanomdm", "sofa", "admin")))
        self._fleet_server = fleet_server
        self._clock = clock
        self._quiescence = quiescence
        self._producer = KafkaProducer(**connection.producer_options())
        self._samples = 0

    def close(self) -> None:
        """Close the connections."""
        self._sink.close()
        self.reading.close()
        with suppress(Exception):
            self._producer.close(timeout=5)

    def steer(self, event: PolicyChangedEvent | ApprovalGrantedEvent) -> None:
        """Publish an operator's policy or approval to the control topic."""
        value = sign_record(encode(event), CONTROL_RECORD, self._control_key)
        self._producer.send(CONTROL.name, key=event.subject.encode(), value=value).get(30)

    def advance_to(self, now: datetime) -> Sequence[DeviceEvent]:
        """Set the clock and return the events of the Macs up to that time."""
        self._clock.set(now)
        events = self._fleet_server.drain_events()
        self._quiescence.wait(now)
        return events

    def ingest(self, events: Sequence[OutsideEvent]) -> None:
        """Post the events to the gateway, publish the approvals, and wait for quiescence."""
        self._post([one for one in events if not isinstance(one, ApprovalGrantedEvent)])
        for one in events:
            if isinstance(one, ApprovalGrantedEvent):
                self.steer(one)
        self._quiescence.wait(self._clock.now())

    def _post(self, events: Sequence[DeviceEvent | AdvisoryEvent]) -> None:
        """Post with repeats, as a sender does: the server closes an idle connection."""
        until = time.monotonic() + _POSTED_WITHIN_S
        while True:
            try:
                self._sink(events)
            except SinkError:
                if time.monotonic() > until:
                    raise
                time.sleep(_POST_AGAIN_S)
            else:
                return

    def awaiting_approval(self) -> Sequence[Decision]:
        """Return the decisions that wait for an approval."""
        self.reading.read_on()
        return [
            Decision.model_validate(one)
            for one in self.reading.outcome.latest.values()
            if one["reason"] == Reason.AWAITING_APPROVAL
        ]

    def sample(self, now: datetime) -> FleetSample:
        """Return exposure and open jobs by site; the topics are read at every 32nd call only."""
        self._samples += 1
        if self._samples % _READ_EVERY == 0:
            self.reading.read_on()
        outcome = self.reading.outcome
        exposed = [one for one in outcome.latest.values() if one["cves"]]
        return FleetSample(
            now,
            Counter((one["site"] or "", one["severity"]) for one in exposed),
            Counter((j.site, j.action) for j in outcome.jobs.values() if j.outcome == "open"),
        )
