"""Logs of every process: one JSON line per event on stderr, those of libraries included."""

import logging
import sys
from typing import Final

import structlog

from schemas import logkeys as key

Log = structlog.typing.FilteringBoundLogger

SILENT: Final = logging.CRITICAL + 1
"""A level above all messages."""
_KAFKA_LIBRARIES: Final = ("aiokafka", "kafka")


def make_log() -> Log:
    """Return a log that writes one JSON line per event to stderr, from level `info` on."""
    log: Log = structlog.wrap_logger(
        structlog.WriteLogger(sys.stderr),
        processors=[*_fields(), structlog.processors.JSONRenderer()],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
    )
    return log


def write_library_logs_as_json() -> None:
    """Write the log records of libraries, from WARNING on, to stderr in the form of `make_log`.

    Replaces the handlers of the root logger.
    """
    handler = logging.StreamHandler(sys.stderr)
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
