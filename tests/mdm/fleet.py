"""Simulated Macs that speak to the real servers of one site, in one process and one time.

The Macs' time can run faster than the real one; then a night passes in seconds.
"""

import heapq
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import httpx

from agents.mac import AckKind, UnreachableError
from agents.simulated.fleet import SimulatedFleet
from agents.simulated.machine import SimulatedMac
from agents.simulated.spec import MacSpec, SimulatedRelease
from schemas.jobs import Job
from tests.mdm.apns import Push
from tests.mdm.client import RefusedError
from tests.mdm.identity import Identity
from tests.mdm.mac import Behavior, ManagedMac
from tests.mdm.servers import MdmServers

_RETRY = timedelta(minutes=5)
_THREADS = 8
_TURN_S = 0.05


class ManualClock:
    """A clock that a test sets."""

    def __init__(self, now: datetime) -> None:
        self.now = now

    def __call__(self) -> datetime:
        """Return the time."""
        return self.now


class FastClock:
    """A clock that begins at the real time, and runs `speed` times as fast."""

    def __init__(self, speed: float = 1) -> None:
        self._speed = speed
        self._start, self._origin = datetime.now(UTC), time.monotonic()

    def __call__(self) -> datetime:
        """Return the time."""
        return self._start + timedelta(seconds=self._speed * (time.monotonic() - self._origin))

    def accelerate(self, speed: float) -> None:
        """Run `speed` times as fast as the real time from now on."""
        self._start, self._origin, self._speed = self(), time.monotonic(), speed

    def skip(self, duration: timedelta) -> None:
        """Set the time ahead."""
        self._start += duration


class MdmFleet:
    """The Macs of one site, by UDID. Use it as a context manager, or call `close`.

    `step` does everything that is due; `running` does so repeatedly in the background.
    """

    def __init__(
        self,
        servers: MdmServers,
        specs: Sequence[MacSpec],
        clock: Callable[[], datetime],
        *,
        releases: Sequence[SimulatedRelease] = (),
        behaviors: Mapping[str, Behavior] | None = None,
    ) -> None:
        self.url = servers.nanomdm.url
        self.releases = tuple(releases)
        limits = httpx.Limits(max_connections=_THREADS, max_keepalive_connections=_THREADS)
        self.http = httpx.Client(trust_env=False, limits=limits, timeout=30)
        self._servers = servers
        self._clock = clock
        self._physics = SimulatedFleet(specs, clock(), releases=releases)
        # For the simulated Macs, the queue of connections and the set of due Macs.
        self._lock = threading.RLock()
        given = behaviors or {}
        self.macs = {
            spec.udid: ManagedMac(
                spec, self._physics.macs[spec.udid], given.get(spec.udid, Behavior()), self
            )
            for spec in specs
        }
        self._mortal = [mac for mac in self.macs.values() if mac.behavior.dies_at is not None]
        self._due: set[str] = set()
        self._later: list[tuple[datetime, str]] = []
        self._threads = ThreadPoolExecutor(_THREADS)
        self.failure: BaseException | None = None  # it ended `running`
        servers.apns.on_push = self._pushed

    def __enter__(self) -> "MdmFleet":
        """Return the fleet."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the fleet."""
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._threads.shutdown()
        self.http.close()

    def enroll(self) -> None:
        """Enroll every Mac that is enrolled by its specification."""
        enrolled = [mac for mac in self.macs.values() if mac.spec.enrolled]
        list(self._threads.map(ManagedMac.enroll, enrolled))

    def step(self) -> int:
        """Advance the Macs to the clock's time, and let each due one connect; return how many."""
        with self._lock:
            self._advance()
            self._servers.apns.unregistered.update(self._dead_tokens())
            due = [self.macs[udid] for udid in sorted(self._due) if self._can_connect(udid)]
            self._due -= {mac.spec.udid for mac in due}
        list(self._threads.map(self._connect, due))
        return len(due)

    def settle(self) -> None:
        """Call `step` until nothing is due at the clock's time."""
        while self.step():
            pass

    @contextmanager
    def running(self) -> "Iterator[None]":
        """Call `step` in the background while the block runs; raise its error, if it had one."""
        until = threading.Event()

        def run() -> None:
            try:
                while not until.is_set():
                    if not self.step():
                        until.wait(_TURN_S)
            except BaseException as error:  # noqa: BLE001 - raised again by the caller's thread
                self.failure = error

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            until.set()
            thread.join()
            if self.failure is not None:
                raise self.failure

    # --- the site of the Macs ---

    def now(self) -> datetime:
        """Return the Macs' time."""
        return self._clock()

    def issue(self, name: str, *, ends_soon: bool) -> Identity:
        """Return a new identity from the SCEP server, or from the one whose identities end soon."""
        servers = self._servers
        return (servers.short_scep if ends_soon else servers.scep).issue(name)

    def order(self, mac: SimulatedMac, job: Job) -> bool:
        """Give this order to the simulated Mac; return True if it takes the order."""
        with self._lock:
            self._advance()
            try:
                return mac.act("install", job, 1).kind is AckKind.ACCEPTED
            except UnreachableError:
                return False

    def withdraw(self, mac: SimulatedMac, job: Job) -> None:
        """End this order, unless it installs already."""
        with self._lock:
            self._advance()
            mac.withdraw(job)

    def wake(self, udid: str, kind: str, at: datetime) -> None:
        """Let the simulated Mac's event of this kind happen at this time."""
        with self._lock:
            self._physics.wake(at, udid, kind, 0)

    def connect(self, udid: str, at: datetime) -> None:
        """Let the Mac connect to its MDM server at this time, or when it is online again."""
        with self._lock:
            heapq.heappush(self._later, (at, udid))

    # --- inside ---

    def _advance(self) -> None:
        now = self._clock()
        for event in self._physics.advance(now):
            self.macs[event.subject].notice(event)
            self._due.add(event.subject)
        while self._later and self._later[0][0] <= now:
            self._must_poll(heapq.heappop(self._later)[1])

    def _dead_tokens(self) -> set[str]:
        now = self._physics.now
        return {mac.token.hex() for mac in self._mortal if mac.is_dead_at(now)}

    def _must_poll(self, udid: str) -> None:
        self.macs[udid].must_poll = True
        self._due.add(udid)

    def _can_connect(self, udid: str) -> bool:
        mac, now = self.macs[udid], self._physics.now
        return not mac.is_dead_at(now) and mac.physics.is_online(now)

    def _connect(self, mac: ManagedMac) -> None:
        try:
            mac.connect()
        except httpx.TransportError:
            self.connect(mac.spec.udid, self.now() + _RETRY)
        except RefusedError as refusal:
            mac.refusals.append(refusal.status)
            self.connect(mac.spec.udid, self.now() + _RETRY)

    def _pushed(self, push: Push) -> None:
        """Make the Mac of a notification due; one that is offline gets it when it is back."""
        found = [
            udid
            for udid, mac in self.macs.items()
            if mac.push_magic == push.magic and mac.token.hex() == push.token
        ]
        with self._lock:
            for udid in found:
                self._must_poll(udid)
