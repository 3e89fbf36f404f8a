"""The thread that owns the service: inputs wait in one bounded queue and are taken in order.

Inputs that wait together become one transaction. When the disk or our code fails, everything is
closed and opened again from disk, as after a crash; until then inputs are refused.
"""

import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Protocol

import structlog

from agents.mac import Mac
from pipeline.embedded.service import Service
from schemas import logkeys as key
from schemas.dead_letters import DeadLetter
from schemas.envelope import Event
from schemas.jobs import Job

_MAX_BATCH: Final = 100
_MAX_SLEEP_S: Final = 60.0
_BACKOFF_S: Final = (1.0, 2.0, 5.0, 15.0, 60.0)


class UnavailableError(Exception):
    """Too much waits already, or nothing can be taken now; try again later."""


@dataclass(frozen=True, slots=True)
class AcceptedInput:
    """Something to make durable. `answer` is what its sender is told once it is."""

    events: Sequence[Event] = ()
    dead_letters: Sequence[DeadLetter] = ()
    settings: Mapping[str, bytes] = field(default_factory=dict)
    replayed: Sequence[int] = ()
    response: Any = None


class MacSource(Protocol):
    """Macs that live in this process (simulated ones); none in earnest."""

    def advance(self, now: datetime) -> AcceptedInput:
        """What they told up to now."""

    def next_event_at(self) -> datetime | None:
        """When they tell more."""

    def mac_for(self, job: Job) -> Mac:
        """The Mac of a job."""

    def close(self) -> None:
        """Let go of their file."""


WriteRequest = Callable[[Service, datetime], AcceptedInput]
ReadRequest = Callable[[Service, datetime], Any]
OpenService = Callable[[datetime], tuple[Service, MacSource | None]]


@dataclass(frozen=True, slots=True)
class _QueuedRequest:
    write: WriteRequest | None
    read: ReadRequest | None
    future: "Future[Any]"


class ServiceThread:
    """Owns one service in one thread. `open_service` is called at the start and after a failure."""

    def __init__(
        self,
        open_service: OpenService,
        log: structlog.typing.FilteringBoundLogger,
        *,
        max_waiting: int,
        on_ready: Callable[[bool], None],
    ) -> None:
        self._open = open_service
        self._log = log
        self._queue: queue.Queue[_QueuedRequest | None] = queue.Queue(max_waiting)
        self._on_ready = on_ready
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="drydock-service", daemon=True)
        self.ready = False

    def start(self) -> None:
        """Open the service here, so that what is wrong with it is raised here, then serve."""
        service, macs = self._open(_now())
        self._set_ready(ready=True)
        self._opened: tuple[Service, MacSource | None] | None = (service, macs)
        self._thread.start()

    def stop(self) -> None:
        """Take what waits already, then close."""
        self._stopping.set()
        self._wake()
        self._thread.join()

    def submit(self, request: WriteRequest) -> "Future[Any]":
        """Have an input prepared and made durable; the future gives its answer after that.

        Raises BusyError.
        """
        return self._enqueue(_QueuedRequest(request, None, Future()))

    def ask(self, request: ReadRequest) -> "Future[Any]":
        """Have a question answered from the state. Raises BusyError."""
        return self._enqueue(_QueuedRequest(None, request, Future()))

    def _enqueue(self, waiting: _QueuedRequest) -> "Future[Any]":
        if not self.ready or self._stopping.is_set():
            raise UnavailableError("not ready")
        try:
            self._queue.put_nowait(waiting)
        except queue.Full:
            raise UnavailableError("too many records are waiting") from None
        return waiting.future

    def _wake(self) -> None:
        with suppress(queue.Full):  # then it is awake
            self._queue.put_nowait(None)

    # --- the thread ---

    def _run(self) -> None:
        failures = 0
        while True:
            try:
                opened, self._opened = self._opened or self._open(_now()), None
            except Exception as error:  # noqa: BLE001 - the thread's top: try again, say why
                self._fail_waiting("cannot open", error)
                if self._pause(failures):
                    return
                failures += 1
                continue
            self._set_ready(ready=True)
            service, macs = opened
            started = _now()
            try:
                self._serve(service, macs)
                return
            except Exception as error:  # noqa: BLE001 - the thread's top: begin again from disk
                self._fail_waiting("stopped; opening again from disk", error)
            finally:
                service.close()
                if macs is not None:
                    macs.close()
            failures = 0 if _now() - started > timedelta(minutes=5) else failures
            if self._pause(failures):
                return
            failures += 1

    def _pause(self, failures: int) -> bool:
        """Wait before trying again; whether to give up because of a stop."""
        return self._stopping.wait(_BACKOFF_S[min(failures, len(_BACKOFF_S) - 1)])

    def _fail_waiting(self, what: str, error: Exception) -> None:
        self._set_ready(ready=False)
        self._log.error(what, exc_info=error, **{key.DETAIL: str(error)})
        while True:
            try:
                waiting = self._queue.get_nowait()
            except queue.Empty:
                return
            if waiting is not None and waiting.future.set_running_or_notify_cancel():
                waiting.future.set_exception(UnavailableError(what))

    def _set_ready(self, *, ready: bool) -> None:
        self.ready = ready
        self._on_ready(ready)

    def _serve(self, service: Service, macs: MacSource | None) -> None:
        while True:
            batch = self._next_batch(service, macs)
            now = _now()
            if macs is not None:
                from_macs = macs.advance(now)
                if from_macs.events:
                    service.accept(from_macs.events, (), now, settings=from_macs.settings)
            self._process_batch(service, batch, now)
            wake = service.next_wake(now)
            if wake is not None and wake <= now:
                service.tick(now)
            if self._stopping.is_set() and self._queue.empty():
                return

    def _next_batch(self, service: Service, macs: MacSource | None) -> list[_QueuedRequest]:
        """What waits, once something does or time has come for something else."""
        now = _now()
        wakes = [service.next_wake(now), None if macs is None else macs.next_event_at()]
        first = min((wake for wake in wakes if wake is not None), default=None)
        seconds = _MAX_SLEEP_S if first is None else (first - now).total_seconds()
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
        """Make the inputs durable in one transaction; answer questions after it."""
        wanted = [one for one in batch if one.future.set_running_or_notify_cancel()]
        ready = _prepare(wanted, service, now)
        try:
            if ready:
                _accept(service, [one for one, _ in ready], now)
        except BaseException as error:
            for waiting in wanted:
                if not waiting.future.done():
                    waiting.future.set_exception(UnavailableError(str(error)))
            raise
        for one, future in ready:
            future.set_result(one.response)
        for waiting in wanted:
            if waiting.read is not None:
                _respond(waiting.read, waiting.future, service, now)


def _accept(service: Service, inputs: Sequence[AcceptedInput], now: datetime) -> None:
    """Make all of these durable in one transaction; raises if nothing of them is."""
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
    ready: list[tuple[AcceptedInput, Future[Any]]] = []
    for waiting in wanted:
        if waiting.write is None:
            continue
        try:
            ready.append((waiting.write(service, now), waiting.future))
        except Exception as error:  # noqa: BLE001 - told to its sender; the others go on
            waiting.future.set_exception(error)
    return ready


def _respond(request: ReadRequest, future: "Future[Any]", service: Service, now: datetime) -> None:
    try:
        future.set_result(request(service, now))
    except Exception as error:  # noqa: BLE001 - told to who asked
        future.set_exception(error)


def _now() -> datetime:
    return datetime.now(UTC)
