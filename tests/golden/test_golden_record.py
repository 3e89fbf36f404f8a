"""The golden record: equal inputs lead to the recorded decisions, jobs and bytes.

`tests/data/golden` holds the inputs of `drydock demo` (seeds 1, 2 and 7) and of every scenario, and
every decision record, issued job and signed payload that they led to at the last intended change of
decisions; the commit of a file lists the changes. Each replay compares all of them to the byte. The
only permitted differences are the renames in `renames.tsv` (`renames.py` has its format).
`golden_file.py` has the format of the record, `replayer.py` the core of the replay.

`.venv/bin/python -m tests.golden.record` records a new scenario; it writes missing records only.
`.venv/bin/python -m tests.golden.record demo-1` overwrites a record (read `record.py` before).
"""

import base64
import json
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.golden import golden_file, renames
from tests.golden.comparison import differences
from tests.golden.golden_file import Golden, Output, Step, canonical, issued_jobs, wanted_cases
from tests.golden.renames import Rename, Renames
from tests.golden.replayer import Replayer, verified_job_id

ROOT = Path(__file__).parents[2]
SHOWN = 20
SMALL = "scenario-update"


def found_differences(golden: Golden, folder: Path, more: Iterable[Rename] = ()) -> list[str]:
    """Replay a record; return the differences that neither the map nor `more` permits."""
    with closing(Replayer(folder)) as core:
        return list(differences(golden, core, Renames.of([*renames.read(), *more])))


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=pytest.mark.slow if case.startswith("demo-") else ())
        for case in wanted_cases()
    ],
)
def test_replay_gives_the_recorded_outputs(case: str, tmp_path: Path) -> None:
    _, golden = golden_file.read(case)
    found = found_differences(golden, tmp_path)
    assert not found, "\n".join([f"{len(found)} differences to the record:", *found[:SHOWN]])


def test_every_case_has_a_record_and_every_record_a_case() -> None:
    assert golden_file.cases() == sorted(wanted_cases())


@pytest.mark.parametrize("case", golden_file.cases())
def test_record_has_the_counts_of_its_header(case: str) -> None:
    header, golden = golden_file.read(case)
    counts = golden.counts()
    assert {name: header[name] for name in counts} == counts
    assert counts["decisions"] > 0
    assert counts["jobs"] > 0


@pytest.mark.parametrize("case", golden_file.cases())
def test_recorded_payloads_are_signed_by_the_test_key(case: str) -> None:
    _, golden = golden_file.read(case)
    for job_id, envelope in issued_jobs(golden.outputs):
        assert verified_job_id(envelope) == job_id


@pytest.mark.timeout(600)  # reads the whole tree: 15 s alone, minutes on a loaded machine
def test_map_of_renames_agrees_with_the_record_and_the_tree() -> None:
    lines = renames.read()
    recorded = (
        output.body
        for case in golden_file.cases()
        for output in golden_file.read(case)[1].outputs
        if output.kind == "decision"
    )
    assert renames.complaints(lines, recorded, ROOT) == []


# --- the comparison itself ---


ISSUED = '"type":"drydock.job.issued.v1"'
SENT = '"decision":"send"'


def changed(golden: Golden, text: str, change: Callable[[Any], None]) -> Golden:
    """Return the record with a change to its last output that contains this text."""
    steps = list(golden.steps)
    for at in reversed(range(len(steps))):
        outputs = list(steps[at].outputs)
        for number in reversed(range(len(outputs))):
            kind, raw = outputs[number]
            if text.encode() in raw:
                body = json.loads(raw)
                change(body)
                outputs[number] = Output(kind, canonical(body))
                steps[at] = replace(steps[at], outputs=tuple(outputs))
                return replace(golden, steps=tuple(steps))
    raise LookupError(text)


def other_payload(event: dict[str, Any]) -> None:
    signed = event["data"]["signed"]
    payload = bytearray(base64.b64decode(signed["payload"]))
    payload[10] ^= 1
    signed["payload"] = base64.b64encode(payload).decode()


