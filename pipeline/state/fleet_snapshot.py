"""The whole state of a fleet as JSON with a digest, and back: where a shortened log begins."""

import hashlib
import json

from pipeline.state.device import Device
from pipeline.state.fleet import Fleet
from pipeline.state.jobs import JobEntry


def encode_fleet(fleet: Fleet) -> bytes:
    """Return the state as JSON; fleets with equal states give equal bytes.

    It has the broadcast state, then devices and job histories in the order of their keys.
    """
    wire = {
        "broadcast": fleet.broadcast_to_wire(),
        "devices": {udid: device.to_wire() for udid, device in sorted(fleet.devices.items())},
        "job_histories": {
            udid: [entry.to_wire() for entry in history]
            for udid, history in sorted(fleet.job_histories.items())
        },
    }
    return json.dumps(wire, separators=(",", ":")).encode()


def decode_fleet(raw: bytes) -> Fleet:
    """Return the fleet that `encode_fleet` wrote.

    Raises ValueError, KeyError, TypeError or another exception for bytes that it did not write.
    """
    wire = json.loads(raw)
    fleet = Fleet()
    fleet.load_broadcast(wire["broadcast"])
    for device in wire["devices"].values():
        fleet.put(Device.from_wire(device))
    for udid, history in wire["job_histories"].items():
        fleet.job_histories[udid] = tuple(JobEntry.from_wire(entry) for entry in history)
    return fleet


def snapshot_digest(raw: bytes) -> str:
    """Return the digest of an encoded fleet."""
    return hashlib.sha256(raw).hexdigest()
