"""Record golden cases: `python -m tests.golden.record` records the cases without a file.

A case is `demo-1`, `demo-2`, `demo-7` (the demo of 200 Macs with that seed) or `scenario-NAME`
(tests/scenarios/NAME.yaml). With case names the command overwrites the records of these cases.
Overwrite only for an intended change of decisions, in a commit whose body lists the changed
decisions and the reason.
"""

import sys
import tempfile
from collections.abc import Sequence
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from agents.simulated import SimulatedFleet
from agents.site_access import SiteAccess
from pipeline.demo.drive import OutsideEvent, play, site_lines
from pipeline.demo.embedded import NO_SWEEP, EmbeddedForm, gateway_events
from pipeline.demo.scenario import STARTS_AT, Scenario, build, policy_text
from pipeline.embedded.service import Options, Service
from pipeline.embedded.writer import Accepted
from schemas.dead_letters import DeadLetter
from schemas.envelope import Event, encode
from tests import scenario
from tests.embedded_shell import EmbeddedShell
from tests.factories.sites import APPROVALS_KEY, JOBS_KEY, KEYS
from tests.golden import golden_file
from tests.golden.comparison import replay_step
from tests.golden.golden_file import DEMO, SCENARIO, Golden, Output, Step
from tests.golden.replayer import Replayer, logged_outputs

_DEVICES: Final = 200


def record(case: str, folder: Path) -> Golden:
    """Run the case, replay its inputs, and return the record; `folder` is empty.

    Raises AssertionError if the outputs of the replay differ from the log of the run.
    """
    run, replayed = folder / "run", folder / "replayed"
    if case.startswith(DEMO):
        seed = int(case.removeprefix(DEMO))
        origin = f"drydock demo --seed {seed} --devices {_DEVICES}"
        inputs = _demo(seed, run)
    else:
        name = case.removeprefix(SCENARIO)
        origin = f"tests/scenarios/{name}.yaml"
        inputs = _scenario(name, run)
    with closing(Replayer(replayed)) as core:
        steps = [_with_outputs(step, replay_step(step, core)) for step in inputs]
    golden = Golden(case, origin, tuple(steps))
    _check(golden, run)
    return golden


def _with_outputs(step: Step, outputs: Sequence[Output]) -> Step:
    return Step(step.do, step.now, step.inputs, tuple(outputs))


def _check(golden: Golden, run: Path) -> None:
    """Assert that the run's log equals the replay, and that no sweep had an output."""
    logged = logged_outputs(run, [raw for step in golden.steps for raw in step.inputs])
    replayed = [output for output in golden.outputs if output.kind != "dead_letter"]
    assert logged == replayed, f"{golden.case}: the replay differs from the run"
    swept = [step for step in golden.steps if step.do == "sweep" and step.outputs]
    assert not swept, f"{golden.case}: a sweep at {swept[0].now} led to {swept[0].outputs}"


# --- the demo ---


class _RecordedService(Service):
    """A service that records the calls that change it."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.steps: list[Step] = []
        self.dead_letters = 0

    def accept(
        self,
        events: Sequence[Event],
        dead_letters: Sequence[DeadLetter],
        now: datetime,
        **more: Any,
    ) -> Accepted:
        self.dead_letters += len(dead_letters)
        if events:
            self.steps.append(Step("accept", now, tuple(encode(event) for event in events)))
        # One by one, as the replay accepts them.
        done = super().accept(events[:1], dead_letters, now, **more)
        for event in events[1:]:
            super().accept((event,), (), now)
        return done

    def tick(self, now: datetime) -> None:
        # A tick does the due work first; results of the executors are accepted after it.
        self.steps.append(Step("advance", now))
        super().tick(now)


class _RecordedForm(EmbeddedForm):
    """The demo's form with the signing key of the tests, on a service that records its calls."""

    def __init__(self, data_dir: Path, world: Scenario, seed: int) -> None:
        self._fleet = SimulatedFleet(
            world.specs, STARTS_AT, seed=seed, lines=site_lines(), releases=world.releases
        )
        self._now, self._fast_paths = STARTS_AT, True
        self._service = self.recorded = _RecordedService.open(
            data_dir,
            now=STARTS_AT,
            signer=JOBS_KEY,
            trust=KEYS,
            policy_text=policy_text(),
            access=lambda _: SiteAccess.simulated(self._fleet.mac_for),
            options=Options(slots=len(world.specs), sweep_every=NO_SWEEP),
        )

    def received(self, event: OutsideEvent) -> Sequence[Event]:
        """Leave out the time of receipt, so that deadlines differ by Mac.

        With it, more Macs become due at one time than a tick decides: executors act between two
        ticks, and a replay, which decides all at once, has another order.
        """
        return gateway_events(event, self._now)


def _demo(seed: int, folder: Path) -> list[Step]:
    form = _RecordedForm(folder, build(seed, _DEVICES), seed)
    with closing(form):
        for _ in play(form, APPROVALS_KEY):
            pass
        assert not form.recorded.dead_letters
        return form.recorded.steps


# --- scenarios ---


class _RecordedShell(EmbeddedShell):
    """The scenarios' shell on a service that records its calls, results of executors included."""

    service_type = _RecordedService

    @property
    def steps(self) -> list[Step]:
        assert isinstance(self._service, _RecordedService)
        return self._service.steps

    def accept_bytes(self, raw: bytes) -> None:
        before = len(self.steps)
        super().accept_bytes(raw)
        if len(self.steps) == before:  # it became a dead letter
            self.steps.append(Step("accept", self._now, (raw,)))

    def settle(self) -> None:
        super().settle()
        self.steps.extend([Step("advance", self._now), Step("sweep", self._now)])


def _scenario(name: str, folder: Path) -> list[Step]:
    with closing(_RecordedShell(folder)) as shell:
        scenario.play(scenario.read(name), shell)
        return shell.steps


def main(arguments: Sequence[str]) -> None:
    """Record the named cases, or all cases without a file, and print their counts."""
    known = golden_file.wanted_cases()
    unknown = sorted(set(arguments) - set(known))
    if unknown:
        sys.exit(f"no such case: {', '.join(unknown)}; there are {', '.join(known)}")
    recorded = golden_file.cases()
    for case in arguments or [name for name in known if name not in recorded]:
        with tempfile.TemporaryDirectory() as folder:
            golden = record(case, Path(folder))
        path = golden_file.write(golden)
        counts = ", ".join(f"{name} {count}" for name, count in golden.counts().items())
        sys.stdout.write(f"{case}: {counts}; {path.stat().st_size} bytes\n")


if __name__ == "__main__":
    main(sys.argv[1:])
