"""The end of a worker process."""

import signal
import subprocess
import sys

HUNG = 70
# A worker that never stops, not even when its task is cancelled.
PROGRAM = """
import asyncio
from typing import Any
from pipeline.processors import service

async def hang(plan: Any, metrics: Any, log: Any, stop: asyncio.Event) -> None:
    print("ready", flush=True)
    await stop.wait()
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            pass

service.serve = hang
asyncio.run(service.serve_until_signalled(None, None, None, ends_within_s=0.2))
"""


def test_a_worker_that_hangs_while_it_stops_exits_after_the_time_limit() -> None:
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == HUNG
