"""`drydock ingest`: output, dead letters and exit codes."""

import io
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pipeline.cli.app import app
from pipeline.cli.ingest import _Lines, _Run
from pipeline.ingest.redaction import Redactor
from pipeline.ingest.translation import Translation
from tests.factories.sofa import feed, line, release

FEED = feed(line("Tahoe 26", release("26.2", exploited=("CVE-2026-1001",)), release("26.1")))
OLD = feed(line("Tahoe 26", release("26.2"), release("26.1")), last_check="2026-01-20T08:00:00Z")
BROKEN = feed(line("Tahoe 26", release("26.2"), release("twenty")))


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: bytes
    stderr: bytes


def drydock(*arguments: str | Path, stdin: bytes = b"") -> Done:
    """Run the command in this process: a new process takes a second to start."""
    done = CliRunner().invoke(
        app, ["ingest", *map(str, arguments)], input=stdin, env={"COLUMNS": "160"}
    )
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return Done(done.exit_code, done.stdout_bytes, done.stderr_bytes)


def lines_of(output: bytes) -> list[dict[str, Any]]:
    return [json.loads(text) for text in output.decode().splitlines()]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "feed.json"
    path.write_bytes(FEED)
    return path


def test_one_event_per_line_is_printed(file: Path) -> None:
    done = drydock("sofa", file, "--json")
    assert (done.returncode, done.stderr) == (0, b"")
    events = lines_of(done.stdout)
    assert [event["subject"] for event in events] == ["macOS-26.1", "macOS-26.2"]
    assert {event["specversion"] for event in events} == {"1.0"}


def test_command_runs_in_its_own_process(file: Path) -> None:
    program = [sys.executable, "-c", "from pipeline.cli import main; main()"]
    done = subprocess.run(
        [*program, "ingest", "sofa", str(file), "--json"], capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert len(lines_of(done.stdout)) == 2


def test_only_changes_since_previous_are_printed(file: Path, tmp_path: Path) -> None:
    old = tmp_path / "old.json"
    old.write_bytes(OLD)
    done = drydock("sofa", "--previous", old, file, "--json")
    assert done.returncode == 0
    assert [event["type"] for event in lines_of(done.stdout)] == [
        "drydock.advisory.severity_raised.v1"
    ]


def test_cve_that_apple_fixed_counts_under_another_vendors_name(file: Path, tmp_path: Path) -> None:
    kev = tmp_path / "kev.json"
    entry = {"cveID": "CVE-2026-1001", "vendorProject": "Google", "dateAdded": "2026-01-06"}
    kev.write_text(json.dumps({"vulnerabilities": [entry]}))
    assert drydock("kev", kev, "--json").stdout == b""
    done = drydock("kev", kev, "--with", file, "--json")
    assert [event["subject"] for event in lines_of(done.stdout)] == ["CVE-2026-1001"]
    assert drydock("kev", kev, "--with", file, "--previous", kev, "--json").stdout == b""


def test_dash_reads_stdin() -> None:
    done = drydock("sofa", "-", "--json", stdin=FEED)
    assert (done.returncode, len(lines_of(done.stdout))) == (0, 2)


def test_dead_letters_go_to_stderr_and_exit_1() -> None:
    done = drydock("sofa", "-", "--json", stdin=BROKEN)
    assert done.returncode == 1
    assert [event["subject"] for event in lines_of(done.stdout)] == ["macOS-26.2"]
    (letter,) = lines_of(done.stderr)
    assert letter["where"] == "$.OSVersions[0].SecurityReleases[1].ProductVersion"
    assert letter["origin"] == "stdin"


@pytest.mark.parametrize(
    "flags", [pytest.param(["--json"], id="json"), pytest.param([], id="table")]
)
def test_dead_letters_are_kept_in_a_file(tmp_path: Path, flags: list[str]) -> None:
    kept = tmp_path / "letters.jsonl"
    for _ in range(2):
        assert drydock("sofa", "-", "--dead-letters", kept, *flags, stdin=BROKEN).returncode == 1
    assert [letter["code"] for letter in lines_of(kept.read_bytes())] == ["bad_value"] * 2


def test_tables_are_printed_without_json(file: Path) -> None:
    done = drydock("sofa", file)
    assert done.returncode == 0
    text = done.stdout.decode()
    assert "advisory.published" in text
    assert "exploited CVE-2026-1001" in text
    assert text.endswith("2 events\n")


def test_markup_and_escape_sequences_of_a_payload_are_printed_as_text() -> None:
    raw = feed(line("Tahoe 26", {"ProductVersion": "26", "ReleaseType": "[red]x\x1b[31m"}))
    done = drydock("sofa", "-", stdin=raw)
    assert done.returncode == 1
    assert b"\x1b" not in done.stdout + done.stderr
    assert drydock("sofa", "-", stdin=b"[/red]").returncode == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(["sofa", "nowhere.json"], "cannot read nowhere.json: ", id="no-such-file"),
        pytest.param(["sofa", "."], "cannot read .: Is a directory", id="folder"),
        pytest.param(["floppy", "-"], "unknown source 'floppy'; one of: sofa, ", id="source"),
        pytest.param(["sofa", "-", "-"], "- can be given once", id="stdin-twice"),
        pytest.param(["sofa", "-", "--previous", "-"], "- can be given once", id="stdin-as-both"),
        pytest.param(
            ["munki", "-", "--previous", "F"], "--previous is for sofa, gdmf,", id="munki"
        ),
        pytest.param(["kev", "-", "--with", "nowhere"], "cannot read nowhere: ", id="no-sofa"),
        pytest.param(["sofa", "-", "--with", "F"], "--with is for kev", id="with"),
        pytest.param(["kev", "F", "--with", "K"], "K: ", id="with-no-sofa"),
        pytest.param(["sofa", "-", "--previous", "nowhere"], "cannot read nowhere: ", id="no-old"),
        pytest.param(["sofa", "-", "F", "--previous", "F"], "--previous compares", id="two-new"),
        pytest.param(
            ["sofa", "-", "--lines", "--previous", "F"], "--previous compares", id="lines-of-new"
        ),
        pytest.param(
            ["sofa", "-", "--dead-letters", "no/folder/x"], "cannot write", id="no-place-to-keep"
        ),
        pytest.param(["sofa", "-", "--redaction-key", "K"], "K: a redaction key", id="short-key"),
        pytest.param(["sofa", "-", "--redaction-key", "nokey"], "cannot read nokey", id="no-key"),
    ],
)
def test_bad_usage_is_one_line_and_exit_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    (tmp_path / "F").write_bytes(FEED)
    (tmp_path / "K").write_bytes(b"short")
    monkeypatch.chdir(tmp_path)
    done = drydock(*arguments, stdin=FEED)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.decode().startswith(f"drydock: {message}")
    assert done.stderr.count(b"\n") == 1


