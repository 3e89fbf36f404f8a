"""Logs of an agent: one JSON line per event on stderr, including the logs of kafka-python."""

import logging
import sys
from typing import Any

import structlog

from schemas import logkeys as key


def make_log() -> Any:
    """Return a logger that writes one JSON line per event to stderr, from level info.

    Replaces the handlers of the library logger `kafka`: its critical messages go to this logger as
    warnings, its other messages are dropped.
    """
    log = structlog.wrap_logger(
        structlog.WriteLogger(sys.stderr),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.dict_tracebacks,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger("info"),
    )
    handler = _Forward(log)
    library = logging.getLogger("kafka")
    library.handlers[:] = [handler]
    library.propagate = False
    # kafka-python logs ERROR before it retries. A call that fails in the end raises, and its caller
    # logs that.
    library.setLevel(logging.CRITICAL)
    return log


class _Forward(logging.Handler):
    def __init__(self, log: Any) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        self._log.warning("kafka client", **{key.SOURCE: record.name, key.DETAIL: message})
