"""The events of the log for executors whose Macs answer by events: Macs at MDM servers."""

from datetime import datetime
from itertools import islice
from typing import Final

from agents.answer_feed import AnswerFeed
from pipeline.embedded.log import Log
from schemas.envelope import Event, InvalidEvent, decode

LOG_FEED: Final = "log"
_BATCH: Final = 1000
# Events of other types have no answers.
_TYPES: Final = ("drydock.mdm.", "drydock.inventory.")


def catch_up(feed: AnswerFeed, log: Log, now: datetime) -> None:
    """Give the feed the events of the log that it lacks.

    If it has events that the log lacks, the log was restored from an older copy: then it gets all
    of them again, because numbers are used again. An unreadable event is left out: it must not
    prevent a start.
    """
    last, position = log.last_seq(), feed.position(LOG_FEED) or 0
    rows = log.entries(kind="event", after=position if position <= last else 0)
    answers = (row for row in rows if row.type.startswith(_TYPES))
    while batch := [*islice(answers, _BATCH)]:
        events = [event for row in batch if (event := _read(row.body)) is not None]
        feed.add_events(events, batch[-1].at, {LOG_FEED: batch[-1].seq})
    feed.add_events((), now, {LOG_FEED: last})


def _read(body: bytes) -> Event | None:
    try:
        return decode(body)
    except InvalidEvent:
        return None
