"""Simulated Macs and their clients on a clock that the test sets."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from agents.clock import SteppedClock
from agents.simulated.client import SimulatedFleetClient
from agents.simulated.fleet_server import SimulatedFleetHttpServer, SimulatedFleetServer
from agents.simulated.wire import FleetPlan
from tests.factories.sites import NEW, RELEASES, START, UDID, a_job, a_spec

DAY = timedelta(days=1)


@contextmanager
def served(
    fleet_server: SimulatedFleetServer, *, idle_s: float = 120.0, quiet_s: float = 60.0
) -> Iterator[SimulatedFleetClient]:
    """Serve the Macs over HTTP and yield a client of them."""
    server = SimulatedFleetHttpServer("127.0.0.1", 0, fleet_server, idle_s=idle_s)
    serving = threading.Thread(target=server.serve_forever)
    serving.start()
    macs = SimulatedFleetClient("127.0.0.1", server.server_port, quiet_s=quiet_s)
    try:
        yield macs
    finally:
        macs.close()
        server.shutdown()
        serving.join()
        server.server_close()
        fleet_server.stop()


def test_stepped_time_changes_only_when_set_and_is_equal_for_all_processes(tmp_path: Path) -> None:
    clock = SteppedClock(tmp_path / "clock")
    clock.set(START)
    plan = FleetPlan(start=START, macs=(a_spec(),), releases=RELEASES, lines={})
    fleet_server = SimulatedFleetServer(plan, None, None, clock)
    job = a_job()
    with served(fleet_server) as macs:
        theirs = macs.clock()
        assert theirs.now() == START
        assert macs.mac_for(job).act("install", job, 1).kind == "accepted"
        assert fleet_server.drain_events() == []
        clock.set(START + DAY)
        assert theirs.now() == START + DAY
        assert macs.mac_for(job).look(job).os_version == NEW.version
        events = fleet_server.drain_events()
    assert {event.subject for event in events} == {UDID}
    assert [event.time for event in events] == sorted(event.time for event in events)
    assert fleet_server.drain_events() == []


def test_macs_are_reachable_after_the_server_closed_an_idle_connection(tmp_path: Path) -> None:
    clock = SteppedClock(tmp_path / "clock")
    clock.set(START)
    plan = FleetPlan(start=START, macs=(a_spec(),), releases=RELEASES, lines={})
    job = a_job()
    # The client closes an idle connection before the server does, as with the defaults.
    with served(SimulatedFleetServer(plan, None, None, clock), idle_s=0.2, quiet_s=0.1) as macs:
        mac = macs.mac_for(job)
        mac.look(job)
        # The client gets no signal of the close, so the test can only wait for the time.
        threading.Event().wait(0.5)
        assert mac.look(job).enrolled
