"""A worker uses only control events and withdrawals that a key of their purpose signed."""

from typing import NamedTuple

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pipeline.embedded.control_events import halt_cleared
from pipeline.payload_signing import sign_job, sign_record
from pipeline.processors.broadcast import BroadcastState
from pipeline.processors.device_shard import DeviceShard
from pipeline.processors.dispatch_shard import DispatchShard
from pipeline.processors.shard_config import ShardConfig
from runtime.trusted_keys import LiveKeys
from schemas.envelope import (
    ControlEvent,
    HaltSetEvent,
    JobIssuedEvent,
    JobSupersededEvent,
    decode,
    encode,
)
from schemas.events.control import DRYDOCK_ITSELF, HaltScope, HaltSet
from schemas.results import ErrorCode, Outcome
from schemas.signed_records import AUTOMATIC_HALT_RECORD
from schemas.signing import key_id
from schemas.topics import (
    ADVISORIES,
    CHECKINS,
    CONTROL,
    DISPATCH,
    HALTS,
    INTERNAL_TOPICS,
    INVENTORY,
    ORDERS,
    RESULTS,
    TOPICS,
    Topic,
    jobs_topic,
)
from tests import factories as make
from tests.factories import NOW, UDID
from tests.factories.sites import (
    APPROVALS_KEY,
    CONTROL_KEY,
    JOBS_KEY,
    KEYS,
    STRANGER_KEY,
    signed_control,
    signed_withdrawal,
)


class Record(NamedTuple):
    offset: int
    key: bytes | None
    value: bytes | None


EVENTS: dict[str, ControlEvent] = {
    "policy": make.policy_changed(),
    "halt": make.halted(site="london"),
    "clearing": make.halt_cleared(site="london"),
    "reset": make.attempts_reset(site="london"),
    "identity": make.settled("separate", "MAC-1", "MAC-2"),
    "strike": make.struck(make.release("26.2")),
    "end of a strike": make.restored(make.release("26.2")),
    "denial": make.denied("job-1"),
}


def rejection_of(
    state: BroadcastState, raw: bytes, offset: int = 0, topic: Topic = CONTROL
) -> str | None:
    record = state.fold_record(topic.name, offset, raw)
    assert record is not None
    return None if record.rejection is None else record.rejection.code


@pytest.mark.parametrize("event", EVENTS.values(), ids=EVENTS.keys())
def test_control_event_counts_only_with_a_signature_of_a_key_for_control(
    event: ControlEvent,
) -> None:
    state = BroadcastState(KEYS.approvals, control=KEYS.control)
    keys: list[Ed25519PrivateKey] = [STRANGER_KEY, JOBS_KEY, APPROVALS_KEY]
    forged = [encode(event), *(signed_control(event, key) for key in keys)]
    for offset, raw in enumerate(forged):
        assert rejection_of(state, raw, offset) == "unsigned"
    assert (state.fleet.policy, [*state.fleet.halts()]) == (None, [])
    assert rejection_of(state, signed_control(event), len(forged)) is None


OWN_HALT = HaltSetEvent(
    id="1",
    source="/drydock/decide",
    subject="site:london/reinstall",
    time=NOW,
    data=HaltSet(scope=HaltScope(site="london", action="reinstall"), by=DRYDOCK_ITSELF),
)


def signed_halt(event: HaltSetEvent, key: Ed25519PrivateKey = JOBS_KEY) -> bytes:
    return sign_record(encode(event), AUTOMATIC_HALT_RECORD, key)


def test_key_for_jobs_signs_only_the_halts_that_drydock_itself_sets() -> None:
    state = BroadcastState(KEYS.approvals, None, KEYS.control, KEYS.jobs)
    unsigned = [
        encode(OWN_HALT),
        signed_control(OWN_HALT, JOBS_KEY),
        signed_control(OWN_HALT),
        signed_halt(OWN_HALT, CONTROL_KEY),
    ]
    of_site = HaltSet(scope=HaltScope(site="london"), by=DRYDOCK_ITSELF)
    wrong: list[ControlEvent] = [
        *EVENTS.values(),
        OWN_HALT.model_copy(update={"data": of_site}),
        halt_cleared(OWN_HALT.data.scope, DRYDOCK_ITSELF, NOW),
    ]
    misused = [sign_record(encode(one), AUTOMATIC_HALT_RECORD, JOBS_KEY) for one in wrong]
    for offset, raw in enumerate((*unsigned, *misused)):
        assert rejection_of(state, raw, offset, HALTS) == (
            "unsigned" if raw in unsigned else "bad_value"
        )
        code = "bad_value" if raw == signed_control(OWN_HALT) else "unsigned"
        assert rejection_of(state, raw, offset) == code
    assert not state.fleet.halts()
    genuine, offset = signed_halt(OWN_HALT), len(unsigned) + len(misused)
    assert rejection_of(state, genuine, offset) == "unsigned"
    assert rejection_of(state, genuine, offset, HALTS) is None
    assert [*state.fleet.halts()] == [OWN_HALT.data]


def test_removed_key_for_control_is_not_accepted_any_more() -> None:
    control = LiveKeys(KEYS.control)
    state = BroadcastState(KEYS.approvals, control=control)
    assert rejection_of(state, signed_control(EVENTS["halt"])) is None
    control.replace({})
    assert rejection_of(state, signed_control(EVENTS["clearing"]), 1) == "unsigned"
    assert len(state.fleet.halts()) == 1


