"""`drydock replay` and `drydock explain` over a data directory."""

import json
import sqlite3
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from pipeline.cli.app import app
from tests.unit.replay.data_dir import write
from tests.unit.replay.driver import POLICY, Driver, MemoryLog, pilot, story

STORY, PILOT = story(), pilot()
FIRST_DECISION = STORY.decisions()[0].seq
# A policy or a catalogue; the lists of CVEs come before it.
ALTER_CONTENT = (
    "UPDATE blobs SET body = ? WHERE rowid = (SELECT min(rowid) FROM blobs WHERE kind = 'content')"
)
ROOT = Path(__file__).resolve().parents[3]
EXPLANATIONS = ROOT / "tests" / "data" / "explain"


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    write(STORY, folder)
    return folder


def drydock(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(one) for one in arguments])


def lines(result: Result) -> list[dict[str, Any]]:
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def change(data_dir: Path, statement: str, *values: object) -> None:
    db = sqlite3.connect(data_dir / "drydock.sqlite")
    assert db.execute(statement, values).rowcount == 1
    db.commit()
    db.close()


# --- list ---


def test_decisions_are_listed_in_order(data_dir: Path) -> None:
    found = lines(drydock("replay", "--data-dir", data_dir, "--json"))
    assert [one["seq"] for one in found] == [row.seq for row in STORY.decisions()]
    wanted = {"udid", "serial", "site", "decision", "action", "method", "target", "reason", "gates"}
    wanted |= {"advisory_ids", "cves", "deadline_at", "next_eligible_at", "at"}
    assert wanted <= set(found[0])


def test_decisions_of_one_mac_in_a_period_are_listed(data_dir: Path) -> None:
    found = lines(
        drydock(
            *("replay", "--data-dir", data_dir, "--json", "--serial", "snlon-2"),
            *("--since", "2025-12-12T22:00:00Z", "--until", "2025-12-13"),
        )
    )
    assert found
    assert {one["udid"] for one in found} == {"LON-2"}
    assert {one["at"][:13] for one in found} <= {"2025-12-12T22", "2025-12-12T23"}


def test_relative_times_count_from_the_logs_end(data_dir: Path) -> None:
    found = lines(drydock("replay", "--data-dir", data_dir, "--json", "--since", "-12h"))
    end = STORY.last_at()
    assert end is not None
    assert [one["seq"] for one in found] == [
        row.seq for row in STORY.decisions() if (end - row.at).total_seconds() <= 12 * 3600
    ]


def test_decisions_are_listed_as_a_table_without_json(data_dir: Path) -> None:
    result = drydock("replay", "--data-dir", data_dir)
    assert result.exit_code == 0
    assert "outside_window" in result.stdout
    assert len(result.stdout.splitlines()) == 1 + len(STORY.decisions())


def test_period_without_decisions_is_reported(data_dir: Path) -> None:
    result = drydock("replay", "--data-dir", data_dir, "--until", "2020-01-01")
    assert (result.exit_code, result.stdout) == (0, "There are no such decisions.\n")


def test_empty_log_is_not_an_error(tmp_path: Path) -> None:
    write(Driver(None).finish(), tmp_path / "new")
    for flags in ((), ("--verify",), ("--since", "-3d")):
        assert drydock("replay", "--data-dir", tmp_path / "new", *flags).exit_code == 0


# --- verify ---


def test_unchanged_log_verifies(data_dir: Path) -> None:
    (found,) = lines(drydock("replay", "--data-dir", data_dir, "--verify", "--json"))
    assert found["verified"] is True
    assert found["decisions"] == len(STORY.decisions())
    assert found["difference"] is None


def test_difference_exits_1_and_names_its_entry(data_dir: Path) -> None:
    row = next(row for row in STORY.decisions() if b'"outside_window"' in row.body)
    body = row.body.replace(b'"outside_window"', b'"cooling_down"', 1)
    change(data_dir, "UPDATE log SET body = ? WHERE seq = ?", body, row.seq)
    result = drydock("replay", "--data-dir", data_dir, "--verify", "--json")
    assert result.exit_code == 1
    found = json.loads(result.stdout)["difference"]
    assert (found["seq"], found["udid"], found["field"]) == (row.seq, row.key, "decision.reason")
    assert (found["recorded"], found["expected"]) == ("cooling_down", "outside_window")
    assert result.stderr == (
        f"drydock: entry {row.seq} of 2025-12-12 12:00:00Z, Mac SNLON-1: from_record:"
        " decision.reason is cooling_down, expected outside_window;"
        f" its last event before is entry {found['after_seq']}\n"
    )


