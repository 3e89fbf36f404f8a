"""Logs of every process: one JSON line per event on stderr, those of libraries included."""

import logging
import sys
import time
from collections.abc import Callable
from typing import Final

import structlog

from schemas import logkeys as key

Log = structlog.typing.FilteringBoundLogger

SILENT: Final = logging.CRITICAL + 1
"""A level above all messages."""
_KAFKA_LIBRARIES: Final = ("aiokafka", "kafka")
_MESSAGE_START: Final = 40
_MAX_MESSAGES: Final = 1000


def make_log() -> Log:
    """Return a log that writes one JSON line per event to stderr, from level `info` on."""
    log: Log = structlog.wrap_logger(
        structlog.WriteLogger(sys.stderr),
        processors=[*_fields(), structlog.processors.JSONRenderer()],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
    )
    return log


class LogRate(logging.Filter):
    """Passes at most `lines` records of one message in each period of `period_s`.

    The first record of a later period has the number of those that were dropped as `suppressed`. A
    message is known by its logger, its level and the start of its text, since asyncio's texts end
    with the addresses of objects.
    """

    def __init__(
        self,
        lines: int = 5,
        period_s: float = 10.0,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self._lines, self._period_s, self._monotonic_s = lines, period_s, monotonic_s
        self._seen: dict[tuple[str, int, str], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return True if the record is to be written."""
        name = (record.name, record.levelno, str(record.msg)[:_MESSAGE_START])
        suppressed = self.suppressed(name)
        if suppressed:
            record.suppressed = suppressed
        return suppressed is not None

    def suppressed(self, name: tuple[str, int, str]) -> int | None:
        """Return None if a record of this name is to be dropped.

        Otherwise return the number of those that were dropped since the last one.
        """
        now_s = self._monotonic_s()
        started_s, count = self._seen.get(name, (now_s, 0))
        dropped = 0
        if now_s - started_s >= self._period_s:
            dropped, started_s, count = max(count - self._lines, 0), now_s, 0
        if name not in self._seen and len(self._seen) == _MAX_MESSAGES:
            self._seen.clear()
        self._seen[name] = (started_s, count + 1)
        return dropped if count < self._lines else None


def write_library_logs_as_json() -> None:
    """Write the log records of libraries, from WARNING on, to stderr in the form of `make_log`.

    Replaces the handlers of the root logger. The rate of each message is limited (`LogRate`).
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(LogRate())
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.ExtraAdder(), *_fields()],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)


def silence_kafka_clients(level: int = logging.CRITICAL) -> None:
    """Hide log lines of the Kafka clients below `level`.

    They log an error for each failure that they retry a moment later. Failures that last are
    logged by the callers.
    """
    for name in _KAFKA_LIBRARIES:
        logging.getLogger(name).setLevel(level)


def forward_kafka_clients(log: Log) -> None:
    """Write critical messages of kafka-python to `log` as warnings; its other messages are dropped.

    Replaces the handlers of its logger.
    """
    silence_kafka_clients()
    library = logging.getLogger("kafka")
    library.handlers[:] = [_Forward(log)]
    library.propagate = False


class _Forward(logging.Handler):
    def __init__(self, log: Log) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        self._log.warning("kafka client", **{key.SOURCE: record.name, key.DETAIL: message})


def _fields() -> list[structlog.typing.Processor]:
    """Return the processors that add level, time and traceback to an event."""
    return [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.dict_tracebacks,
    ]
