"""A Mac enrolls with a real NanoMDM; its webhooks go through the real gateway to a real broker."""

import base64
from contextlib import closing
from pathlib import Path

import httpx

from schemas.envelope import (
    AuthenticatedEvent,
    CheckedOutEvent,
    CloudEvent,
    CommandReportedEvent,
    InventoryEvent,
    TokenUpdatedEvent,
    decode,
)
from schemas.topics import CHECKINS, DEAD_LETTERS, INVENTORY
from tests.kafka.agent_site import eventually
from tests.kafka.brokers import KafkaCluster
from tests.kafka.gateways import gateway, records_of
from tests.kafka.topics import make_topics
from tests.mdm.client import MdmClient
from tests.mdm.servers import HMAC_KEY, MdmServers

UDID = "5A0C7D9E-0000-4000-8000-00000000D0C4"
PUSH_MAGIC, TOKEN, BOOTSTRAP = "push-magic-of-the-mac", b"push-token" * 3, b"bootstrap-token" * 3


def test_messages_of_a_mac_reach_kafka_through_nanomdm_without_secrets(
    kafka: KafkaCluster, tools: None, tmp_path: Path
) -> None:
    make_topics(kafka.bootstrap)

    def events_by_type() -> dict[type[CloudEvent], CloudEvent]:
        events = map(decode, records_of(kafka, UDID, CHECKINS, INVENTORY))
        return {type(event): event for event in events}

    with (
        gateway(kafka, tmp_path, DRYDOCK_NANOMDM_HMAC_KEY=HMAC_KEY) as running,
        MdmServers.run(tmp_path / "mdm", webhook_url=f"{running.url}/webhooks/nanomdm") as servers,
        closing(httpx.Client(trust_env=False)) as http,
    ):
        mac = MdmClient(servers.nanomdm.url, UDID, servers.scep.issue(UDID), http)
        mac.check_in("Authenticate", SerialNumber="C02FAKE00001", OSVersion="14.7.1")
        mac.check_in("TokenUpdate", PushMagic=PUSH_MAGIC, Token=TOKEN)
        mac.check_in("SetBootstrapToken", BootstrapToken=BOOTSTRAP)
        queries = ["OSVersion", "SerialNumber"]
        queued = servers.nanomdm.enqueue(UDID, "C-1", "DeviceInformation", Queries=queries)
        assert queued.status_code == 200
        command = mac.report("Idle")
        assert command is not None
        responses = {"SerialNumber": "C02FAKE00001", "OSVersion": "14.7.1", "UDID": UDID}
        responses |= {"BuildVersion": "23H222", "ProductName": "Mac15,12"}
        uuid = command["CommandUUID"]
        assert mac.report("Acknowledged", CommandUUID=uuid, QueryResponses=responses) is None
        mac.check_in("CheckOut")
        eventually(lambda: len(events_by_type()) >= 6, "every event is in the topics")
        assert running.value("drydock_gateway_requests_total", "accepted", "nanomdm") == 6
        assert running.end() == 0
    found = events_by_type()
    token_updated, inventory = found[TokenUpdatedEvent], found[InventoryEvent]
    assert isinstance(token_updated, TokenUpdatedEvent)
    assert token_updated.data.tally == 1
    assert isinstance(inventory, InventoryEvent)
    assert (inventory.data.serial, str(inventory.data.os_version)) == ("C02FAKE00001", "14.7.1")
    assert {AuthenticatedEvent, CommandReportedEvent, CheckedOutEvent} < found.keys()
    kept = b"".join(records_of(kafka, None, CHECKINS, INVENTORY, DEAD_LETTERS))
    for secret in (PUSH_MAGIC.encode(), TOKEN, BOOTSTRAP):
        assert secret not in kept
        assert base64.b64encode(secret) not in kept
