"""Reads the records of a job topic: submits or withdraws their jobs, or writes dead letters."""

import sqlite3
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from agents.executor import Executor
from agents.replicated import LeaseLostError
from agents.result_producer import NotConfirmedError
from agents.site_context import SiteContext
from agents.verification import NotYetValidError
from runtime.retry import BROKER, Backoff
from runtime.trusted_keys import KeyRing
from schemas import logkeys as key
from schemas.dead_letters import DeadLetterCode, DeadLetterReason, Problem, make_dead_letter
from schemas.envelope import InvalidEvent, JobIssuedEvent, JobSupersededEvent, decode
from schemas.outline import outline
from schemas.signed_records import WITHDRAWAL_RECORD, verify_record
from schemas.signing import SignatureError

_SOURCE: Final = "drydock-agent"
# The base64 form of this still fits into a record; larger inputs are kept as their hash only.
_MAX_KEPT_BYTES: Final = 4 * 1024 * 1024


class OrderRecords:
    """Reads the records of one partition for its executor.

    `ending` is set when the thread of the partition must end. `report` is called with a message and
    the error while Kafka does not confirm a dead letter. `keys` are the trusted keys.
    """

    def __init__(
        self,
        site: SiteContext,
        partition: int,
        ending: threading.Event,
        report: Callable[[str, Exception], None],
    ) -> None:
        self.keys = KeyRing()
        self._site = site
        self._partition = partition
        self._ending = ending
        self._report = report

    def handle(self, executor: Executor, record: Any, now: datetime) -> None:
        """Submit or withdraw the job of a record, or write the record as a dead letter.

        A record that is unreadable, is no order, is a withdrawal that no trusted key signed or a
        job of the future, or leads to an exception of our code becomes a dead letter. Raises
        sqlite3.Error if the journal fails, LeaseLostError if the thread must end before a dead
        letter is confirmed.
        """
        raw = record.value or b""
        reason: DeadLetterReason
        try:
            event = decode(raw)
            if isinstance(event, JobIssuedEvent):
                executor.submit(event.data, now)
                return
            if isinstance(event, JobSupersededEvent):
                verify_record(raw, WITHDRAWAL_RECORD, self.keys.jobs)
                executor.supersede(event.data, now)
                return
            reason = Problem(DeadLetterCode.UNKNOWN_TYPE, f"{event.type} is no order", "$.type")
        except InvalidEvent as error:
            reason = error
        except NotYetValidError as error:
            reason = Problem(DeadLetterCode.BAD_VALUE, str(error), "$.data.job.issued_at")
        except SignatureError as error:
            reason = Problem(DeadLetterCode.UNSIGNED, str(error), "$.signature")
        except (sqlite3.Error, LeaseLostError):
            raise
        except Exception as error:  # noqa: BLE001 - one record must not stop the others
            reason = Problem(DeadLetterCode.BUG, type(error).__name__, "$")
        self.write_dead_letter(record, raw, reason)

    def write_dead_letter(self, record: Any, raw: bytes, reason: DeadLetterReason) -> None:
        """Publish a record as a dead letter, again and again until Kafka confirms it.

        Raises LeaseLostError if the thread must end before that.
        """
        letter = make_dead_letter(
            reason,
            raw,
            source=_SOURCE,
            origin=f"{record.topic}/{record.partition}/{record.offset}",
            received_at=datetime.now(UTC),
            redacted=outline(raw),  # its signature may be missing
            max_kept_bytes=_MAX_KEPT_BYTES,
        )
        backoff = Backoff(BROKER)
        while True:
            try:
                self._site.result_producer.publish_dead_letter(letter)
                break
            except NotConfirmedError as error:
                self._report("dead letter not confirmed", error)
                if backoff.wait(self._ending):
                    raise LeaseLostError("ended before a dead letter was confirmed") from error
        self._site.metrics.count_dead_letter(record.topic, reason.code)
        self._site.log.warning(
            "record dead-lettered",
            **{
                key.SITE: self._site.name,
                key.PARTITION: self._partition,
                key.DETAIL: f"at {reason.where}: {reason.detail}",
                key.TOPIC: record.topic,
                key.OFFSET: record.offset,
                key.KEY: repr(record.key),
                key.ERROR_CODE: reason.code,
            },
        )
