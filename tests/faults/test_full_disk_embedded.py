"""The disk of `drydock run` is full, or refuses writes: it holds with the reason, and recovers.

Each test checks that every event with response 200 is in the log, and that `/readyz` is 503 with a
reason while events are refused, and 200 within 5 s of room.
"""

import asyncio
import signal
import sqlite3
import subprocess
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest

from pipeline.embedded.log import Log
from schemas.envelope import encode
from tests.drydock_process import DRYDOCK, Running, running
from tests.factories.sites import osquery_report
from tests.faults.volumes import MIB, Volume, ext4_volume, file_size_limit, small_volume
from tests.unit.gateway.apps import SqliteApp, sqlite_app

RECOVERY_S = 5.0
# One sender reports thousands of new Macs.
POLICY = """\
blast_radius: {new_macs_per_hour: null}
sites:
  london: {time_zone: Europe/London}
"""
FIELDS: dict[str, Any] = {"os_version": "26.1", "build": "25B78", "model": "Mac14,2"}


def batch(numbers: Iterator[int], events: int = 20) -> tuple[list[str], bytes]:
    udids = [f"MAC-{next(numbers):06}" for _ in range(events)]
    return udids, b"\n".join(encode(osquery_report(udid, **FIELDS)) for udid in udids)


class Sender:
    """Posts batches of events; `accepted` has the UDIDs of those with response 200."""

    def __init__(self, app: SqliteApp) -> None:
        self._app = app
        self._numbers = count()
        self.accepted: list[str] = []

    async def post(self) -> int:
        udids, body = batch(self._numbers)
        response = await self._app.post("/v1/events", body)
        if response.status_code == 200:
            self.accepted += udids
        else:
            assert (response.status_code, "retry-after" in response.headers) == (503, True)
        return response.status_code

    async def readiness(self) -> tuple[int, bool]:
        response = await self._app.client.get("/readyz")
        return response.status_code, bool(response.json().get("reason"))

    async def is_ready_again(self) -> None:
        async with asyncio.timeout(RECOVERY_S):
            while (await self.readiness())[0] != 200:
                await asyncio.sleep(0.05)

    def check_log(self) -> None:
        logged = Counter(self._app.logged())
        assert [udid for udid in self.accepted if logged[udid] != 1] == []


def run(folder: Path, test: Callable[[SqliteApp, Sender], Awaitable[None]]) -> None:
    async def main() -> None:
        async with sqlite_app(folder, policy=POLICY) as app:
            await test(app, Sender(app))

    asyncio.run(main())


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Volume]:
    with small_volume(tmp_path / "volume", 16 * MIB) as made:
        yield made


def test_service_holds_while_another_file_fills_the_disk(volume: Volume) -> None:
    async def test(_: SqliteApp, sender: Sender) -> None:
        assert await sender.post() == 200
        for _round in range(3):
            volume.fill()
            assert await sender.readiness() == (503, True)
            assert await sender.post() == 503
            volume.free()
            await sender.is_ready_again()
            assert await sender.post() == 200
        sender.check_log()

    run(volume.path, test)


def test_service_stops_its_intake_before_it_fills_the_disk_itself(volume: Volume) -> None:
    async def test(it: SqliteApp, sender: Sender) -> None:
        while await sender.post() == 200:
            pass
        assert await sender.readiness() == (503, True)
        assert not [entry for entry in it.captured.entries if "exc_info" in entry]
        sender.check_log()

    run(volume.path, test)


def test_status_is_served_while_the_disk_is_full(volume: Volume) -> None:
    async def test(it: SqliteApp, sender: Sender) -> None:
        assert await sender.post() == 200
        volume.fill()
        await asyncio.sleep(0.1)
        assert it.service_thread.ask(lambda service, _: len(service.reconciler.fleet.devices))
        response = await it.client.get(
            "/v1/status", headers={"Authorization": "Bearer admin-token"}
        )
        assert response.status_code == 200

    run(volume.path, test)


