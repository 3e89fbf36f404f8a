"""`drydock feeds`: an error at the start is one line on stderr."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.cli.app import app

NO_BROKER = ("--bootstrap", "127.0.0.1:9")
WRONG = {
    "listen": (("--listen", "nowhere"), "is not HOST:PORT"),
    "bootstrap": (("--bootstrap", "no address"), "DRYDOCK_KAFKA_BOOTSTRAP"),
    "interval": (("--interval", "0"), "DRYDOCK_FEEDS_INTERVAL_S: "),
    "no feed": (("--sofa", ""), "DRYDOCK_FEEDS_SOFA: "),
    "accept without once": (("--accept", "sofa"), "--accept needs --once"),
    "accept what": (("--accept", "apple", "--once"), "unknown feed 'apple'; one of: sofa, "),
    "no Kafka": (
        ("--once", *NO_BROKER),
        "cannot read the feed states from Kafka: KafkaConnectionError",
    ),
}


@pytest.mark.parametrize(("given", "message"), WRONG.values(), ids=WRONG.keys())
def test_an_error_at_the_start_is_one_line(
    tmp_path: Path, given: tuple[str, ...], message: str
) -> None:
    runner = CliRunner(env={"DRYDOCK_STAMP_KEYS": "the-stamp-key-of-the-tests"})
    result = runner.invoke(app, ["feeds", "--data-dir", str(tmp_path), *given])
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
