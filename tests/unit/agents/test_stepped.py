"""Simulated Macs that live by a clock that somebody sets, and executors that live by it too."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from agents.clock import SteppedClock
from agents.simulated.holder import Holder, HolderServer
from agents.simulated.shared import SharedMacs
from agents.simulated.wire import FleetPlan
from tests.factories.sites import NEW, RELEASES, START, UDID, a_job, a_spec

DAY = timedelta(days=1)


@contextmanager
def served(holder: Holder, *, idle_s: float = 120.0, quiet_s: float = 60.0) -> Iterator[SharedMacs]:
    """The Macs as another process meets them."""
    server = HolderServer("127.0.0.1", 0, holder, idle_s=idle_s)
    serving = threading.Thread(target=server.serve_forever)
    serving.start()
    macs = SharedMacs("127.0.0.1", server.server_port, quiet_s=quiet_s)
    try:
        yield macs
    finally:
        macs.close()
        server.shutdown()
        serving.join()
        server.server_close()
        holder.stop()


def test_time_stands_until_it_is_set_and_is_the_same_for_all(tmp_path: Path) -> None:
    clock = SteppedClock(tmp_path / "clock")
    clock.set(START)
    plan = FleetPlan(start=START, macs=(a_spec(),), releases=RELEASES, lines={})
    holder = Holder(plan, None, None, clock)
    job = a_job()
    with served(holder) as macs:
        theirs = macs.clock()
        assert theirs.now() == START
        assert macs.mac_for(job).act("install", job, 1).kind == "accepted"
        assert holder.take_told() == []
        clock.set(START + DAY)
        assert theirs.now() == START + DAY
        assert macs.mac_for(job).look(job).os_version == NEW.version
        told = holder.take_told()
    assert {event.subject for event in told} == {UDID}
    assert [event.time for event in told] == sorted(event.time for event in told)
    assert holder.take_told() == []


def test_macs_are_reached_after_a_long_silence(tmp_path: Path) -> None:
    clock = SteppedClock(tmp_path / "clock")
    clock.set(START)
    plan = FleetPlan(start=START, macs=(a_spec(),), releases=RELEASES, lines={})
    job = a_job()
    # The client closes an idle connection before the server does, as with the defaults.
    with served(Holder(plan, None, None, clock), idle_s=0.2, quiet_s=0.1) as macs:
        mac = macs.mac_for(job)
        mac.look(job)
        # Nothing tells the caller that the other side has hung up: only time passes.
        threading.Event().wait(0.5)
        assert mac.look(job).enrolled
