"""Folds do not depend on the order or repeats of events; stored state can be read back."""

import json
import random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pipeline.state.advisories import Advisories
from pipeline.state.device import Device
from pipeline.state.fleet import Fleet
from pipeline.state.jobs import JobEntry
from schemas.envelope import Event
from tests.strategies import advisory_events, catalogues, devices, entries, events


def folded(found: list[Event]) -> Fleet:
    fleet = Fleet()
    for event in found:
        fleet.apply(event)
    return fleet


def state_of(fleet: Fleet) -> str:
    """Return the whole state of a fleet as text, its index of names included."""
    names = sorted(fleet.devices)
    return json.dumps(
        {
            "devices": {udid: fleet.devices[udid].to_wire() for udid in names},
            "macs": sorted(fleet.macs()),
            "views": {udid: fleet.merged_device(udid).to_wire() for udid in sorted(fleet.macs())},
            "owners": {name: fleet.canonical_udid(name) for name in names},
            "facts": fleet.broadcast_to_wire(),
            "digest": fleet.advisories.digest,
            "halts": [halt.model_dump_json() for halt in fleet.halts()],
            "approvals": {
                udid: [g.model_dump_json() for g in fleet.approvals(udid)] for udid in names
            },
        },
        sort_keys=True,
    )


@given(st.lists(events(), max_size=14), st.randoms(use_true_random=False))
def test_shuffled_and_doubled_events_end_in_the_same_state(
    found: list[Event], rng: random.Random
) -> None:
    want = state_of(folded(found))
    twice = found + [event for event in found if rng.random() < 0.5]
    rng.shuffle(twice)
    assert state_of(folded(twice)) == want


@given(st.lists(events(), max_size=10))
def test_an_event_folded_again_changes_nothing(found: list[Event]) -> None:
    fleet = folded(found)
    before = state_of(fleet)
    for event in found:
        change = fleet.apply(event)
        assert (change.udids, dict(change.lines), change.affects_all) == ((), {}, False)
    assert state_of(fleet) == before


@given(st.lists(events(), max_size=10))
def test_no_record_is_lost_to_another(found: list[Event]) -> None:
    fleet = folded(found)
    for name in fleet.devices:
        udid = fleet.canonical_udid(name)
        assert udid is None or fleet.canonical_udid(udid) is None
        assert udid is None or udid in set(fleet.macs())


@given(st.lists(events(), max_size=12))
def test_stored_fleet_is_the_same_when_it_is_loaded(found: list[Event]) -> None:
    fleet, loaded = folded(found), Fleet()
    loaded.load_broadcast(json.loads(json.dumps(fleet.broadcast_to_wire())))
    for device in fleet.devices.values():
        loaded.put(Device.from_wire(json.loads(json.dumps(device.to_wire()))))
    assert state_of(loaded) == state_of(fleet)


@given(devices())
def test_device_round_trip(device: Device) -> None:
    again = Device.from_wire(json.loads(json.dumps(device.to_wire())))
    assert again == device
    assert again.to_wire() == device.to_wire()


@given(entries())
def test_job_entry_round_trip(entry: JobEntry) -> None:
    assert JobEntry.from_wire(json.loads(json.dumps(entry.to_wire()))) == entry


@given(catalogues())
def test_advisories_round_trip(known: Advisories) -> None:
    again = Advisories.from_wire(json.loads(json.dumps(known.to_wire())))
    assert again.digest == known.digest
    assert again.to_wire() == known.to_wire()
    assert again.lines == known.lines


@given(st.lists(advisory_events(), max_size=8))
def test_loaded_catalogue_is_unchanged_by_repeated_events(found: list[Any]) -> None:
    known = Advisories()
    for event in found:
        known = known.apply(event)
    again = Advisories.from_wire(json.loads(json.dumps(known.to_wire())))
    for event in found:
        assert again.apply(event) is again
