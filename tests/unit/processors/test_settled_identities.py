"""On Kafka: a settlement of an operator reaches the worker that owns the Macs."""

from pathlib import Path

from schemas.envelope import CloudEvent
from tests import factories
from tests.factories import HOUR, NOW, UDID, topic_of
from tests.unit.processors.memory_kafka import Brokers, MemoryWorker, run_until_idle

TWIN = UDID[:-1] + "2"
SERIAL = "C02TEST0001"


class Fleet:
    """Two returned loan units that report one serial number, and one worker after another."""

    def __init__(self, folder: Path) -> None:
        self.brokers = Brokers()
        self._folder = folder
        self.send(factories.policy_changed(factories.POLICY_TEXT))
        self.send(factories.release("26.1"), factories.release("26.2"))
        for udid in (UDID, TWIN):
            fields = {"serial": SERIAL, "loan_returned_at": NOW - HOUR}
            self.send(factories.full_report("26.1", udid, NOW, **fields))

    def send(self, *events: CloudEvent) -> None:
        self.brokers.send(events, topic_of)
        run_until_idle(MemoryWorker(self.brokers, self._folder, lambda: NOW))

    @property
    def reasons(self) -> dict[str, str]:
        return {one.decision.udid: one.decision.reason.value for one in self.brokers.decisions()}


def test_settlement_is_applied_and_survives_a_restart(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    assert fleet.reasons == {UDID: "identity_conflict", TWIN: "identity_conflict"}
    fleet.send(factories.settled("merge", UDID, TWIN, NOW))
    assert fleet.reasons == {UDID: "retired", TWIN: "awaiting_approval"}
    fleet.send(factories.settled("forget", TWIN, when=NOW))
    assert fleet.reasons[TWIN] == "os_unknown"
    fleet.send(factories.full_report("26.1", TWIN, NOW + HOUR, serial=SERIAL))
    assert fleet.reasons[TWIN] != "os_unknown"