def test_service_starts_on_a_full_disk_once_there_is_room(volume: Volume) -> None:
    async def fill(_: SqliteApp, sender: Sender) -> None:
        assert await sender.post() == 200

    async def wait(_: SqliteApp, sender: Sender) -> None:
        assert await sender.readiness() == (503, True)
        assert await sender.post() == 503
        volume.free()
        await sender.is_ready_again()

    run(volume.path, fill)
    volume.fill()
    run(volume.path, wait)


def test_service_holds_at_a_limit_that_the_volume_does_not_show(tmp_path: Path) -> None:
    async def test(_: SqliteApp, sender: Sender) -> None:
        assert await sender.post() == 200
        with file_size_limit(1 * MIB):
            while await sender.post() == 200:
                pass
            assert await sender.readiness() == (503, True)
        await sender.is_ready_again()
        assert await sender.post() == 200
        sender.check_log()

    run(tmp_path, test)


def test_service_refuses_on_a_volume_that_became_read_only(tmp_path: Path) -> None:
    with ext4_volume(tmp_path / "volume", 24 * MIB) as volume:

        async def test(_: SqliteApp, sender: Sender) -> None:
            assert await sender.post() == 200
            volume.abort()
            for _round in range(3):
                assert await sender.post() == 503
                assert await sender.readiness() == (503, True)
            sender.check_log()

        run(volume.path, test)


def test_service_needs_no_inode_to_take_events(tmp_path: Path) -> None:
    with small_volume(tmp_path / "volume", 16 * MIB, ",nr_inodes=60") as volume:

        async def test(_: SqliteApp, sender: Sender) -> None:
            assert await sender.post() == 200
            volume.take_inodes()
            assert await sender.post() == 200
            assert await sender.readiness() == (200, False)
            sender.check_log()

        run(volume.path, test)


# --- the process ---

SIMULATED = ("--simulate", "30")


def post(service: Running, numbers: Iterator[int], accepted: list[str]) -> int:
    udids, body = batch(numbers)
    found = httpx.post(f"{service.url}/v1/events", content=body, trust_env=False, timeout=60)
    if found.status_code == 200:
        accepted += udids
    return found.status_code


def seconds_until_ready(service: Running) -> float:
    started = time.monotonic()
    while httpx.get(f"{service.url}/readyz", trust_env=False, timeout=60).status_code != 200:
        assert time.monotonic() < started + 60
        time.sleep(0.05)
    return time.monotonic() - started


@pytest.mark.slow
def test_full_disk_again_and_again_loses_nothing_and_acts_once(tmp_path: Path) -> None:
    numbers, accepted, waited = count(), list[str](), list[float]()
    with small_volume(tmp_path / "volume", 64 * MIB) as volume:
        data_dir = volume.path / "data"
        with running(data_dir, *SIMULATED) as service:
            for _ in range(8):
                seconds_until_ready(service)
                assert post(service, numbers, accepted) == 200
                volume.fill()
                while post(service, numbers, accepted) == 200:
                    pass
                time.sleep(1)
                volume.free()
                waited.append(seconds_until_ready(service))
            volume.fill()
            service.end(signal.SIGKILL)
        with running(data_dir, *SIMULATED) as service:
            assert post(service, numbers, accepted) != 200
            volume.free()
            waited.append(seconds_until_ready(service))
            assert post(service, numbers, accepted) == 200
            assert service.end(signal.SIGTERM) == 0
        assert max(waited) < RECOVERY_S, waited
        with Log.open(data_dir) as log:
            logged = Counter(row.key for row in log.entries(kind="event"))
        assert [udid for udid in accepted if logged[udid] != 1] == []
        with closing(sqlite3.connect(data_dir / "simulated-macs.sqlite")) as orders:
            given = Counter(job for (job,) in orders.execute("SELECT job FROM orders"))
        assert max(given.values()) == 1
        verify = [*DRYDOCK, "replay", "--verify", "--data-dir", str(data_dir)]
        assert subprocess.run(verify, check=False, capture_output=True).returncode == 0
