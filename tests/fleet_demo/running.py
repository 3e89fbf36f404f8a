"""A whole run on Kafka: topics, keys, programs, the scenario, and an orderly end."""

import subprocess
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

import httpx
from prometheus_client.parser import text_string_to_metric_families

from agents.clock import SteppedClock
from pipeline.demo.drive import STEP, FleetSample, play, site_lines
from pipeline.demo.outcome import RunOutcome
from pipeline.demo.scenario import ENDS_AT, STARTS_AT, Scenario, policy_text
from pipeline.embedded.control_events import policy_changed
from pipeline.signing_keys import KeyStore
from runtime.kafka import KafkaConnection
from runtime.trusted_keys import Purpose
from tests.chaos.programs import DRYDOCK, Fleet, Kind
from tests.fleet_demo.kafka_form import KafkaForm, macs_served
from tests.fleet_demo.programs import Addresses, FleetLayout
from tests.fleet_demo.quiescence import NotQuiescentError, Quiescence

PARTITIONS: Final = 4
_STARTS_WITHIN_S: Final = 120.0


class FleetError(Exception):
    """The fleet cannot run; the message has the cause."""


@dataclass
class FleetRun:
    """One run in an empty folder, on a broker without Drydock's topics.

    When `moments` has ended, all programs have ended, and `outcome` and `figures` (by program) are
    complete.
    """

    folder: Path
    bootstrap: str
    scenario: Scenario
    seed: int
    step: timedelta = STEP
    until: datetime = ENDS_AT
    outcome: RunOutcome = field(default_factory=RunOutcome)
    figures: dict[str, dict[str, Any]] = field(default_factory=dict)

    def moments(self) -> Generator[FleetSample]:
        """Play the scenario and yield a FleetSample after each step. Raises FleetError."""
        sites = tuple(site_lines())
        connection = KafkaConnection(bootstrap=self.bootstrap)
        self._make_topics(sites)
        keys = KeyStore(self.folder / "keys")
        for purpose in Purpose:
            keys.make(purpose)
        clock = SteppedClock(self.folder / "clock")
        clock.set(STARTS_AT)
        addresses = Addresses.free(sites)
        with ExitStack() as stack:
            server = stack.enter_context(macs_served(self.scenario, self.seed, clock))
            host, port = server.server_address[:2]
            layout = FleetLayout(
                folder=self.folder,
                bootstrap=self.bootstrap,
                macs=f"{host!s}:{port}",
                addresses=addresses,
                # Enough for all Macs at once, in any partition.
                slots=len(self.scenario.specs) * PARTITIONS,
            )
            fleet = layout.fleet()
            stack.callback(fleet.kill)
            fleet.start()
            quiescence = Quiescence(
                connection,
                zip((w.name for w in fleet.of(Kind.WORKER)), addresses.workers, strict=True),
                {site: (f"agent-{site}", where) for site, where in addresses.agents.items()},
                lambda: _check(fleet),
            )
            stack.callback(quiescence.close)
            try:
                _wait_for(f"http://{addresses.gateway}/readyz", lambda: _check(fleet))
                quiescence.wait(STARTS_AT, _STARTS_WITHIN_S)
                url = f"http://{addresses.gateway}"
                form = KafkaForm(
                    *(connection, url, server.fleet_server, clock, quiescence),
                    keys.signer(Purpose.CONTROL),
                )
                stack.callback(form.close)
                form.steer(policy_changed(policy_text(), "demo", STARTS_AT))
                quiescence.wait(STARTS_AT)
                yield from play(form, keys.signer(Purpose.APPROVALS), self.step, self.until)
                form.reading.read_on()
            except NotQuiescentError as error:
                raise FleetError(str(error)) from error
            self.outcome = form.reading.outcome
            self._note(fleet, addresses, form)
            codes = fleet.end()
            if any(codes.values()):
                raise FleetError(f"a program ended with an error: {codes}")

    def _make_topics(self, sites: tuple[str, ...]) -> None:
        done = subprocess.run(
            [
                *(*DRYDOCK, "topics", "apply", "--bootstrap", self.bootstrap),
                *("--sites", ",".join(sites), "--partitions", str(PARTITIONS)),
                *("--replication", "1", "--timeout", "60"),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise FleetError(done.stderr.strip() or done.stdout.strip())

    def _note(self, fleet: Fleet, addresses: Addresses, form: KafkaForm) -> None:
        posts = _samples(addresses.gateway)
        self.figures["gateway"] = {
            "posts": _sum(posts, "drydock_gateway_requests_total", outcome="accepted"),
            "records": _sum(posts, "drydock_gateway_records_total"),
            "spooled": _sum(posts, "drydock_gateway_records_total", via="spool"),
        }
        self.figures["topics"] = dict(sorted(form.reading.records.items()))
        for program, where in zip(fleet.of(Kind.WORKER), addresses.workers, strict=True):
            health = httpx.get(f"http://{where}/healthz", trust_env=False).json()
            self.figures[program.name] = {
                "partitions": len(health["ready"]),
                "rounds": health["rounds"],
                "folded": _sum(_samples(where), "drydock_events_total"),
            }
        for site, where in addresses.agents.items():
            samples = _samples(where)
            self.figures[f"agent-{site}"] = {
                "records": _sum(samples, "drydock_agent_records_total"),
                "results": _sum(samples, "drydock_agent_results_total"),
                "held_back": _sum(samples, "drydock_agent_actions_blocked_total"),
            }


def _check(fleet: Fleet) -> None:
    for program in fleet.programs:
        if not program.is_running:
            raise FleetError(f"{program.name} ended: {program.log_tail()}")


def _wait_for(url: str, check: Callable[[], None]) -> None:
    until = time.monotonic() + _STARTS_WITHIN_S
    while True:
        check()
        try:
            if httpx.get(url, trust_env=False, timeout=5).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        if time.monotonic() > until:
            raise FleetError(f"{url} did not respond 200 within {_STARTS_WITHIN_S:g} s")
        time.sleep(0.1)


def _samples(address: str) -> list[Any]:
    text = httpx.get(f"http://{address}/metrics", trust_env=False, timeout=30).text
    return [one for family in text_string_to_metric_families(text) for one in family.samples]


def _sum(samples: list[Any], name: str, **labels: str) -> int:
    found = (s for s in samples if s.name == name and labels.items() <= s.labels.items())
    return int(sum(sample.value for sample in found))
