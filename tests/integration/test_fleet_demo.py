"""The demo on Kafka: same numbers as the embedded form, and no process or file left behind."""

import os
import re
import signal
import subprocess
import sys
from collections import deque
from pathlib import Path

from pipeline.demo import embedded
from pipeline.demo.outcome import read_outcome
from pipeline.demo.summary import summarize
from tests.fleet_demo.comparison import rows
from tests.fleet_demo.running import FleetRun
from tests.kafka.brokers import ROOT, KafkaCluster
from tests.kafka.recorded import MACS, SEED, STEP, UNTIL, few_macs
from tests.waiting import wait_until


def test_demo_on_kafka_has_the_numbers_of_the_embedded_form(
    empty_kafka: KafkaCluster, tmp_path: Path
) -> None:
    scenario = few_macs()
    ours = tmp_path / "embedded"
    ours.mkdir()
    deque(embedded.run(ours, scenario, SEED, STEP, UNTIL), maxlen=0)
    wanted = summarize(read_outcome(embedded.log_lines(ours)), scenario, SEED)

    run = FleetRun(tmp_path, empty_kafka.bootstrap, scenario, SEED, STEP, UNTIL)
    deque(run.moments(), maxlen=0)
    found = summarize(run.outcome, scenario, SEED)

    assert [row for row in rows(wanted, found) if not row.is_same] == []
    assert sum(job["jobs"] for job in found["jobs"]) >= MACS
    assert found["exposed_after"] < MACS
    assert {
        name: figures["rounds"] > 0 for name, figures in run.figures.items() if "rounds" in figures
    } == {
        "worker-0": True,
        "worker-1": True,
    }
    # The policy and the approval of the loan unit's image do not go through the gateway.
    assert run.figures["gateway"]["records"] == found["events"] - 2
    # The computer was fast enough: no job was held back.
    assert not any(results.get("held_back") for results in run.figures.values())


def test_interrupt_stops_all_processes_of_the_demo(tmp_path: Path) -> None:
    stderr = tmp_path / "stderr"
    with stderr.open("wb") as output:
        demo = subprocess.Popen(
            [
                *(sys.executable, "-W", "ignore", "-m", "tests.fleet_demo"),
                *("--devices", "28", "--step-minutes", "360"),
            ],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=output,
            env=os.environ | {"TMPDIR": str(tmp_path), "COLUMNS": "400"},
            start_new_session=True,
        )
    try:
        wait_until(lambda: len(running_in(tmp_path)) >= 7, 60, "broker and programs start")
        demo.send_signal(signal.SIGINT)
        assert demo.wait(100) == 128 + signal.SIGINT
    finally:
        demo.kill()
    assert "interrupted" in stderr.read_text()
    assert running_in(tmp_path) == []
    assert not list(tmp_path.glob("drydock-demo-kafka-*"))


def running_in(folder: Path) -> list[str]:
    """Return the commands of all processes that have this folder in their arguments."""
    listed = subprocess.run(
        ["ps", "-A", "-ww", "-o", "command="], capture_output=True, text=True, check=True
    )
    return re.findall(rf"^.*{re.escape(str(folder))}.*$", listed.stdout, re.MULTILINE)
