"""`drydock policy test`: decide the Macs of examples, and compare with the expected decisions."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple, NoReturn

from pipeline.cli.event_files import read_events
from pipeline.cli.explanation import decision_line
from pipeline.cli.fast_paths import fast_paths_wanted
from pipeline.cli.output import emit, fail
from pipeline.decide.batch import decide_all, fold_events, is_known_at
from pipeline.ingest.redaction import Redactor
from pipeline.ingest.sources import TRANSLATORS, translator_since
from pipeline.policy.examples import (
    Difference,
    Example,
    Examples,
    ExamplesError,
    differences,
    read_examples,
)
from pipeline.policy.file import PolicyError, read_policy
from pipeline.policy.model import Policy
from runtime.located_yaml import Located, Problem, path_text
from runtime.located_yaml import Path as YamlPath
from runtime.yaml_file import UnreadableFileError, problem_line, read_yaml_text
from runtime.yaml_model import locate
from schemas.decisions import Decision, Verdict
from schemas.envelope import AdvisoryPublishedEvent, Event

_FEEDS = ("sofa", "gdmf", "kev")
# Feeds are public: nothing in them is redacted.
_REDACTOR = Redactor(bytes(16))


class Compared(NamedTuple):
    """One example with its decision, the differences, and where each is in the file."""

    example: Example
    location: tuple[int, int]
    decision: Decision
    differences: tuple[tuple[Problem, Difference], ...]


def compare_examples(file: Path, policy: Path | None, *, as_json: bool) -> Iterator[Compared]:
    """Yield each example of a file, compared with its decision.

    `policy` replaces the policy that the file names. Exit 2, after printing every problem with its
    line, if the file, its policy or a file that it names cannot be read.
    """
    try:
        examples, root = read_examples(read_yaml_text(file))
    except UnreadableFileError as error:
        fail(str(error))
    except ExamplesError as error:
        _refuse(file, error.problems, "file of examples", as_json=as_json)
    run = _Run(file.parent, examples, root)
    run.check_names(policy)
    if run.problems:
        _refuse(file, run.problems, "file of examples", as_json=as_json)
    named = policy or file.parent / str(examples.policy)
    rules = _read_policy(named, as_json=as_json)
    compared = [run.compare(index, rules) for index in range(len(examples.examples))]
    if run.problems:
        _refuse(file, run.problems, "file of examples", as_json=as_json)
    yield from (one for one in compared if one is not None)


def print_compared(file: Path, one: Compared, *, as_json: bool) -> None:
    """Print the differences of an example, each with its line; as JSON also an example without."""
    if as_json:
        line, column = one.location
        row = {
            "kind": "different" if one.differences else "same",
            "file": str(file),
            "line": line,
            "column": column,
            "name": one.example.name,
            "differences": [
                {"line": at.line, "column": at.column, **difference._asdict()}
                for at, difference in one.differences
            ],
            "decision": one.decision.model_dump(mode="json"),
        }
        emit(json.dumps(row, ensure_ascii=False))
        return
    for problem, _ in one.differences:
        emit(problem_line(file, problem, "error", as_json=False))
    if one.differences:
        emit(f"    decided: {_decided(one.decision)}")


def _decided(decision: Decision) -> str:
    """Return the decision as one line, a hold with its first closed gate."""
    text = decision_line(decision)
    closed = next((gate for gate in decision.gates if not gate.passed), None)
    if decision.decision is not Verdict.HOLD or closed is None:
        return text
    return f"{text}, at gate {closed.gate}: {closed.detail}".removesuffix(": ")


def _refuse(file: Path, problems: Sequence[Problem], what: str, *, as_json: bool) -> NoReturn:
    """Print the problems of a file, each with its line, and exit 2."""
    for problem in sorted(problems):
        emit(problem_line(file, problem, "error", as_json=as_json))
    count = len(problems)
    fail(f"{file} is not a valid {what}: {count} problem{'s' if count > 1 else ''}")


def _read_policy(path: Path, *, as_json: bool) -> Policy:
    """Return the policy of a file. Exit 2 if it is unreadable, or invalid with every problem."""
    try:
        return read_policy(read_yaml_text(path))
    except UnreadableFileError as error:
        fail(str(error))
    except PolicyError as error:
        _refuse(path, error.problems, "policy", as_json=as_json)


@dataclass
class _Run:
    """The examples of one file, with what was read for them, and the problems found."""

    folder: Path
    examples: Examples
    root: Located
    problems: list[Problem] = field(default_factory=list)
    _events: dict[str, list[Event]] = field(default_factory=dict)
    _catalogues: dict[datetime, list[Event]] = field(default_factory=dict)

    def check_names(self, policy: Path | None) -> None:
        """Add a problem for each file that does not exist, and for a missing policy or time."""
        examples = self.examples
        if policy is None and examples.policy is None:
            self._problem((), "policy: is required: in the file, or with --policy")
        elif policy is None:
            self._check_file(("policy",), str(examples.policy))
        for name in (*_FEEDS, "events"):
            for index, file in enumerate(getattr(examples.catalogue, name)):
                self._check_file(("catalogue", name, index), file)
        for number, example in enumerate(examples.examples):
            for index, file in enumerate(example.events):
                self._check_file(("examples", number, "events", index), file)
            if example.now is None and examples.now is None:
                self._problem(("examples", number), "now: is required: here or for the whole file")

    def compare(self, index: int, policy: Policy) -> Compared | None:
        """Return one example compared with its decision; None, with a problem, without its Mac."""
        example = self.examples.examples[index]
        now = example.now or self.examples.now
        assert now is not None
        events = [*self._catalogue(now), *self._read(example.events)]
        if example.mac is not None:
            events.append(example.mac.event(now))
        known = (event for event in events if is_known_at(event, now))
        found = decide_all(fold_events(known), policy, now, fast_paths=fast_paths_wanted())
        decisions = list(found)
        decision = self._chosen(index, example, decisions)
        if decision is None:
            return None
        differing = []
        for one in differences(example.expect, decision):
            path: YamlPath = ("examples", index, "expect", one.field)
            message = f"expected {one.expected}, decided {one.decided}"
            location = locate(self.root, path).location
            problem = Problem(*location, f"{example.name}: {one.field}", message)
            differing.append((problem, one))
        location = locate(self.root, ("examples", index)).location
        return Compared(example, location, decision, tuple(differing))

    def _chosen(self, index: int, example: Example, decisions: list[Decision]) -> Decision | None:
        """Return the decision for the example's Mac; None, with a problem, if there is none."""
        path: YamlPath = ("examples", index)
        if example.mac is not None:
            return next(one for one in decisions if one.udid == example.mac.udid)
        by = "serial" if example.serial is not None else "udid"
        wanted = example.serial or example.udid
        if wanted is None:
            if len(decisions) == 1:
                return decisions[0]
            message = f"the events have {len(decisions)} Macs; choose one by serial or udid"
            self._problem((*path, "events"), message)
            return None
        known = {str(getattr(one, by)): one for one in decisions}
        if wanted not in known:
            near = get_close_matches(wanted, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            self._problem((*path, by), f"the events have no Mac with this {by}{hint}")
        return known.get(wanted)

    def _catalogue(self, now: datetime) -> list[Event]:
        """Return the events about releases, as they are known at `now`."""
        known = self._catalogues.get(now)
        if known is None:
            catalogue = self.examples.catalogue
            known = [one.event() for one in catalogue.releases]
            known += self._read(catalogue.events)
            for feed in _FEEDS:
                for number, name in enumerate(getattr(catalogue, feed)):
                    known += self._of_feed(feed, number, name, now, known)
            self._catalogues[now] = known
        return known

    def _of_feed(
        self, feed: str, number: int, name: str, now: datetime, known: list[Event]
    ) -> tuple[Event, ...]:
        """Return the events of a feed's document; a problem is added if it gives none."""
        translate = TRANSLATORS[feed]
        if feed == "kev":  # a CVE that Apple fixed counts under any vendor's name
            published = [one for one in known if isinstance(one, AdvisoryPublishedEvent)]
            fixed = frozenset(cve for one in published for cve in one.data.cves)
            translate = translator_since("kev", None, fixed)
        raw = (self.folder / name).read_bytes()
        found = translate(raw, origin=name, received_at=now, redactor=_REDACTOR)
        if not found.events:
            letters = found.dead_letters
            reason = (
                f"{letters[0].where} {letters[0].detail}".strip()
                if letters
                else "it has no release"
            )
            self._problem(("catalogue", feed, number), f"cannot be read as {feed}: {reason}")
        return found.events

    def _read(self, names: tuple[str, ...]) -> list[Event]:
        """Return the events of these files. Exit 2, with line numbers, if they are not events."""
        for name in names:
            if name not in self._events:
                self._events[name] = list(read_events([self.folder / name]))
        return [event for name in names for event in self._events[name]]

    def _check_file(self, path: YamlPath, name: str) -> None:
        if not (self.folder / name).is_file():
            self._problem(path, f"there is no file {name!r} beside this one")

    def _problem(self, path: YamlPath, message: str) -> None:
        location = locate(self.root, path).location
        self.problems.append(Problem(*location, path_text(path), message))