def other_signature(event: dict[str, Any]) -> None:
    signature = event["data"]["signed"]["signatures"][0]
    sig = bytearray(base64.b64decode(signature["sig"]))
    sig[0] ^= 1
    signature["sig"] = base64.b64encode(sig).decode()


def other_job_id(event: dict[str, Any]) -> None:
    event["data"]["job"]["job_id"] += "0"


def other_reason(record: dict[str, Any]) -> None:
    record["decision"]["reason"] = "exempt"


def other_gate(record: dict[str, Any]) -> None:
    record["decision"]["gates"][0]["detail"] += "."


def other_inputs(record: dict[str, Any]) -> None:
    record["inputs"]["site_open_jobs"] += 1


def other_key_order(record: dict[str, Any]) -> None:
    record["inputs"]["now"] = record["inputs"].pop("now")


@pytest.mark.parametrize(
    ("text", "change", "named"),
    [
        (ISSUED, other_payload, "data.signed.payload"),
        (ISSUED, other_signature, "data.signed.signatures[0].sig"),
        (ISSUED, other_job_id, "data.job.job_id"),
        (SENT, other_reason, "decision.reason"),
        (SENT, other_gate, "decision.gates[0].detail"),
        (SENT, other_inputs, "inputs.site_open_jobs"),
        (SENT, other_key_order, "inputs: the order of the keys"),
    ],
    ids=["payload", "signature", "job id", "reason", "gate", "inputs", "order of keys"],
)
def test_one_changed_output_is_found(
    text: str, change: Callable[[Any], None], named: str, tmp_path: Path
) -> None:
    _, golden = golden_file.read(SMALL)
    (found,) = found_differences(changed(golden, text, change), tmp_path)
    assert f": {named}" in found


def without_last(outputs: tuple[Output, ...]) -> tuple[Output, ...]:
    return outputs[:-1]


def with_another(outputs: tuple[Output, ...]) -> tuple[Output, ...]:
    return (*outputs, outputs[-1])


@pytest.mark.parametrize(
    ("change", "named"), [(without_last, "is new"), (with_another, "is missing")]
)
def test_missing_or_extra_output_is_found(
    change: Callable[[tuple[Output, ...]], tuple[Output, ...]], named: str, tmp_path: Path
) -> None:
    _, golden = golden_file.read(SMALL)
    steps = list(golden.steps)
    at = max(number for number, step in enumerate(steps) if step.outputs)
    steps[at] = replace(steps[at], outputs=change(steps[at].outputs))
    (found,) = found_differences(replace(golden, steps=tuple(steps)), tmp_path)
    assert named in found


def test_changed_time_of_a_step_is_found(tmp_path: Path) -> None:
    _, golden = golden_file.read(SMALL)
    first = next(number for number, step in enumerate(golden.steps) if step.outputs)
    steps: list[Step] = list(golden.steps)
    steps[first] = replace(steps[first], now=steps[first].now.replace(microsecond=1))
    assert found_differences(replace(golden, steps=tuple(steps)), tmp_path)


def test_only_mapped_renames_are_permitted(tmp_path: Path) -> None:
    _, golden = golden_file.read(SMALL)

    def old_names(record: dict[str, Any]) -> None:
        inputs = record["inputs"]
        record["inputs"] = {
            ("site_jobs" if key == "site_open_jobs" else key): value
            for key, value in inputs.items()
        }
        for gate in record["decision"]["gates"]:
            gate["gate"] = "place" if gate["gate"] == "site" else gate["gate"]

    older = changed(golden, SENT, old_names)
    field = Rename("field", "inputs.site_jobs", "site_open_jobs")
    value = Rename("value", "decision.gates.gate=place", "site")
    assert not found_differences(older, tmp_path / "both", [field, value])
    assert found_differences(older, tmp_path / "field", [field])
    assert found_differences(older, tmp_path / "value", [value])
