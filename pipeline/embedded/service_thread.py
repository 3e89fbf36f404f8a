"""The thread that owns the service: requests wait in one bounded queue and are served in order.

Write requests that wait together become one transaction. After a failure of the disk or of our
code the service is closed and opened again from disk, as after a crash; until it is open, requests
are refused. Before the volume is full, the service holds: it writes nothing, so neither decisions
nor orders are made, and it continues once there is room.

| state | `refusal` | a request | next state |
| --- | --- | --- | --- |
| serving | None | is queued and served | held, reopening after an exception, stopping by `stop` |
| held | reason | a write raises NoRoomError; a read is served | serving, reopening, stopping |
| reopening | reason | raises UnavailableError | serving, or reopening again after a longer wait |
| stopping | None | raises UnavailableError; waiting ones are served | closed |

Invariant: a future gets its response only after its input is durable.
"""

import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Protocol

from agents.answer_feed import AnswerFeed
from agents.site_access import SiteAccess
from pipeline.embedded.service import Service
from runtime.free_space import SpaceReserve
from runtime.logs import Log
from runtime.retry import DISK, Backoff
from schemas import logkeys as key
from schemas.dead_letters import DeadLetter
from schemas.envelope import Event

_MAX_BATCH: Final = 100
_MAX_SLEEP_S: Final = 60.0
# While the volume is full it is read so often.
_KEYS_S: Final = 2.0
_HELD_S: Final = 1.0
_STARTING: Final = "the service is starting or stopping: try again"


class UnavailableError(Exception):
    """The service is not open, or its queue is full; the sender may try again later."""


class QueueFullError(UnavailableError):
    """The queue is full."""


class NoRoomError(UnavailableError):
    """The volume is full."""


@dataclass(frozen=True, slots=True)
class AcceptedInput:
    """One input to make durable. `response` is its sender's response after that.

    `settings` are stored by name; `replayed` are the numbers of dead letters to mark as replayed.
    """

    events: Sequence[Event] = ()
    dead_letters: Sequence[DeadLetter] = ()
    settings: Mapping[str, bytes] = field(default_factory=dict)
    replayed: Sequence[int] = ()
    response: Any = None


class MacSource(Protocol):
    """Macs that executors of this process act on.

    `answers` gets the events of the log; None for Macs that answer in the call.
    """

    @property
    def answers(self) -> AnswerFeed | None:
        """The store of the Macs' answers."""

    def advance(self, now: datetime) -> AcceptedInput:
        """Return the Macs' events since the last call, and settings to store with them."""

    def next_event_at(self) -> datetime | None:
        """Return the time of the Macs' next event; None if no event is scheduled."""

    def access(self, site: str) -> SiteAccess | None:
        """Return the access to the Macs of a site; None if the site is in dry run."""

    def close(self) -> None:
        """Close the Macs' file."""


WriteRequest = Callable[[Service, datetime], AcceptedInput]
ReadRequest = Callable[[Service, datetime], Any]
OpenService = Callable[[datetime], tuple[Service, MacSource | None]]


@dataclass(frozen=True, slots=True)
class _QueuedRequest:
    write: WriteRequest | None
    read: ReadRequest | None
    future: "Future[Any]"


