"""Logs of an executor: one JSON line per event on stderr, what libraries say included."""

import logging
import sys
from typing import Any

import structlog

from schemas import logkeys as key


def make_log() -> Any:
    """The log. What kafka-python warns of goes to it as well."""
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
    # It calls an error what it tries again a moment later; what fails is told by who asked.
    library.setLevel(logging.CRITICAL)
    return log


class _Forward(logging.Handler):
    def __init__(self, log: Any) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        self._log.warning("kafka client", **{key.SOURCE: record.name, key.DETAIL: message})
