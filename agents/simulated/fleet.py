"""Simulated Macs in one virtual time. `advance` costs time for due events, not for every Mac."""

import hashlib
import heapq
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Final, Self

from agents.mac import Ack, Mac, Observation, UnreachableError
from agents.simulated.machine import SimulatedMac
from agents.simulated.network import SiteNetwork, SiteRates
from agents.simulated.spec import MacSpec, SimulatedRelease
from runtime.sqlite import Database, Schema, open_database
from schemas.envelope import DeviceEvent
from schemas.jobs import Job, Target

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LINE: Final = "line"
_SCHEMA: Final = Schema(
    """
    CREATE TABLE IF NOT EXISTS fleet (digest TEXT NOT NULL) STRICT;
    CREATE TABLE IF NOT EXISTS orders (
        seq INTEGER PRIMARY KEY, at_us INTEGER NOT NULL, udid TEXT NOT NULL,
        step TEXT NOT NULL, attempt INTEGER NOT NULL, job TEXT NOT NULL
    ) STRICT;
    """,
    version=0,
)


class _UnknownMac:
    """A Mac that the fleet does not have: both methods raise UnreachableError."""

    def look(self, job: Job) -> Observation:
        raise UnreachableError(f"the fleet has no Mac {job.udid}")

    def act(self, step: str, job: Job, attempt: int) -> Ack:  # noqa: ARG002 - Mac's signature
        raise UnreachableError(f"the fleet has no Mac {job.udid}")


