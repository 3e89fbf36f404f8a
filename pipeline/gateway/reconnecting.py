"""The gateway's connection to Kafka: one producer at a time, replaced after a failure.

| state     | means                                                   | next                      |
| --------- | ------------------------------------------------------- | ------------------------- |
| absent    | no producer                                             | connected, after a delay  |
| connected | accepts records; retries a batch until Kafka has it     | failed: `failure` is set  |
| failed    | a record has an error, or the caller has set `failure`  | absent: `close`           |

A connected producer is kept for the whole time that Kafka is away: an idempotent one sends its
batches in order, and none twice. A failed one may break the order, so the caller waits for the
outcome of all its records in flight before it closes it.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

from pipeline.gateway.producer import DeliveryFuture, Producer, ProducerError
from pipeline.gateway.records import Record
from pipeline.gateway.wakeup import Wakeup
from runtime.logs import Log
from runtime.retry import Backoff, RetryPolicy
from schemas import logkeys as key

_NEVER: Final = float("-inf")


class ReconnectingProducer:
    """A producer that is made by `connect`, and made again after a failure.

    `failure` is the error of the present producer, None while it works. `acknowledged_at` and
    `refused_at` are the monotonic seconds of the last acknowledgement, and of the last timeout: of
    a `send`, or of an acknowledgement (the caller sets it). Each end of a delivery is reported to
    `wakeup`.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[Producer]],
        log: Log,
        wakeup: Wakeup,
        *,
        accept_timeout_s: float,
        retry: RetryPolicy,
    ) -> None:
        self.failure: BaseException | None = None
        self.acknowledged_at = _NEVER
        self.refused_at = _NEVER
        self._connect = connect
        self._log = log
        self._wakeup = wakeup
        self._accept_timeout_s = accept_timeout_s
        self._backoff = Backoff(retry)
        self._is_first_attempt = True
        self._producer: Producer | None = None

    @property
    def is_working(self) -> bool:
        """True if a producer is connected and has not failed."""
        return self._producer is not None and self.failure is None

    def is_away(self, silence_s: float) -> bool:
        """Return True if the last attempt to connect failed, or after a recent timeout.

        A timeout is recent for `silence_s` seconds, until Kafka acknowledges a record.
        """
        if self._producer is None:
            return not self._is_first_attempt
        return self.acknowledged_at <= self.refused_at > time.monotonic() - silence_s

    async def connect(self, waiting: int) -> bool:
        """Return True if a producer is connected; if there is none, try once to connect.

        After an error it waits, then returns False. `waiting` is the number of records that wait
        for Kafka, for the log.
        """
        if self._producer is None:
            try:
                self._producer = await self._connect()
            except ProducerError as error:
                if self._is_first_attempt:
                    self._log.warning(
                        "cannot connect to Kafka; records go to the spool; retrying",
                        **{key.DETAIL: str(error)},
                    )
                self._is_first_attempt = False
                await self._wakeup.sleep(self._backoff.next_delay_s())
                return False
            self._log.info("connected to Kafka", **{key.COUNT: waiting})
            self._is_first_attempt = True
            self._backoff.reset()
        return True

    async def send(
        self, record: Record, on_acknowledged: Callable[[], None] | None = None
    ) -> DeliveryFuture | None:
        """Return the delivery of a record that the producer accepted within `accept_timeout_s`.

        None if it did not accept the record in time, or failed. `on_acknowledged` is called once
        Kafka has the record.
        """
        assert self._producer is not None
        try:
            async with asyncio.timeout(self._accept_timeout_s):
                delivery = await self._producer.send(record)
        except TimeoutError:
            self.refused_at = time.monotonic()
            return None
        except ProducerError as error:
            self.failure = error
            return None
        delivery.add_done_callback(partial(self._on_delivery, on_acknowledged))
        return delivery

    def _on_delivery(
        self, on_acknowledged: Callable[[], None] | None, delivery: DeliveryFuture
    ) -> None:
        error = asyncio.CancelledError() if delivery.cancelled() else delivery.exception()
        if error is not None:
            self.failure = error
        else:
            self.acknowledged_at = time.monotonic()
            if on_acknowledged is not None:
                on_acknowledged()
        self._wakeup.notify()

    async def replace_later(self) -> None:
        """Close a failed producer, then wait for the delay before the next attempt."""
        await self.close()
        await self._wakeup.sleep(self._backoff.next_delay_s())

    async def close(self) -> None:
        """Close the producer, if there is one, and forget its failure."""
        producer, self._producer, self.failure = self._producer, None, None
        if producer is not None:
            await producer.close()
