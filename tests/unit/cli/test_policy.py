import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.cli.policy import app

ROOT = Path(__file__).resolve().parents[3]
RUN = CliRunner()
VALID = "sites: {tokyo: {time_zone: Asia/Tokyo}}\ndefault_site: tokyo\n"
ODD = VALID + "windows: []\n"


def _write(folder: Path, content: str | bytes) -> str:
    path = folder / "policy.yaml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def test_valid_policy_is_summarized() -> None:
    result = RUN.invoke(app, ["check", str(ROOT / "examples" / "policy.yaml")])
    assert result.exit_code == 0, result.output
    rows = [line.split() for line in result.stdout.splitlines()]
    assert ["tokyo", "Asia/Tokyo", "tyo-*", "mon-fri", "20:00-06:00", "20"] in [
        row[:6] for row in rows
    ]
    assert ["exploited", "at", "once", "3", "d"] in rows
    assert rows[-1][0] == "valid;"
    assert result.stderr == ""


def test_invalid_policy_exits_1_with_a_line_per_problem(tmp_path: Path) -> None:
    file = _write(tmp_path, "version: 1\nsites:\n  tokyo: {max_jobs: 5}\nsitez: 1\n")
    result = RUN.invoke(app, ["check", file])
    assert result.exit_code == 1
    assert result.stdout.splitlines() == [
        f"{file}:3:3: sites.tokyo.time_zone: is required and missing",
        f"{file}:4:1: sitez: unknown key; did you mean 'sites'?",
    ]
    assert result.stderr == f"drydock: {file} is not a valid policy: 2 problems\n"


def test_json_has_one_object_per_line(tmp_path: Path) -> None:
    file = _write(tmp_path, "sites: {}\n")
    result = RUN.invoke(app, ["check", file, "--json"])
    assert result.exit_code == 1
    assert [json.loads(line) for line in result.stdout.splitlines()] == [
        {
            "kind": "error",
            "file": file,
            "line": 1,
            "column": 8,
            "path": "sites",
            "message": "must not be empty",
        }
    ]


def test_json_of_a_valid_policy_has_its_digest_and_values(tmp_path: Path) -> None:
    result = RUN.invoke(app, ["check", _write(tmp_path, ODD), "--json"])
    assert result.exit_code == 0
    warning, valid = [json.loads(line) for line in result.stdout.splitlines()]
    assert (warning["kind"], warning["path"]) == ("warning", "windows")
    assert (valid["kind"], valid["warnings"]) == ("valid", 1)
    assert len(valid["digest"]) == 64
    assert valid["policy"]["sites"]["tokyo"]["time_zone"] == "Asia/Tokyo"


def test_warnings_exit_1_only_with_strict(tmp_path: Path) -> None:
    file = _write(tmp_path, ODD)
    lenient, strict = (RUN.invoke(app, ["check", file, *more]) for more in ([], ["--strict"]))
    assert (lenient.exit_code, strict.exit_code) == (0, 1)
    assert lenient.stdout.startswith(f"{file}:3:10: warning: windows: there is no window")
    assert strict.stderr.endswith("policy.yaml: 1 warning\n")


def test_dash_reads_stdin() -> None:
    result = RUN.invoke(app, ["check", "-"], input=VALID)
    assert result.exit_code == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(b"sites:\n  a: \xff\n", "is not UTF-8 text: line 2", id="not-utf-8"),
        pytest.param(b" " * (4 * 1024 * 1024 + 1), "is larger than 1 MiB", id="too-large"),
    ],
)
def test_unreadable_file_exits_2(tmp_path: Path, content: bytes, message: str) -> None:
    result = RUN.invoke(app, ["check", _write(tmp_path, content)])
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_missing_file_and_folder_exit_2(tmp_path: Path) -> None:
    for file in (tmp_path / "none.yaml", tmp_path):
        result = RUN.invoke(app, ["check", str(file)])
        assert result.exit_code == 2
        assert result.stderr.startswith(f"drydock: cannot read {file}: ")
