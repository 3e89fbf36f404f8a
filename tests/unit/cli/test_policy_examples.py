"""`drydock policy test`: examples of a policy with the decisions that are expected."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.cli.policy import app
from tests.factories.sofa import feed, line, release

ROOT = Path(__file__).resolve().parents[3]
SHIPPED = ROOT / "examples" / "policy-examples.yaml"
RUN = CliRunner()
POLICY = "sites: {tokyo: {time_zone: Asia/Tokyo}}\ndefault_site: tokyo\n"
HEAD = "policy: policy.yaml\nnow: 2026-01-20T12:00:00Z\n"
CATALOGUE = """\
catalogue:
  releases:
    - {os_version: "26.2", builds: [25C56], released_at: 2025-12-12T18:00:00Z}
"""
MAC = '{serial: C02A, os_version: "26.2", build: 25C56, model: "Mac15,12", mdm_enrolled: true}'
SAME = f"""\
{HEAD}{CATALOGUE}examples:
  - name: a patched Mac
    mac: {MAC}
    expect: {{decision: nothing}}
"""


def _write(folder: Path, text: str, policy: str = POLICY) -> str:
    (folder / "policy.yaml").write_text(policy)
    file = folder / "examples.yaml"
    file.write_text(text)
    return str(file)


def _lines(*arguments: str) -> tuple[int, list[str]]:
    result = RUN.invoke(app, ["test", *arguments])
    return result.exit_code, result.stdout.splitlines()


def test_the_shipped_examples_are_as_expected() -> None:
    assert _lines(str(SHIPPED)) == (0, ["3 examples: every decision is as expected"])


def test_each_difference_has_its_line_and_the_decision(tmp_path: Path) -> None:
    text = SAME.replace("decision: nothing", "decision: send, action: update, findings: []")
    file = _write(tmp_path, text)
    code, lines = _lines(file)
    assert code == 1
    assert lines[:2] == [
        f"{file}:9:24: a patched Mac: decision: expected send, decided nothing",
        f"{file}:9:38: a patched Mac: action: expected update, decided none",
    ]
    assert lines[-1].startswith("    decided: nothing (")


def test_another_policy_is_tested_with_the_option(tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(POLICY.replace("tokyo", "osaka"))
    file = _write(tmp_path, SAME.replace("decision: nothing", "decision: nothing, site: osaka"))
    assert _lines(file)[0] == 1
    assert _lines(file, "--policy", str(other))[0] == 0


def test_json_has_one_object_for_each_example(tmp_path: Path) -> None:
    file = _write(tmp_path, SAME.replace("decision: nothing", "decision: nothing, erases: true"))
    code, (line,) = _lines(file, "--json")
    found = json.loads(line)
    assert code == 1
    assert (found["kind"], found["line"], found["name"]) == ("different", 7, "a patched Mac")
    (difference,) = found["differences"]
    assert difference == {
        "line": 9,
        "column": 41,
        "field": "erases",
        "expected": "true",
        "decided": "false",
    }
    assert found["decision"]["decision"] == "nothing"


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        pytest.param(
            SAME.replace("os_version: ", "os_versoin: ", 2),
            5,
            "unknown key; did you mean 'os_version'?",
            id="unknown-key-of-a-release",
        ),
        pytest.param(
            SAME.replace("expect:", "expects:"), 9, "did you mean 'expect'?", id="unknown-key"
        ),
        pytest.param(
            SAME.replace("decision: nothing", "decision: nothing, reason: compliand"),
            9,
            "did you mean 'compliant'?",
            id="unknown-reason",
        ),
        pytest.param(
            SAME.replace("decision: nothing", "decision: nothing, target: 26.10"),
            9,
            'write it in quotes: "26.10"',
            id="version-without-quotes",
        ),
        pytest.param(
            SAME.replace("T12:00:00Z", "", 1), 2, "must be a time with its zone", id="date-only"
        ),
        pytest.param(
            SAME.replace("now: 2026-01-20T12:00:00Z\n", ""), 6, "now: is required", id="no-time"
        ),
        pytest.param(
            SAME.replace("policy: policy.yaml\n", ""), 1, "policy: is required", id="no-policy"
        ),
        pytest.param(
            SAME.replace("policy.yaml", "polcy.yaml"), 1, "there is no file", id="no-policy-file"
        ),
        pytest.param(SAME.replace(f"mac: {MAC}", "serial: X"), 7, "needs `mac`", id="no-mac"),
        pytest.param(
            SAME.replace("mac:", "events: [none.jsonl]\n    mac:"),
            8,
            "there is no file 'none.jsonl'",
            id="no-events-file",
        ),
        pytest.param(
            SAME.replace("catalogue:\n", "catalogue:\n  sofa: [policy.yaml]\n"),
            4,
            "cannot be read as sofa",
            id="no-feed",
        ),
        pytest.param("examples:\n\t- name: x\n", 2, "not YAML", id="tab"),
    ],
)
def test_a_broken_file_is_refused_with_its_lines(
    tmp_path: Path, text: str, line: int, words: str
) -> None:
    file = _write(tmp_path, text)
    code, lines = _lines(file)
    assert code == 2
    assert any(one.startswith(f"{file}:{line}:") and words in one for one in lines), lines


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        ("serial: C02T00009", "did you mean 'C02T0000"),
        ("udid: 5133D000-0000-4000-8000-000000000009", "did you mean '5133D000-"),
        ("{}", "the events have 2 Macs; choose one by serial or udid"),
    ],
)
def test_a_mac_that_the_events_do_not_have_is_an_error(
    tmp_path: Path, choice: str, words: str
) -> None:
    events = ROOT / "examples" / "decisions" / "events" / "22-beta-counts-as-compliant.jsonl"
    chosen = "" if choice == "{}" else f"    {choice}\n"
    text = f"{HEAD}examples:\n  - name: one\n    events: ['{events}']\n{chosen}"
    code, lines = _lines(_write(tmp_path, text + "    expect: {decision: nothing}\n"))
    assert code == 2
    assert words in lines[0]


def test_releases_come_from_the_document_of_a_feed(tmp_path: Path) -> None:
    newest = release("26.2", Build="25C56", exploited=("CVE-2025-10001",))
    (tmp_path / "sofa.json").write_bytes(feed(line("Tahoe 26", newest)))
    catalogue = "catalogue: {sofa: [sofa.json]}\n"
    text = SAME.replace(CATALOGUE, catalogue).replace("26.2", "26.1").replace("25C56", "25B78")
    text = text.replace("2026-01-20", "2026-02-20").replace(
        "decision: nothing", "decision: send, target: '26.2', severity: exploited"
    )
    assert _lines(_write(tmp_path, text)) == (0, ["1 example: every decision is as expected"])


def test_an_invalid_policy_is_refused_with_its_lines(tmp_path: Path) -> None:
    file = _write(tmp_path, SAME, policy=POLICY + "sitez: 1\n")
    code, lines = _lines(file)
    assert code == 2
    assert lines == [f"{tmp_path / 'policy.yaml'}:3:1: sitez: unknown key; did you mean 'sites'?"]


def test_events_that_are_none_are_refused_with_their_line(tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text("\n{}\n")
    file = _write(tmp_path, SAME.replace("mac:", "events: [bad.jsonl]\n    mac:"))
    result = RUN.invoke(app, ["test", file])
    assert result.exit_code == 2
    assert f"{tmp_path / 'bad.jsonl'}:2: " in result.stderr
