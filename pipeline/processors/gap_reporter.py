"""Reports of lost records and moved offsets of input partitions."""

from collections import deque
from typing import Final

from faust.types import TP

from pipeline.metrics import Metrics
from runtime.logs import Log
from runtime.offset_gaps import OffsetGap
from schemas import logkeys as key

_MAX_KEPT_GAPS: Final = 20


class GapReporter:
    """Logs and counts gaps. `gaps` describes the last ones."""

    def __init__(self, metrics: Metrics, log: Log) -> None:
        self.gaps: deque[str] = deque(maxlen=_MAX_KEPT_GAPS)
        self._metrics = metrics
        self._log = log

    def report(self, tp: TP, gap: OffsetGap) -> None:
        """Log and count the lost records or moved offsets of an input partition."""
        where = f"expected offset {gap.expected}, continues at {gap.start}"
        fields = {key.TOPIC: tp.topic, key.PARTITION: tp.partition, key.DETAIL: where}
        messages = []
        if gap.is_cut:
            messages.append("topic ends before the offset of the state: was it created again?")
        if gap.is_moved:
            messages.append("committed offset was moved by another program")
            self._metrics.count_moved_offset(tp.topic)
        if gap.lost:
            messages.append("records lost: they were deleted or skipped")
            self._metrics.count_lost_records(tp.topic, gap.lost)
        for message in messages:
            self._log.error(message, **fields, **{key.COUNT: gap.lost})
            self.gaps.append(f"{tp.topic}/{tp.partition}: {message}; {where}; lost {gap.lost}")
