"""docs/how-to/investigate.md on a data directory; on a fleet in tests/integration/test_query.py."""

import re
from collections import deque
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.cli.app import app
from pipeline.demo import embedded
from pipeline.demo.scenario import policy_text
from tests.kafka.recorded import SEED, STEP, UNTIL, few_macs
from tests.transcripts import Transcript, failures, transcripts

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "investigate.md"


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("few-macs")
    deque(embedded.run(folder, few_macs(), SEED, STEP, UNTIL), maxlen=0)
    return folder


def drydock(arguments: list[str]) -> str:
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code in {0, 1}, done.stderr
    return done.stdout


def test_each_question_is_answered_from_a_data_directory(data_dir: Path, tmp_path: Path) -> None:
    shorter = tmp_path / "shorter.yaml"
    shorter.write_text(policy_text().replace("exploited: 3d", "exploited: 2d"))
    where = ("--data-dir", str(data_dir))
    sources = {"$AT": where, "$LOG": where, "shorter.yaml": (str(shorter),)}
    assert failures(PAGE, sources, drydock) == []


def test_page_answers_nine_questions_with_one_command_each() -> None:
    questions = re.findall(r"^## .+\?$", PAGE.read_text(), re.MULTILINE)
    assert len(questions) == len([*transcripts(PAGE)]) == 9


@pytest.mark.parametrize(
    ("lines", "missing"),
    [
        (["a b", "..."], None),
        (["...", "c ... e"], None),
        (["a b"], "no end before 'c d e'"),
        (["c d e", "..."], "c d e"),
        (["...", "x", "..."], "x"),
    ],
)
def test_transcript_notices_a_different_output(lines: list[str], missing: str | None) -> None:
    assert Transcript("drydock x", tuple(lines)).missing_line("a   b\n\n  c d e\n") == missing
