"""The bytes that the demo's decisions take in the embedded log."""

import sqlite3
from contextlib import closing
from pathlib import Path

from typer.testing import CliRunner

from pipeline.cli.app import app
from pipeline.embedded.log import FILE


def test_decision_of_the_demo_takes_less_than_a_kilobyte_and_a_half(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    arguments = ["demo", "--data-dir", str(folder), "--devices", "60", "--json"]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    with closing(sqlite3.connect(folder / FILE)) as db:
        count, total = db.execute(
            "SELECT count(*), sum(length(body)) FROM log WHERE kind = 'decision'"
        ).fetchone()
        (lists,) = db.execute("SELECT sum(length(body)) FROM blobs WHERE kind = 'cves'").fetchone()
    assert count > 100
    assert (total + lists) / count < 1500
