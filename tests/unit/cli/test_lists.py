"""`drydock devices|jobs|approvals|halts|findings list`: rows, selection, forms, and wrong names."""

import csv
import json
import os
import pwd
import subprocess
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pipeline.cli.app import app
from pipeline.cli.lists import changed_rows
from pipeline.embedded.lists import Row
from pipeline.embedded.service import Service
from pipeline.signing_keys import KeyStore
from runtime.trusted_keys import Purpose
from tests import factories as make
from tests.drydock_process import DRYDOCK
from tests.embedded_world import POLICY
from tests.factories.sites import JOBS_KEY, KEYS, START, osquery_report

MACS = ("MAC-1", "MAC-2", "MAC-3")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with three Macs: two lack a release and have a job, one has it."""
    folder = tmp_path_factory.mktemp("lists")
    service = Service.open(folder, now=START, signer=JOBS_KEY, trust=KEYS, policy_text=POLICY)
    versions = {"MAC-1": "26.1", "MAC-2": "26.1", "MAC-3": "26.2"}
    reports = [
        osquery_report(udid, os_version=version, hostname=f"ldn-{udid}")
        for udid, version in versions.items()
    ]
    service.accept([make.release("26.2"), *reports], (), START)
    service.accept([make.halted(START, site="london")], (), START)
    service.close()
    return folder


def invoked(*arguments: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, arguments)
    return done.exit_code, done.stdout, done.stderr


@pytest.fixture
def listed(data_dir: Path) -> Callable[..., list[dict[str, Any]]]:
    def rows(noun: str, *options: str) -> list[dict[str, Any]]:
        code, out, err = invoked(noun, "list", "--data-dir", str(data_dir), "-o", "jsonl", *options)
        assert code == 0, err
        return [json.loads(line) for line in out.splitlines()]

    return rows


def test_devices_are_listed_by_udid_with_their_decision(listed: Callable[..., Any]) -> None:
    rows = listed("devices")
    assert [row["udid"] for row in rows] == [*MACS]
    assert {(row["site"], row["os_version"]) for row in rows} == {
        ("london", "26.1"),
        ("london", "26.2"),
    }
    assert all(row["decision"] and row["reason"] for row in rows)


@pytest.mark.parametrize("column", ["decision", "reason", "severity", "site"])
def test_devices_are_selected_by_column(listed: Callable[..., Any], column: str) -> None:
    rows = listed("devices")
    value = rows[0][column]
    assert value is not None
    wanted = [row for row in rows if row[column] == value]
    assert listed("devices", f"--{column}", value) == wanted


def test_names_of_a_mac_are_serial_number_and_host_name_in_any_case(
    listed: Callable[..., Any],
) -> None:
    (first, *_) = listed("devices")
    for name in (first["udid"], first["serial"], first["hostname"]):
        assert listed("devices", name.lower()) == [first]


def test_jobs_are_selected_by_outcome_and_time(listed: Callable[..., Any]) -> None:
    rows = listed("jobs")
    assert {row["udid"] for row in rows} == {"MAC-1", "MAC-2"}
    assert [row["issued_at"] for row in rows] == sorted(
        (row["issued_at"] for row in rows), reverse=True
    )
    outcome = rows[0]["outcome"]
    assert listed("jobs", "--outcome", outcome) == [
        row for row in rows if row["outcome"] == outcome
    ]
    assert listed("jobs", "--since", "2020-01-01") == rows
    assert listed("jobs", "--since", "2099-01-01") == []
    assert len(listed("jobs", "--limit", "1")) == 1


def test_halts_have_author_and_scope(listed: Callable[..., Any]) -> None:
    (halt,) = listed("halts")
    assert (halt["scope"], halt["by"]) == ("site:london", "ops")


def test_findings_are_listed_by_code(listed: Callable[..., Any]) -> None:
    rows = listed("findings")
    codes = [row["finding"] for row in rows]
    assert codes == sorted(codes)
    assert codes
    assert listed("findings", "--code", codes[0]) == [
        row for row in rows if row["finding"] == codes[0]
    ]


def test_no_approval_waits(listed: Callable[..., Any]) -> None:
    assert listed("approvals") == []


def test_every_form_has_the_same_rows(data_dir: Path) -> None:
    def text(form: str) -> str:
        return invoked("devices", "list", "--data-dir", str(data_dir), "-o", form)[1]

    rows = json.loads(text("json"))
    assert [json.loads(line) for line in text("jsonl").splitlines()] == rows
    read = list(csv.DictReader(StringIO(text("csv"))))
    assert [row["udid"] for row in read] == [row["udid"] for row in rows]
    assert all(row["udid"] in text("table") for row in rows)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["devices", "list", "MAC-11"], "did you mean"),
        (["devices", "list", "--reason", "low_disc"], "did you mean low_disk?"),
        (["devices", "list", "--site", "londn"], "did you mean london?"),
        (["jobs", "list", "--outcome", "x"], "one of: accepted"),
        (["jobs", "list", "--since", "soon"], "--since: "),
    ],
    ids=["Mac", "reason", "site", "outcome", "time"],
)
def test_wrong_name_is_refused_with_a_hint(
    data_dir: Path, arguments: list[str], message: str
) -> None:
    code, out, err = invoked(*arguments, "--data-dir", str(data_dir))
    assert (code, out) == (2, "")
    assert message in err


@pytest.mark.parametrize("form", ["table", "json", "jsonl", "csv"])
def test_a_reader_that_ends_early_is_no_error(data_dir: Path, form: str) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    command = [*DRYDOCK, "devices", "list", "--data-dir", str(data_dir), "-o", form]
    with os.fdopen(write_end, "wb") as closed:
        done = subprocess.run(
            command, stdout=closed, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("text", ["=1+1", "-2", "@a", "+3"])
def test_csv_has_no_formula(tmp_path: Path, text: str) -> None:
    service = Service.open(tmp_path, now=START, signer=JOBS_KEY, trust=KEYS, policy_text=POLICY)
    service.accept([osquery_report("MAC-1", os_version="26.1", hostname=text)], (), START)
    service.close()
    out = invoked("devices", "list", "--data-dir", str(tmp_path), "-o", "csv")[1]
    (row,) = csv.DictReader(StringIO(out))
    assert row["hostname"] in ("", f"'{text}")


def test_watch_prints_what_is_new_or_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = Service.open(tmp_path, now=START, signer=JOBS_KEY, trust=KEYS, policy_text=POLICY)
    service.accept([osquery_report("MAC-1"), osquery_report("MAC-2")], (), START)
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            raise KeyboardInterrupt
        service.accept([osquery_report("MAC-2", hostname="renamed")], (), START)

    monkeypatch.setattr("pipeline.cli.lists.time.sleep", wait)
    options = ("--data-dir", str(tmp_path), "-o", "jsonl", "--watch", "5")
    _, out, _ = invoked("devices", "list", *options)
    service.close()
    rows = [json.loads(line) for line in out.splitlines()]
    assert [(row["udid"], row["hostname"]) for row in rows] == [
        ("MAC-1", None),
        ("MAC-2", None),
        ("MAC-2", "renamed"),
    ]
    assert waits == [5.0, 5.0, 5.0]


def test_pages_of_the_macs_have_each_mac_once(listed: Callable[..., Any]) -> None:
    assert [row["udid"] for row in listed("devices", "--limit", "2")] == ["MAC-1", "MAC-2"]
    page = ("--limit", "2", "--after", "MAC-2")
    assert [row["udid"] for row in listed("devices", *page)] == ["MAC-3"]
    assert listed("devices", "--after", "MAC-3") == []
    assert [row["udid"] for row in listed("devices", "--after", "MAC-1x")] == ["MAC-2", "MAC-3"]
    # A Mac need not exist: it may have left since the page before.
    compliant = ("--reason", "compliant", "--after", "MAC-0")
    assert [row["udid"] for row in listed("devices", *compliant)] == ["MAC-3"]


def test_author_without_a_name_in_the_environment_is_the_login_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Service.open(tmp_path, now=START, signer=JOBS_KEY, trust=KEYS, policy_text=POLICY).close()
    KeyStore(tmp_path / "keys").make(Purpose.JOBS)
    for name in ("USER", "LOGNAME", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    assert invoked("halt", "all", "--data-dir", str(tmp_path))[0] == 0
    out = invoked("halts", "list", "--data-dir", str(tmp_path), "-o", "json")[1]
    assert [row["by"] for row in json.loads(out)] == [pwd.getpwuid(os.getuid()).pw_name]


def test_changed_rows_are_those_that_were_not_there_before() -> None:
    before: list[Row] = [{"udid": "A", "reason": "compliant"}, {"udid": "B", "reason": None}]
    after: list[Row] = [{"udid": "A", "reason": "deferred"}, before[1], {"udid": "C"}]
    assert changed_rows(before, after) == [after[0], after[2]]


def test_watch_has_no_json_array(data_dir: Path) -> None:
    options = ("--data-dir", str(data_dir), "-o", "json", "--watch", "5")
    code, _, err = invoked("devices", "list", *options)
    assert code == 2
    assert "jsonl" in err


@pytest.mark.parametrize("command", ["explain", "replay --serial"])
def test_a_mac_is_found_by_its_host_name_in_any_case(data_dir: Path, command: str) -> None:
    words = (*command.split(), "LDN-mac-1", "--data-dir", str(data_dir), "--json")
    code, out, err = invoked(*words)
    assert code == 0, err
    assert json.loads(out.splitlines()[0])["udid"] == "MAC-1"


@pytest.mark.parametrize("command", ["explain", "replay --serial"])
def test_near_miss_of_a_host_name_is_suggested(data_dir: Path, command: str) -> None:
    code, _, err = invoked(*command.split(), "ldn-mac-11", "--data-dir", str(data_dir))
    assert code == 2
    assert "no Mac is known as 'ldn-mac-11'; did you mean ldn-MAC-1" in err
