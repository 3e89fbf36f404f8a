"""The format of a golden record: inputs in their order, with the outputs of each.

A record is a JSON-lines file, compressed with xz: `xz -dc demo-1.jsonl.xz | head`. The first line
is the header: the case, the origin of its inputs, and counts. Each other line is one step.

| key | meaning |
| --- | --- |
| `now` | the time of the step |
| `do` | `accept` accepts inputs, `advance` does due work, `sweep` decides for every Mac again |
| `inputs` | of `accept`: the events of one batch; text that is not canonical JSON is a string |
| `outputs` | the outputs of the step in order: `decision`, `event` or `dead_letter` |

`decision` is a decision record. `event` is an event that Drydock made: an issued job with its DSSE
envelope, a superseded job, a settled job. `dead_letter` has the code and the SHA-256 of the bytes.
Bodies are exact to the byte: `write` refuses JSON that `canonical` does not reproduce.
"""

import json
import lzma
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

FORMAT: Final = 1
SEEDS: Final = (1, 2, 7)
DEMO: Final = "demo-"
SCENARIO: Final = "scenario-"
_TESTS: Final = Path(__file__).parents[1]
FOLDER: Final = _TESTS / "data" / "golden"
_SUFFIX: Final = ".jsonl.xz"
_ISSUED: Final = "drydock.job.issued.v1"

Do = Literal["accept", "advance", "sweep"]
Kind = Literal["decision", "event", "dead_letter"]


class Output(NamedTuple):
    """One record that Drydock wrote, as bytes of JSON."""

    kind: Kind
    body: bytes


@dataclass(frozen=True, slots=True)
class Step:
    """One call and its outputs; `inputs` is empty except for `accept`."""

    do: Do
    now: datetime
    inputs: tuple[bytes, ...] = ()
    outputs: tuple[Output, ...] = ()


@dataclass(frozen=True, slots=True)
class Golden:
    """The record of one case; `origin` is the command or file that its inputs come from."""

    case: str
    origin: str
    steps: tuple[Step, ...]

    @property
    def outputs(self) -> list[Output]:
        """Every output, in order."""
        return [output for step in self.steps for output in step.outputs]

    def counts(self) -> dict[str, int]:
        """Count inputs and outputs; `jobs` counts job ids, `signed_payloads` DSSE envelopes."""
        kinds = Counter(output.kind for output in self.outputs)
        issued = issued_jobs(self.outputs)
        return {
            "steps": len(self.steps),
            "inputs": sum(len(step.inputs) for step in self.steps),
            "decisions": kinds["decision"],
            "jobs": len({job_id for job_id, _ in issued}),
            "signed_payloads": len(issued),
            "other_events": kinds["event"] - len(issued),
            "dead_letters": kinds["dead_letter"],
        }


def issued_jobs(outputs: Iterable[Output]) -> list[tuple[str, Any]]:
    """Return the job id and the DSSE envelope of each issued job, in order."""
    events = (json.loads(output.body) for output in outputs if output.kind == "event")
    return [
        (event["data"]["job"]["job_id"], event["data"]["signed"])
        for event in events
        if event["type"] == _ISSUED
    ]


def canonical(value: Any) -> bytes:
    """Return the bytes of a JSON value as Drydock writes them: no spaces, UTF-8, keys in order."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def wanted_cases() -> list[str]:
    """Return the names of all cases that must have a record."""
    scenarios = sorted((_TESTS / "scenarios").glob("*.yaml"))
    return [f"{DEMO}{seed}" for seed in SEEDS] + [f"{SCENARIO}{path.stem}" for path in scenarios]


def cases() -> list[str]:
    """Return the names of all recorded cases."""
    return sorted(path.name.removesuffix(_SUFFIX) for path in FOLDER.glob(f"*{_SUFFIX}"))


def path_of(case: str) -> Path:
    """Return the file of a case."""
    return FOLDER / f"{case}{_SUFFIX}"


def read(case: str) -> tuple[dict[str, Any], Golden]:
    """Return the header and the record of a case."""
    with lzma.open(path_of(case)) as file:
        header = json.loads(file.readline())
        assert header["format"] == FORMAT, f"{case} has format {header['format']}"
        steps = tuple(_step(json.loads(line)) for line in file)
    return header, Golden(case, header["origin"], steps)


def write(golden: Golden) -> Path:
    """Write the record of a case and return its file."""
    header = {"format": FORMAT, "case": golden.case, "origin": golden.origin, **golden.counts()}
    lines = [header, *(_line(step) for step in golden.steps)]
    text = b"".join(canonical(line) + b"\n" for line in lines)
    path = path_of(golden.case)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME))
    return path


def _line(step: Step) -> dict[str, Any]:
    line: dict[str, Any] = {"now": step.now.isoformat(), "do": step.do}
    if step.inputs:
        line["inputs"] = [_input(raw) for raw in step.inputs]
    if step.outputs:
        line["outputs"] = [{output.kind: _exact(output.body)} for output in step.outputs]
    return line


def _step(line: dict[str, Any]) -> Step:
    return Step(
        line["do"],
        datetime.fromisoformat(line["now"]),
        tuple(
            one.encode() if isinstance(one, str) else canonical(one)
            for one in line.get("inputs", ())
        ),
        tuple(_outputs(line.get("outputs", ()))),
    )


def _outputs(lines: Iterable[dict[Kind, Any]]) -> Iterator[Output]:
    for line in lines:
        ((kind, body),) = line.items()
        yield Output(kind, canonical(body))


def _input(raw: bytes) -> Any:
    """Return these bytes as a JSON object; as a string if they are not canonical JSON."""
    try:
        value = json.loads(raw)
    except ValueError:
        return raw.decode()
    return value if isinstance(value, dict) and canonical(value) == raw else raw.decode()


def _exact(body: bytes) -> Any:
    value = json.loads(body)
    assert canonical(value) == body, f"not canonical JSON: {body!r}"
    return value
