"""Each program, and each library in it, writes one JSON line per event to stderr."""

import json
import subprocess
import sys

PROGRAM = """
import logging
from runtime.logs import SILENT, forward_kafka_clients, make_log, silence_kafka_clients
from runtime.logs import write_library_logs_as_json
log = make_log()
"""


def logged(program: str) -> list[dict[str, object]]:
    """Run the program in a process of its own; return the lines that it writes to stderr."""
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM + program], capture_output=True, check=True, text=True
    )
    return [json.loads(line) for line in ran.stderr.splitlines()]


def test_event_is_one_line_with_level_and_time() -> None:
    (line,) = logged("log.debug('hidden'); log.info('started', site='london')")
    assert str(line.pop("timestamp")).endswith("Z")
    assert line == {"event": "started", "level": "info", "site": "london"}


def test_exception_is_in_the_line() -> None:
    program = "try: 1 / 0\nexcept ZeroDivisionError: log.error('failed', exc_info=True)"
    (line,) = logged(program)
    assert "ZeroDivisionError" in str(line["exception"])


def test_warning_of_a_library_has_the_same_form() -> None:
    program = """
write_library_logs_as_json()
logging.getLogger("faust").info("hidden")
logging.getLogger("faust").warning("slow %s", "poll", extra={"topic": "a"})
"""
    (line,) = logged(program)
    assert str(line.pop("timestamp")).endswith("Z")
    assert line == {"event": "slow poll", "level": "warning", "topic": "a"}


def test_kafka_client_is_forwarded_from_critical_on() -> None:
    program = """
forward_kafka_clients(log)
logging.getLogger("kafka.client").error("retried a moment later")
logging.getLogger("kafka.client").critical("broken")
"""
    (line,) = logged(program)
    assert (line["level"], line["event"]) == ("warning", "kafka client")
    assert line["detail"] == "broken"


def test_silent_kafka_client_writes_nothing() -> None:
    assert logged("silence_kafka_clients(SILENT); logging.getLogger('kafka').critical('x')") == []