class SimulatedFleet:
    """Simulated Macs, by UDID.

    `start` is the beginning of the virtual time, `lines` are the lines by site (a site without one
    has 1 Gbit/s and no cache), `releases` are the systems that can be installed. `acted` has
    (time, UDID, job id, attempt, step) for each order that a Mac carried out. The constructor
    raises ValueError for two Macs with one UDID.
    """

    def __init__(
        self,
        specs: Iterable[MacSpec],
        start: datetime,
        *,
        seed: int = 0,
        lines: Mapping[str, SiteRates] | None = None,
        releases: Iterable[SimulatedRelease] = (),
    ) -> None:
        self.seed = seed
        self.now = start
        self.acted: list[tuple[datetime, str, str, int, str]] = []
        self._releases = {release.version: release for release in releases}
        # Events of one time are sorted by UDID, then by creation: the history does not depend on
        # the sequence in which Macs got orders.
        self._heap: list[tuple[datetime, str, int, str, int]] = []
        self._counter = count()
        self._lines: dict[str, SiteNetwork] = {}
        self._line_specs = dict(lines or {})
        self._line_ends: dict[str, datetime | None] = {}
        self._db: Database | None = None
        self._replayed: list[DeviceEvent] = []
        ordered = sorted(specs, key=lambda spec: spec.udid)
        self.macs = {spec.udid: SimulatedMac(spec, self, start) for spec in ordered}
        if len(self.macs) != len(ordered):
            raise ValueError("two Macs with one UDID")
        known = (start.isoformat(), seed, ordered, sorted(self._line_specs.items()))
        self._digest = hashlib.sha256(
            repr((known, sorted(self._releases.values(), key=lambda r: r.version))).encode()
        ).hexdigest()

    @classmethod
    def open(
        cls,
        path: Path,
        specs: Iterable[MacSpec],
        start: datetime,
        *,
        seed: int = 0,
        lines: Mapping[str, SiteRates] | None = None,
        releases: Iterable[SimulatedRelease] = (),
        since: datetime | None = None,
    ) -> Self:
        """Return a fleet that survives its process: each order is in the file before a Mac gets it.

        A fleet that is opened again repeats its history from the orders. The first `advance` then
        returns the events after `since`, or all events without it. Raises ValueError if the file
        belongs to a fleet with other Macs, another start or seed, other lines or releases.
        """
        fleet = cls(specs, start, seed=seed, lines=lines, releases=releases)
        db = open_database(path, _SCHEMA)
        row = db.execute("SELECT digest FROM fleet").fetchone()
        if row is None:
            db.execute("INSERT INTO fleet VALUES (?)", (fleet._digest,))
        elif row[0] != fleet._digest:
            db.close()
            raise ValueError(f"{path} holds the history of another fleet")
        fleet._replay_orders(db, since)
        fleet._db = db
        return fleet

    def close(self) -> None:
        """Close the file, if there is one."""
        if self._db is not None:
            self._db.close()

    # --- time ---

    def advance(self, now: datetime) -> list[DeviceEvent]:
        """Move the virtual time to `now` and return the events of the Macs, by time.

        The first call after `open` also returns the repeated events. For a past `now` the time
        stays. Raises ValueError if a Mac downloads or installs a version that the fleet does not
        know, and the target has no build.
        """
        events: list[DeviceEvent] = self._replayed
        self._replayed = []
        heap = self._heap
        while heap and heap[0][0] <= now:
            at, target, _, kind, work = heapq.heappop(heap)
            self.now = at
            if kind == _LINE:
                events += self._end_download(target, at)
                continue
            events += self.macs[target].on(kind, work, at)
        self.now = max(self.now, now)
        return events

    def next_event_at(self) -> datetime | None:
        """Return the time of the next event without an order; None for an empty fleet.

        It is the current time if repeated events wait for `advance`.
        """
        if self._replayed:
            return self.now
        return self._heap[0][0] if self._heap else None

    def mac_for(self, job: Job) -> Mac:
        """Return the job's Mac.

        For a Mac that the fleet does not have, it is one that cannot be reached.
        """
        return self.macs.get(job.udid) or _UnknownMac()

    # --- the environment of the Macs ---

    def wake(self, at: datetime, udid: str, kind: str, work: int) -> None:
        """Call the Mac's `on` at this time, or at the current time if this one is past."""
        heapq.heappush(self._heap, (max(at, self.now), udid, next(self._counter), kind, work))

    def download(self, udid: str, work: int, item: str, size_gb: float, at: datetime) -> None:
        """Begin a download on the line of the Mac's site at `at`.

        At its end the Mac's `on` gets `downloaded` and `work`, the number of the order's work.
        """
        site = self.macs[udid].spec.site
        line = self._lines.get(site)
        if line is None:
            line = self._lines[site] = SiteNetwork(self._line_specs.get(site, SiteRates()))
        line.start(f"{udid} {work}", item, size_gb, at)
        self._watch_line(site, line)

    def release(self, target: Target) -> SimulatedRelease:
        """Return the release of the target's version.

        A version that the fleet does not know needs a build in the target; raises ValueError
        without one.
        """
        known = self._releases.get(target.version)
        if known is not None:
            return known
        if target.build is None:
            raise ValueError(f"the simulated fleet knows no macOS {target.version}")
        return SimulatedRelease(version=target.version, build=target.build)

    def submit_order(self, mac: SimulatedMac, step: str, job: Job, attempt: int) -> Ack:
        """Store an order if the fleet has a file, then return the Mac's response.

        The order is durable before the Mac gets it. Raises UnreachableError if a fault loses the
        order or its response; the order is stored also then.
        """
        if self._db is not None:
            self._db.execute(
                "INSERT INTO orders (at_us, udid, step, attempt, job) VALUES (?, ?, ?, ?, ?)",
                (
                    (self.now - _EPOCH) // timedelta(microseconds=1),
                    mac.spec.udid,
                    step,
                    attempt,
                    job.model_dump_json(exclude_none=True),
                ),
            )
        return mac.receive_order(step, job, attempt, self.now)

    def record_action(self, at: datetime, udid: str, job_id: str, attempt: int, step: str) -> None:
        """Record that the Mac carried out an order."""
        self.acted.append((at, udid, job_id, attempt, step))

    # --- inside ---

    def _replay_orders(self, db: Database, since: datetime | None) -> None:
        """Repeat the history from the stored orders.

        The next `advance` returns its events: those after `since`, or all without it.
        """
        rows = db.execute("SELECT at_us, udid, step, attempt, job FROM orders ORDER BY seq")
        events: list[DeviceEvent] = []
        for at_us, udid, step, attempt, text in rows:
            events += self.advance(_EPOCH + timedelta(microseconds=at_us))
            mac = self.macs[udid]
            try:
                self.submit_order(mac, step, Job.model_validate_json(text), attempt)
            except UnreachableError:
                continue
        if since is not None:
            events += self.advance(max(since, self.now))
            events = [event for event in events if event.time > since]
        self._replayed = events

    def _watch_line(self, site: str, line: SiteNetwork) -> None:
        """Schedule the next end of a download, if its time has changed.

        An end that was scheduled for another time stays, and `_end_download` ignores it.
        """
        end = line.next_end()
        if end != self._line_ends.get(site):
            self._line_ends[site] = end
            if end is not None:
                heapq.heappush(self._heap, (end, site, next(self._counter), _LINE, 0))

    def _end_download(self, site: str, at: datetime) -> list[DeviceEvent]:
        """End the site's next download at `at` and return the events of the download's Mac.

        Returns no event if a later download changed the time of this end.
        """
        line = self._lines[site]
        if line.next_end() != at:
            return []
        udid, work = line.end(at).split(" ")
        self._line_ends[site] = None
        self._watch_line(site, line)
        return self.macs[udid].on("downloaded", int(work), at)