@pytest.mark.parametrize(
    ("statement", "values", "field"),
    [
        ("DELETE FROM log WHERE seq = ?", (7,), "seq"),
        ("UPDATE log SET type = ? WHERE seq = 6", ("drydock.mdm.checked_out.v1",), "type"),
        ("UPDATE log SET id = ? WHERE seq = 6", ("x",), "id"),
        (ALTER_CONTENT, (b"\x00",), "inputs"),
        (
            ALTER_CONTENT,
            (zlib.compress(b"{}"),),
            "inputs",
        ),
        ("UPDATE blobs SET body = ? WHERE rowid = 1", (zlib.compress(b'"CVE-1"'),), "body"),
        ("UPDATE log SET body = substr(body, 1, 90) WHERE seq = ?", (FIRST_DECISION,), "body"),
        ("UPDATE devices SET body = ? WHERE udid = 'LON-1'", (b"{}",), "state.device"),
        ("DELETE FROM job_histories WHERE udid = ?", ("LON-1",), "state.job_history"),
    ],
)
def test_altered_row_is_found(
    data_dir: Path, statement: str, values: tuple[object, ...], field: str
) -> None:
    change(data_dir, statement, *values)
    result = drydock("replay", "--data-dir", data_dir, "--verify", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["difference"]["field"] == field


def test_verify_prints_a_summary_without_json(data_dir: Path) -> None:
    result = drydock("replay", "--data-dir", data_dir, "--verify")
    assert result.exit_code == 0
    assert result.stdout.endswith(": 0 differences\n")


def test_read_only_data_directory_verifies(data_dir: Path) -> None:
    before = {path.name: path.read_bytes() for path in data_dir.iterdir()}
    assert drydock("replay", "--data-dir", data_dir, "--verify").exit_code == 0
    after = {path.name: path.read_bytes() for path in data_dir.iterdir()}
    assert after["drydock.sqlite"] == before["drydock.sqlite"]


# --- what if ---


def test_another_policy_shows_changed_decisions_and_exits_0(data_dir: Path, tmp_path: Path) -> None:
    other = tmp_path / "p2.yaml"
    other.write_text(POLICY.replace("critical: 7d", "critical: 6d"))
    *changes, sums = lines(drydock("replay", "--data-dir", data_dir, "--policy", other, "--json"))
    on_15 = {"LON-1", "LON-2", "LON-3", "TYO-1", "TYO-3"}
    assert {one["udid"] for one in changes} == on_15
    assert {one["change"] for one in changes} == {"changed"}
    assert set(sums["by_mac"]) == on_15
    assert sums["changes"] == len(changes)
    assert {(one["site"], one["action"]) for one in sums["by_site_and_action"]} == {
        ("london", "update"),
        ("tokyo", "update"),
    }
    shown = drydock("replay", "--data-dir", data_dir, "--policy", other)
    assert shown.exit_code == 0
    assert "By site and action" in shown.stdout


def test_same_policy_changes_no_decision(data_dir: Path, tmp_path: Path) -> None:
    same = tmp_path / "p.yaml"
    same.write_text(POLICY)
    result = drydock("replay", "--data-dir", data_dir, "--policy", same)
    assert result.exit_code == 0
    assert result.stdout.strip().endswith("0 decisions of 0 Macs differ")


def test_invalid_policy_is_reported_line_by_line(data_dir: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text(POLICY.replace("7d", "soon").replace("max_jobs: 2", "max_jobs: 0"))
    result = drydock("replay", "--data-dir", data_dir, "--policy", bad)
    assert result.exit_code == 2
    assert [line.split("bad.yaml:")[1].split(":")[0] for line in result.stderr.splitlines()] == [
        "5",
        "13",
    ]


# --- bad usage ---


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--verify", "--policy", "x.yaml"), "give one of them"),
        (("--since", "2025-12-12T10:00"), "--since: '2025-12-12T10:00' has no time zone"),
        (("--until", "soon"), "--until: 'soon' is not a time"),
        (("--since", "2025-12-13", "--until", "2025-12-12"), "is not before"),
        (("--serial", "UNKNOWN"), "no Mac is known as 'UNKNOWN'"),
        (("--policy", "missing.yaml"), "cannot read missing.yaml"),
    ],
)
def test_bad_arguments_exit_2(data_dir: Path, arguments: tuple[str, ...], message: str) -> None:
    result = drydock("replay", "--data-dir", data_dir, *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.startswith("drydock: ")
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("command", [("replay",), ("replay", "--verify"), ("explain", "LON-1")])
def test_folder_that_is_not_a_data_directory_is_refused(
    command: tuple[str, ...], tmp_path: Path
) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        result = drydock(*command, "--data-dir", folder)
        assert result.exit_code == 2
        assert "is this a data directory" in result.stderr
    (tmp_path / "drydock.sqlite").write_text("not a database, but long enough to look at" * 99)
    result = drydock(*command, "--data-dir", tmp_path)
    assert result.exit_code == 2
    assert "not a database" in result.stderr


def test_unreadable_decision_is_one_line_without_traceback(data_dir: Path) -> None:
    seq = STORY.decisions()[-1].seq
    change(data_dir, "UPDATE log SET body = ? WHERE seq = ?", b"{", seq)
    result = drydock("replay", "--data-dir", data_dir, "--json")
    assert result.exit_code == 2
    assert f"entry {seq} is not a decision record" in result.stderr


# --- explain ---


def test_mac_is_explained_as_json(data_dir: Path) -> None:
    (found,) = lines(drydock("explain", "sntyo-3", "--data-dir", data_dir, "--json"))
    assert found["udid"] == "TYO-3"
    gates = found["decision"]["gates"]
    assert [gate["gate"] for gate in gates][:4] == ["site", "exemption", "owner", "identity"]
    assert found["blocked_by"] == next(gate for gate in gates if not gate["passed"])
    assert [job["outcome"] for job in found["jobs"]][-1] in {"open", "expired"}
    assert found["events"][-1]["data"]["free_disk_gb"] == 80.0


EXPLAINED = [
    pytest.param(STORY, ("TYO-3", "--at", "2025-12-12T13:00Z"), id="held"),
    pytest.param(STORY, ("LON-1",), id="compliant"),
    pytest.param(STORY, ("LON-3",), id="checked-out"),
    pytest.param(PILOT, ("TYO-1", "--at", "2025-12-12T14:00Z"), id="withheld"),
    pytest.param(PILOT, ("TYO-1",), id="rehearsed"),
    pytest.param(PILOT, ("LON-1",), id="reset"),
]


@pytest.mark.parametrize(("log", "arguments"), EXPLAINED)
def test_mac_is_explained_in_five_sections(
    log: MemoryLog,
    arguments: tuple[str, ...],
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    write(log, tmp_path / "data")
    result = drydock("explain", *arguments, "--data-dir", tmp_path / "data")
    assert result.exit_code == 0
    printed = "".join(f"{line.rstrip()}\n" for line in result.stdout.splitlines())
    golden = EXPLANATIONS / f"{request.node.callspec.id}.txt"
    assert printed == golden.read_text("utf-8")


def test_mac_without_a_decision_is_explained(tmp_path: Path) -> None:
    driver = Driver(None)
    driver.report("LON-1", hostname="[red]ldn[/red]")
    write(driver.finish(), tmp_path / "data")
    result = drydock("explain", "LON-1", "--data-dir", tmp_path / "data")
    assert result.exit_code == 0
    assert "there is no decision for it" in result.stdout
    assert "hostname=[red]ldn[/red]" in result.stdout


def test_unknown_mac_exits_2(data_dir: Path) -> None:
    result = drydock("explain", "UNKNOWN", "--data-dir", data_dir)
    assert result.exit_code == 2
    assert result.stderr == (
        "drydock: no Mac is known as 'UNKNOWN':"
        " give a UDID, serial number, enrollment id or host name\n"
    )


# --- replay and explain publish nothing ---


@pytest.mark.parametrize("command", [("replay", "--verify"), ("explain", "LON-1")])
def test_command_imports_nothing_that_publishes(data_dir: Path, command: tuple[str, ...]) -> None:
    program = (
        "import sys\nfrom pipeline.cli.app import app\n"
        "try:\n    app()\nfinally:\n    print(*sorted(sys.modules), file=sys.stderr)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program, *command, "--data-dir", str(data_dir)],
        cwd=ROOT,
        capture_output=True,
        check=True,
        text=True,
    )
    loaded = set(ran.stderr.split())
    assert "pipeline.embedded.log" in loaded
    assert not loaded & {"pipeline.embedded.store", "pipeline.embedded.service", "agents.executor"}
    # `drydock` lists the options of the agent's commands; each imports the agent when it runs.
    loaded -= {"agents", "agents.cli", "agents.config", "agents.config.commands"}
    assert not {name for name in loaded if name.split(".")[0] in {"agents", "kafka", "aiokafka"}}