def test_nothing_is_printed_if_a_later_file_cannot_be_read(file: Path) -> None:
    done = drydock("sofa", file, "nowhere.json", "--json")
    assert (done.returncode, done.stdout) == (2, b"")


def test_lines_option_reads_each_line_as_a_payload() -> None:
    done = drydock("sofa", "-", "--lines", "--json", stdin=FEED + b"\n\n{}\n" + FEED)
    assert done.returncode == 1
    assert len(lines_of(done.stdout)) == 4
    (letter,) = lines_of(done.stderr)
    assert letter["origin"] == "stdin:3"


def test_line_over_the_limit_is_cut_and_its_rest_skipped() -> None:
    """So memory is bounded for input without line ends."""
    stream = io.BytesIO(b"short\n" + b"x" * 1000 + b"\n" + b"y" * 11 + b"\nlast")
    assert list(_Lines(stream, 10)) == [b"short\n", b"x" * 11, b"y" * 11, b"last"]


@pytest.mark.parametrize(
    ("raw", "one"),
    [
        pytest.param(b'{\n "a": 1\n}', True, id="pretty-printed"),
        pytest.param(b'[{"a": 1},\n{"a": 2}]', True, id="array-over-lines"),
        pytest.param(b'{"a": 1}\n{"a": 2}\n', False, id="json-lines"),
        pytest.param(b'{"a": 1}', False, id="one-line"),
        pytest.param(b'"a": 1}\n{"a": 2}\n', False, id="cut-off-by-rotation"),
        pytest.param(b"", False, id="empty"),
    ],
)
def test_multiline_document_and_json_lines_are_distinguished(raw: bytes, one: bool) -> None:
    lines = _Lines(io.BytesIO(raw), 100)
    assert lines.is_one_document() is one
    assert (lines.rest() if one else b"".join(lines)) == raw


def test_osquery_file_is_read_as_one_document_or_as_lines(reference_data: Path) -> None:
    path = reference_data / "inventory" / "osquery" / "osquery.result.snapshot.json"
    pretty = path.read_bytes()
    compact = json.dumps(json.loads(pretty)).encode()
    as_document = drydock("osquery", "-", "--json", stdin=pretty)
    as_lines = drydock("osquery", "-", "--json", stdin=compact + b"\n" + compact + b"\n")
    assert as_document.returncode == as_lines.returncode
    first = len(as_document.stdout.splitlines()) + len(as_document.stderr.splitlines())
    second = len(as_lines.stdout.splitlines()) + len(as_lines.stderr.splitlines())
    assert second == 2 * first > 0


def test_exception_of_a_translator_is_a_dead_letter(tmp_path: Path) -> None:
    def broken(raw: bytes, **_: object) -> Translation:
        raise ZeroDivisionError(raw)

    def broken_on_two(lines: Iterable[bytes], **_: object) -> Iterator[Translation]:
        for text in lines:
            if text == b"2\n":
                raise ZeroDivisionError
            yield Translation()

    file = tmp_path / "lines"
    file.write_bytes(b"1\n2\n3\n")
    redactor, now = Redactor(b"0123456789abcdef"), datetime(2026, 1, 1, tzinfo=UTC)
    whole = _Run("sofa", broken, None, redactor, now)
    (letter,) = next(whole.translations(file)).dead_letters
    assert (letter.code, letter.raw, letter.raw_size) == ("bug", None, 6)
    assert letter.detail.startswith("ZeroDivisionError at broken:")
    by_line = list(_Run("osquery", None, broken_on_two, redactor, now).translations(file))
    assert [len(translation.dead_letters) for translation in by_line] == [0, 1, 0]
    assert by_line[1].dead_letters[0].origin == f"{file}:2"