class ServiceThread:
    """Owns one service in one thread.

    `open_service` is called at the start and after each failure. At most `max_waiting` requests
    wait. `on_ready` is called with the value of `ready` each time that it is set. `space` is the
    volume of the data directory.
    """

    def __init__(
        self,
        open_service: OpenService,
        log: Log,
        *,
        max_waiting: int,
        on_ready: Callable[[bool], None],
        space: SpaceReserve,
        on_turn: Callable[[Service, datetime], None] = lambda *_: None,
    ) -> None:
        self._open = open_service
        self._log = log
        self._queue: queue.Queue[_QueuedRequest | None] = queue.Queue(max_waiting)
        self._on_ready = on_ready
        self._on_turn = on_turn
        self._space = space
        self._closed_reason: str | None = _STARTING
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="drydock-service", daemon=True)
        self._opened: tuple[Service, MacSource | None] | None = None

    @property
    def ready(self) -> bool:
        """True while the service is open."""
        return self._closed_reason is None

    @property
    def refusal(self) -> str | None:
        """The reason for which inputs are refused now; None if they are accepted."""
        return self._closed_reason or self._space.shortage()

    def start(self) -> None:
        """Open the service in the caller's thread, then start the thread that serves requests.

        Raises any exception of `open_service` and of `on_ready`; then no thread is started. If the
        volume is full, an exception of `open_service` is logged, and the thread tries again.
        """
        try:
            self._opened = self._open(_now())
        except Exception as error:
            if self._space.shortage() is None:
                raise
            self._fail_waiting("service not opened; trying again", error)
        else:
            self._set_closed(None)
        self._thread.start()

    def stop(self) -> None:
        """Return after the queued requests are served and the service is closed.

        Call it only after `start`. If the service fails meanwhile, the requests get
        UnavailableError.
        """
        self._stopping.set()
        self.wake()
        self._thread.join()

    def submit(self, request: WriteRequest) -> "Future[Any]":
        """Return a future that gets the request's response once its input is durable.

        Raises UnavailableError if the service is not open, NoRoomError if the volume is full,
        QueueFullError if the queue is full. The future gets the exception of the request itself, or
        UnavailableError if the input is not durable.
        """
        if self.ready and (shortage := self._space.shortage()) is not None:
            raise NoRoomError(shortage)
        return self._enqueue(_QueuedRequest(request, None, Future()))

    def ask(self, request: ReadRequest) -> "Future[Any]":
        """Return a future that gets the result of a read request, or its exception.

        Raises UnavailableError if the service is not open, QueueFullError if the queue is full. The
        future gets UnavailableError if the service fails before the request is served.
        """
        return self._enqueue(_QueuedRequest(None, request, Future()))

    def _enqueue(self, waiting: _QueuedRequest) -> "Future[Any]":
        if not self.ready or self._stopping.is_set():
            raise UnavailableError(self._closed_reason or _STARTING)
        try:
            self._queue.put_nowait(waiting)
        except queue.Full:
            raise QueueFullError from None
        return waiting.future

    def wake(self) -> None:
        """Let the thread look for due work now. Any thread may call it; it returns at once."""
        with suppress(queue.Full):  # a full queue wakes the thread too
            self._queue.put_nowait(None)

    # --- the thread ---

    def _run(self) -> None:
        backoff = Backoff(DISK)
        while True:
            try:
                opened, self._opened = self._opened or self._reopen(), None
            except Exception as error:  # noqa: BLE001 - the thread's top: log and retry
                self._fail_waiting("service not opened; trying again", error)
                if backoff.wait(self._stopping):
                    return
                continue
            self._set_closed(None)
            service, macs = opened
            try:
                self._serve(service, macs)
                return
            except Exception as error:  # noqa: BLE001 - the thread's top: reopen
                self._fail_waiting("service failed; opening it again", error)
            finally:
                service.close()
                if macs is not None:
                    macs.close()
            if backoff.wait(self._stopping):
                return

    def _reopen(self) -> tuple[Service, MacSource | None]:
        """Return the service, opened again after a failure, once its store accepts a write."""
        service, macs = self._open(_now())
        try:
            service.store.check_writable()
        except BaseException:
            service.close()
            if macs is not None:
                macs.close()
            raise
        return service, macs

    def _fail_waiting(self, message: str, error: Exception) -> None:
        """Refuse inputs from now on, log the error, and fail all waiting requests.

        The futures of the requests get UnavailableError with the text `message`.
        """
        self._set_closed(f"{message}: {error}")
        self._log.error(message, exc_info=error, **{key.DETAIL: str(error)})
        while True:
            try:
                waiting = self._queue.get_nowait()
            except queue.Empty:
                return
            if waiting is not None and waiting.future.set_running_or_notify_cancel():
                waiting.future.set_exception(UnavailableError(message))

    def _set_closed(self, reason: str | None) -> None:
        self._closed_reason = reason
        self._on_ready(reason is None)

    def _serve(self, service: Service, macs: MacSource | None) -> None:
        """Serve requests and due work until `stop` was called and the queue is empty.

        While the volume is full, only read requests are served.
        """
        held: str | None = None
        while True:
            batch = self._next_batch(service, macs, is_held=held is not None)
            service.refresh_keys()
            now = _now()
            shortage = self._space.shortage()
            if shortage != held and (shortage is None or held is None):
                self._log_hold(shortage)
            held = shortage
            if held is None:
                service.accept_left_halts(now)
            if held is not None:
                batch = _refuse_writes(batch, NoRoomError(held))
            elif macs is not None:
                from_macs = macs.advance(now)
                if from_macs.events:
                    service.accept(from_macs.events, (), now, settings=from_macs.settings)
            self._process_batch(service, batch, now)
            wake = service.next_wake(now)
            if held is None and wake is not None and wake <= now:
                service.tick(now)
            self._on_turn(service, now)
            if self._stopping.is_set() and self._queue.empty():
                return

    def _log_hold(self, shortage: str | None) -> None:
        if shortage is None:
            self._log.info("volume has room again; the service continues")
        else:
            self._log.error(
                "volume full; the service holds until there is room", **{key.DETAIL: shortage}
            )

    def _next_batch(
        self, service: Service, macs: MacSource | None, *, is_held: bool
    ) -> list[_QueuedRequest]:
        """Return the waiting requests, at most 100, in order.

        Waits for a request until the service or a Mac has work, at most 60 s, 2 s if keys can
        change, and 1 s while the volume is full; the list may be empty.
        """
        now = _now()
        wakes = [service.next_wake(now), None if macs is None else macs.next_event_at()]
        first = min((wake for wake in wakes if wake is not None), default=None)
        seconds = _MAX_SLEEP_S if first is None else (first - now).total_seconds()
        if service.watches_keys:
            seconds = min(seconds, _KEYS_S)
        if is_held:
            seconds = _HELD_S
        batch: list[_QueuedRequest] = []
        try:
            if seconds > 0 and not self._stopping.is_set():
                waiting = self._queue.get(timeout=min(seconds, _MAX_SLEEP_S))
            else:
                waiting = self._queue.get_nowait()
            while True:
                if waiting is not None:
                    batch.append(waiting)
                if len(batch) >= _MAX_BATCH:
                    break
                waiting = self._queue.get_nowait()
        except queue.Empty:
            pass
        return batch

    def _process_batch(
        self, service: Service, batch: Sequence[_QueuedRequest], now: datetime
    ) -> None:
        """Make the inputs durable in one transaction, then serve the read requests.

        Each future gets its response or exception. If the write fails, all open futures get
        UnavailableError and the exception is raised.
        """
        wanted = [one for one in batch if one.future.set_running_or_notify_cancel()]
        ready = _prepare(wanted, service, now)
        try:
            if ready:
                _accept(service, [one for one, _ in ready], now)
        except BaseException as error:
            self._set_closed(str(error))  # before a sender sees its 503
            for waiting in wanted:
                if not waiting.future.done():
                    waiting.future.set_exception(UnavailableError(str(error)))
            raise
        for one, future in ready:
            future.set_result(one.response)
        for waiting in wanted:
            if waiting.read is not None:
                _respond(waiting.read, waiting.future, service, now)