PARTITIONS = {topic.name: 1 for topic in (*TOPICS, *INTERNAL_TOPICS)}
SERIAL = "C02TEST0001"


def a_shard() -> tuple[DeviceShard, BroadcastState]:
    """Return a shard whose one Mac lacks 26.2 and has an open job, and its broadcast state."""
    broadcast = BroadcastState(KEYS.approvals, control=KEYS.control)
    broadcast.fold_record(CONTROL.name, 0, signed_control(make.policy_changed()))
    for offset, version in enumerate(make.RELEASES):
        broadcast.fold_record(ADVISORIES.name, offset, encode(make.release(version)))
    shard = DeviceShard(0, broadcast, ShardConfig(JOBS_KEY, KEYS.jobs, PARTITIONS))
    shard.begin(NOW)
    shard.finish_catch_up()
    for event in (*make.enrolled(UDID), make.polled(UDID)):
        shard.process_records(CHECKINS.name, [Record(0, None, encode(event))], NOW)
    report = encode(make.full_report("26.1", UDID, serial=SERIAL))
    shard.process_records(INVENTORY.name, [Record(0, None, report)], NOW)
    return shard, broadcast


def published(shard: DeviceShard, topic: str) -> list[bytes]:
    return [one.value for one in shard.collect().records if one.topic == topic]


def the_order(shard: DeviceShard) -> JobIssuedEvent:
    (raw,) = published(shard, ORDERS.name)
    event = decode(raw)
    assert isinstance(event, JobIssuedEvent)
    return event


def test_worker_signs_the_withdrawals_that_it_publishes() -> None:
    shard, broadcast = a_shard()
    the_order(shard)
    retracted = encode(make.retracted("26.2", first_seen_at=NOW))
    broadcast.fold_record(ADVISORIES.name, len(make.RELEASES), retracted)
    shard.tick(NOW)
    records = shard.collect().records
    for topic in (ORDERS.name, DISPATCH.name):
        (raw,) = [one.value for one in records if one.topic == topic]
        event = decode(raw)
        assert isinstance(event, JobSupersededEvent)
        assert raw == signed_withdrawal(event)


@pytest.mark.parametrize(
    "key", [None, STRANGER_KEY, CONTROL_KEY], ids=["no", "stranger", "control"]
)
def test_forged_withdrawal_is_a_dead_letter(key: Ed25519PrivateKey | None) -> None:
    shard, _ = a_shard()
    issued = the_order(shard)
    event = make.superseded(issued.data.job)
    raw = encode(event) if key is None else signed_withdrawal(event, key)
    assert shard.process_records(ORDERS.name, [Record(1, None, raw)], NOW) == 1
    assert shard.collect().counters.dead_letters == {(ORDERS.name, "unsigned"): 1}
    (entry,) = shard.reconciler.fleet.job_histories[UDID]
    assert entry.is_open

    dispatch = DispatchShard(
        0, BroadcastState(KEYS.approvals), shard._config, {jobs_topic("london"): 1}
    )
    dispatch.begin(NOW)
    dispatch.process_records(DISPATCH.name, [Record(0, None, encode(issued))], NOW)
    assert dispatch.process_records(DISPATCH.name, [Record(1, None, raw)], NOW) == 1
    assert dispatch.jobs[issued.data.job.job_id].stage == "waiting"


def test_refusal_of_a_forged_job_does_not_end_the_honest_one() -> None:
    shard, _ = a_shard()
    issued = the_order(shard)
    forged = sign_job(issued.data.job, STRANGER_KEY)
    refusal = make.resulted(issued.data.job, Outcome.REFUSED, NOW, ErrorCode.BAD_SIGNATURE)
    forged_refusal, honest_refusal = (
        refusal.model_copy(
            update={"data": refusal.data.model_copy(update={"order_sha256": record.sha256})}
        )
        for record in (forged, issued.data)
    )
    raw = encode(forged_refusal)
    assert shard.process_records(RESULTS.name, [Record(0, None, raw)], NOW) == 1
    assert shard.collect().counters.dead_letters == {(RESULTS.name, "unsigned"): 1}
    (entry,) = shard.reconciler.fleet.job_histories[UDID]
    assert entry.is_open
    shard.process_records(RESULTS.name, [Record(1, None, encode(honest_refusal))], NOW)
    assert shard.reconciler.fleet.job_histories[UDID][0].error_code == ErrorCode.BAD_SIGNATURE


def test_new_key_signs_the_jobs_after_a_rotation() -> None:
    shard, _ = a_shard()
    shard.collect()
    shard._config.signing_key = STRANGER_KEY
    other = UDID[:-1] + "2"
    for event in (*make.enrolled(other), make.polled(other)):
        shard.process_records(CHECKINS.name, [Record(2, None, encode(event))], NOW)
    report = encode(make.full_report("26.1", other, serial="C02TEST0002"))
    shard.process_records(INVENTORY.name, [Record(2, None, report)], NOW)
    (signature,) = the_order(shard).data.signed.signatures
    assert signature.keyid == key_id(STRANGER_KEY.public_key())
