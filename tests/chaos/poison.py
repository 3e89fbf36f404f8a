"""Unusable inputs: bodies for the gateway, records for topics. `number` makes each one unique."""

from collections.abc import Callable
from random import Random
from typing import Any, Final, NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pipeline.payload_signing import sign_job
from schemas.envelope import JobIssuedEvent, encode
from schemas.ids import derive_job_id, event_id
from schemas.jobs import Action, Job, Method
from schemas.topics import (
    ADVISORIES,
    CHECKINS,
    CONTROL,
    DISPATCH,
    INVENTORY,
    ORDERS,
    RESULTS,
    jobs_topic,
)
from tests.chaos.world import SITES, START

_STRANGER: Final = Ed25519PrivateKey.from_private_bytes(b"s" * 32)
_ONE_MORE_DAY: Final = START.replace(day=START.day + 1)


class UnusableRecord(NamedTuple):
    """An unusable record and the topic for it."""

    topic: str
    key: str
    value: bytes


def body(random: Random, number: int) -> bytes:
    """Return a body that is no valid webhook of NanoMDM."""
    kinds: tuple[Callable[[int], bytes], ...] = (
        lambda n: b"\xff\xfe not text at all %d" % n,
        lambda n: b'{"topic": "mdm.Connect", "event_id": "%d", "acknow' % n,
        lambda n: b'{"topic": "mdm.Unheard", "event_id": "%d", "checkin_event": {}}' % n,
        lambda n: b'{"topic": "mdm.Connect", "event_id": "%d", "acknowledge_event": 7}' % n,
        lambda n: b"[%d]" % n,
    )
    return random.choice(kinds)(number)


def record(random: Random, number: int) -> UnusableRecord:
    """Return a record that its topic's consumers must reject."""
    site = random.choice(SITES)
    places: tuple[tuple[str, str, bytes], ...] = (
        (INVENTORY.name, f"POISON-{number}", b"\x00\x01 %d" % number),
        (CHECKINS.name, f"POISON-{number}", b'{"type": "drydock.unheard.v1", "id": "%d"}' % number),
        (INVENTORY.name, f"POISON-{number}", _untrusted_job(number, site)),
        (ORDERS.name, f"POISON-{number}", _untrusted_job(number, site)),
        (RESULTS.name, f"POISON-{number}", b"not JSON %d" % number),
        (DISPATCH.name, site, b'{"id": %d}' % number),
        (ADVISORIES.name, "macOS-0", b"no advisory %d" % number),
        (CONTROL.name, "halt", b'{"halt": %d}' % number),
        (jobs_topic(site), f"POISON-{number}", b"no order %d" % number),
    )
    return UnusableRecord(*random.choice(places))


def _untrusted_job(number: int, site: str) -> bytes:
    """Return a job that is valid except that an untrusted key signed it."""
    udid = f"POISON-{number}"
    fields: dict[str, Any] = {"udid": udid, "site": site, "intent": "26.2", "reason": "poison"}
    job = Job(
        job_id=derive_job_id(udid, Action.UPDATE, "26.2", 0),
        action=Action.UPDATE,
        method=Method.DDM,
        issued_at=START,
        expires_at=_ONE_MORE_DAY,
        **fields,
    )
    return encode(
        JobIssuedEvent(
            id=event_id("stranger", job.job_id),
            source="/chaos",
            subject=udid,
            time=START,
            data=sign_job(job, _STRANGER),
        )
    )
