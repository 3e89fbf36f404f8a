"""`drydock worker` with a clock that a test sets, which is the only difference."""

import asyncio
import os
import sys
import warnings
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from prometheus_client import CollectorRegistry

from pipeline.metrics import Metrics
from pipeline.processors.service import WorkerError, WorkerPlan, serve_until_signalled
from pipeline.trust.stamps import Stamps
from runtime.kafka import KafkaConnection
from runtime.listening import Listen
from runtime.logs import make_log
from runtime.trusted_keys import KeyRing
from tests.factories.sites import JOBS_KEY, KEYS


@dataclass(frozen=True, kw_only=True)
class Given:
    """Parameters of a worker. `clock` is a file with the time, `log` the file for its output.

    With a `stamp_key` it uses only stamped records, and control events that CONTROL_KEY, or a
    trusted key in the directory `control_keys`, signed.
    """

    bootstrap: str
    data_dir: Path
    web_port: int
    clock: Path
    group: str
    log: Path
    refresh: timedelta
    stalled_after_s: float
    stamp_key: str | None = None
    control_keys: Path | None = None


def run(given: Given) -> None:
    """Run a worker until a signal stops it; exit with code 1 on a WorkerError."""
    warnings.simplefilter("ignore")
    output = os.open(given.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, sys.stdout.fileno())
    os.dup2(output, sys.stderr.fileno())

    def clock() -> datetime:
        return datetime.fromisoformat(given.clock.read_text())

    plan = WorkerPlan(
        connection=KafkaConnection(bootstrap=given.bootstrap),
        data_dir=given.data_dir,
        key=JOBS_KEY,
        jobs=KEYS.jobs,
        approvals={**KEYS.approvals, **_own_keys(given.control_keys).approvals},
        group=given.group,
        web=Listen("127.0.0.1", given.web_port),
        session_timeout_s=6.0,
        refresh=given.refresh,
        stalled_after_s=given.stalled_after_s,
        sweep_every=timedelta(days=1000),
        clock=clock,
        stamps=None if given.stamp_key is None else Stamps([given.stamp_key.encode()]),
        control=None
        if given.stamp_key is None
        else {**KEYS.control, **_own_keys(given.control_keys).control},
    )
    try:
        asyncio.run(serve_until_signalled(plan, Metrics(CollectorRegistry()), make_log()))
    except WorkerError as error:
        sys.exit(str(error))


def _own_keys(directory: Path | None) -> KeyRing:
    return KeyRing() if directory is None else KeyRing.load(directory)