def _refuse_writes(
    batch: Sequence[_QueuedRequest], error: UnavailableError
) -> list[_QueuedRequest]:
    """Return the read requests; the futures of the others get the error."""
    for waiting in batch:
        if waiting.write is not None and waiting.future.set_running_or_notify_cancel():
            waiting.future.set_exception(error)
    return [waiting for waiting in batch if waiting.write is None]


def _accept(service: Service, inputs: Sequence[AcceptedInput], now: datetime) -> None:
    """Make all inputs durable in one transaction; if it raises, none is."""
    service.accept(
        [event for one in inputs for event in one.events],
        [letter for one in inputs for letter in one.dead_letters],
        now,
        settings={name: setting for one in inputs for name, setting in one.settings.items()},
        replayed=[seq for one in inputs for seq in one.replayed],
    )


def _prepare(
    wanted: Sequence[_QueuedRequest], service: Service, now: datetime
) -> "list[tuple[AcceptedInput, Future[Any]]]":
    """Return (input, future) of each write request that prepared its input without an error.

    The future of a request that raised gets its exception.
    """
    ready: list[tuple[AcceptedInput, Future[Any]]] = []
    for waiting in wanted:
        if waiting.write is None:
            continue
        try:
            ready.append((waiting.write(service, now), waiting.future))
        except Exception as error:  # noqa: BLE001 - for its sender; the others go on
            waiting.future.set_exception(error)
    return ready


def _respond(request: ReadRequest, future: "Future[Any]", service: Service, now: datetime) -> None:
    try:
        future.set_result(request(service, now))
    except Exception as error:  # noqa: BLE001 - for its sender
        future.set_exception(error)


def _now() -> datetime:
    return datetime.now(UTC)
