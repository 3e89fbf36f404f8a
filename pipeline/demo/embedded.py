"""The demo on the embedded form: one process, one data directory."""

import json
from collections.abc import Generator, Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from agents.simulated import SimulatedFleet
from agents.simulated.sinks import webhook_of
from agents.site_access import SiteAccess
from pipeline.decide.decision import decide
from pipeline.demo.drive import STEP, FleetSample, OutsideEvent, play, site_lines
from pipeline.demo.outcome import LogEntry
from pipeline.demo.scenario import ENDS_AT, STARTS_AT, Scenario, policy_text
from pipeline.embedded.log import Log
from pipeline.embedded.service import Options, Service
from pipeline.gateway.payloads import translate
from pipeline.ingest.redaction import Redactor
from pipeline.signing_keys import KeyStore
from runtime.trusted_keys import KeyRing, Purpose
from schemas.decisions import Decision, Reason
from schemas.envelope import AdvisoryEvent, ApprovalGrantedEvent, DeviceEvent, Event

# No message is lost here, so no sweep is needed. The fleet form sweeps at other times: a sweep
# would make the decisions of the two forms differ.
NO_SWEEP: Final = timedelta(days=1000)
_REDACTOR: Final = Redactor(b"nothing here is a real secret")


def run(
    data_dir: Path,
    scenario: Scenario,
    seed: int,
    step: timedelta = STEP,
    until: datetime = ENDS_AT,
    *,
    fast_paths: bool = True,
) -> Generator[FleetSample]:
    """Run the scenario in an empty data directory and yield a FleetSample after each step.

    The run advances with the iteration. The log of the run remains in `data_dir`, for `log_lines`.
    """
    keys = KeyStore(data_dir / "keys")
    for purpose in Purpose:
        keys.make(purpose)
    form = EmbeddedForm(data_dir, scenario, seed, fast_paths=fast_paths)
    try:
        yield from play(form, keys.signer(Purpose.APPROVALS), step, until)
    finally:
        form.close()


def log_lines(data_dir: Path) -> Iterator[LogEntry]:
    """Yield the log of a finished run, in the order of the log.

    Raises StoreError if the data directory has no readable log.
    """
    with Log.open(data_dir) as log:
        for row in log.entries():
            yield LogEntry(row.kind, row.at, row.body)


class EmbeddedForm:
    """The embedded form, on a data directory that has only keys."""

    def __init__(
        self, data_dir: Path, scenario: Scenario, seed: int, *, fast_paths: bool = True
    ) -> None:
        self._fast_paths = fast_paths
        self._fleet = SimulatedFleet(
            scenario.specs, STARTS_AT, seed=seed, lines=site_lines(), releases=scenario.releases
        )
        self._now = STARTS_AT
        self._service = Service.open(
            data_dir,
            now=STARTS_AT,
            signer=KeyStore(data_dir / "keys").signer(Purpose.JOBS),
            trust=KeyRing.load(data_dir / "keys"),
            policy_text=policy_text(),
            access=lambda _: SiteAccess.simulated(self._fleet.mac_for),
            options=Options(slots=len(scenario.specs), sweep_every=NO_SWEEP, fast_paths=fast_paths),
        )

    def close(self) -> None:
        """Close the service and the simulated fleet."""
        self._service.close()
        self._fleet.close()

    def advance_to(self, now: datetime) -> Sequence[DeviceEvent]:
        """Set the simulated time; return the Macs' events up to it, in order of time."""
        self._now = now
        events = self._fleet.advance(now)
        self._settle()
        return events

    def ingest(self, events: Sequence[OutsideEvent]) -> None:
        """Accept events as the HTTP endpoint does, and do the work that is due."""
        received = [event for one in events for event in self.received(one)]
        self._service.accept(received, (), self._now)
        self._settle()

    def received(self, event: OutsideEvent) -> Sequence[Event]:
        """Return the events that the service accepts for an event from outside.

        A release gets the time of its receipt, from which its deadlines count.
        """
        if isinstance(event, AdvisoryEvent):
            return [event.model_copy(update={"receivedat": self._now})]
        return gateway_events(event, self._now)

    def awaiting_approval(self) -> Sequence[Decision]:
        """Return the decision of each Mac whose last decision waits for an approval.

        It is computed again at the simulated time.
        """
        reconciler = self._service.reconciler
        return [
            decide(reconciler.situation(udid, self._now), fast_paths=self._fast_paths)
            for udid, last in reconciler.last_decisions.items()
            if last.reason is Reason.AWAITING_APPROVAL
        ]

    def sample(self, now: datetime) -> FleetSample:
        """Return the counts of exposed Macs and open jobs, with `now` as their time."""
        reconciler = self._service.reconciler
        return FleetSample(now, dict(reconciler.exposed), dict(reconciler.open_jobs))

    def _settle(self) -> None:
        """Run the service until no work is due at the simulated time."""
        wake = self._service.next_wake(self._now)
        while wake is not None and wake <= self._now:
            self._service.tick(self._now)
            wake = self._service.next_wake(self._now)


def gateway_events(event: OutsideEvent, now: datetime) -> Sequence[Event]:
    """Return the events that the gateway makes of an event from outside.

    An MDM message passes NanoMDM's webhook format; any other event is returned unchanged.
    """
    hook = None if isinstance(event, ApprovalGrantedEvent) else webhook_of(event)
    if hook is None:
        return [event]
    body = json.dumps(hook).encode()
    done = translate("nanomdm", body, "webhook/nanomdm", now, _REDACTOR)
    assert not done.dead_letters, done.dead_letters
    return done.events
