"""NanoMDM, KMFDDM and the push service behave as Drydock's documents describe, defects included.

NanoMDM's default storage (filekv; inmem shares its code) loses queued commands and repeats executed
ones; its PostgreSQL storage does neither. Tests on other storages therefore prove nothing for it.
"""

import uuid
from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.mdm.client import MdmClient, RefusedError
from tests.mdm.servers import MdmServers

ENFORCEMENT = {
    "Type": "com.apple.configuration.softwareupdate.enforcement.specific",
    "Identifier": "org.example.update",
    "Payload": {"TargetOSVersion": "26.2.1", "TargetLocalDateTime": "2026-12-01T18:00:00"},
}
ACTIVATION = {
    "Type": "com.apple.activation.simple",
    "Identifier": "org.example.activation",
    "Payload": {"StandardConfigurations": ["org.example.update"]},
}


def is_defective(servers: MdmServers) -> bool:
    return "pgsql" not in servers.nanomdm.program.command


@pytest.fixture(scope="module")
def enrolled(servers: MdmServers) -> Iterator[MdmClient]:
    """A Mac with an identity from the SCEP server."""
    udid = str(uuid.uuid4()).upper()
    client = MdmClient(servers.nanomdm.url, udid, servers.scep.issue(udid))
    with closing(client.http):
        yield client


@pytest.fixture
def mac(servers: MdmServers, enrolled: MdmClient) -> MdmClient:
    """The Mac of `enrolled`, enrolled again: with an empty queue and without declarations."""
    enroll(enrolled)
    sets = servers.kmfddm.request("GET", f"enrollment-sets/{enrolled.udid}").json() or []
    for name in sets:
        servers.kmfddm.withdraw(enrolled.udid, name, notify=False)
    return enrolled


def enroll(client: MdmClient) -> None:
    client.check_in("Authenticate", SerialNumber="C02FAKE00001", OSVersion="26.1")
    client.check_in("TokenUpdate", PushMagic="magic", Token=uuid.uuid4().bytes)


def queue(servers: MdmServers, mac: MdmClient, *names: str) -> None:
    for name in names:
        servers.nanomdm.enqueue(mac.udid, name, "SecurityInfo").raise_for_status()


def answer(mac: MdmClient, status: str, uuid: str | None = None) -> str | None:
    """Report this status, for a command if one is named; return the UUID of the next command."""
    command = mac.report(status, **({} if uuid is None else {"CommandUUID": uuid}))
    return None if command is None else str(command["CommandUUID"])


def names(count: int) -> list[str]:
    """Return new CommandUUIDs."""
    return [str(uuid.uuid4()) for _ in range(count)]


def test_commands_arrive_once_and_in_order(servers: MdmServers, mac: MdmClient) -> None:
    a, b = names(2)
    queue(servers, mac, a, b)
    assert answer(mac, "Idle") == a
    assert answer(mac, "Acknowledged", a) == b
    assert answer(mac, "Error", b) is None
    assert answer(mac, "Idle") is None


def test_an_answered_not_now_repeats_a_command_and_loses_the_next(
    servers: MdmServers, mac: MdmClient
) -> None:
    a, b = names(2)
    queue(servers, mac, a, b)
    assert answer(mac, "Idle") == a
    assert answer(mac, "NotNow", a) == b
    assert answer(mac, "Acknowledged", b) == a
    again = answer(mac, "Acknowledged", a)
    [c] = names(1)
    queue(servers, mac, c)
    if is_defective(servers):
        assert again == b
        assert answer(mac, "Idle") == b
        assert answer(mac, "Acknowledged", b) is None
        assert answer(mac, "Idle") is None
    else:
        assert again is None
        assert answer(mac, "Idle") == c


def test_a_repeated_answer_loses_what_is_queued(servers: MdmServers, mac: MdmClient) -> None:
    h, i, j = names(3)
    queue(servers, mac, h, i, j)
    assert answer(mac, "Idle") == h
    assert answer(mac, "Acknowledged", h) == i
    repeated = answer(mac, "Acknowledged", h)
    assert repeated == (None if is_defective(servers) else i)


def test_an_answer_to_an_unknown_command_loses_what_is_queued(
    servers: MdmServers, mac: MdmClient
) -> None:
    k, other = names(2)
    queue(servers, mac, k, other)
    if is_defective(servers):
        assert answer(mac, "Acknowledged", "unknown") is None
        assert answer(mac, "Idle") is None
    else:
        with pytest.raises(RefusedError):
            answer(mac, "Acknowledged", "unknown")
        assert answer(mac, "Idle") == k


def test_a_new_authenticate_clears_the_queue(servers: MdmServers, mac: MdmClient) -> None:
    [a] = names(1)
    queue(servers, mac, a)
    enroll(mac)
    assert answer(mac, "Idle") is None


def test_a_checked_out_mac_still_gets_commands(servers: MdmServers, mac: MdmClient) -> None:
    mac.check_in("CheckOut")
    [a] = names(1)
    queue(servers, mac, a)
    assert answer(mac, "Idle") == a


def test_a_command_uuid_is_accepted_once(servers: MdmServers, mac: MdmClient) -> None:
    [a] = names(1)
    queue(servers, mac, a)
    repeated = servers.nanomdm.enqueue(mac.udid, a, "SecurityInfo")
    assert repeated.status_code == 500
    assert "command_error" in repeated.text


def test_a_command_uuid_with_a_slash_is_refused_by_files_only(
    servers: MdmServers, mac: MdmClient
) -> None:
    response = servers.nanomdm.enqueue(mac.udid, f"{names(1)[0]}/1", "SecurityInfo")
    in_files = "filekv" in servers.nanomdm.program.command
    assert response.status_code == (500 if in_files else 200)


def test_an_unknown_mac_is_an_error_on_postgresql_only(servers: MdmServers, tools: None) -> None:
    response = servers.nanomdm.enqueue("NOT-A-MAC", str(uuid.uuid4()), "SecurityInfo")
    assert response.status_code == (200 if is_defective(servers) else 500)


def test_a_queue_outlives_its_server_unless_it_is_in_memory(
    servers: MdmServers, mac: MdmClient
) -> None:
    [a] = names(1)
    queue(servers, mac, a)
    servers.nanomdm.program.kill()
    servers.nanomdm.program.start()
    if "inmem" in servers.nanomdm.program.command:
        with pytest.raises(RefusedError):  # the enrollment is lost too
            answer(mac, "Idle")
        servers.nanomdm.install_push_certificate()
    else:
        assert answer(mac, "Idle") == a


def test_a_push_reaches_the_mac_unless_its_token_is_dead(
    servers: MdmServers, mac: MdmClient
) -> None:
    a, b = names(2)
    sent = servers.nanomdm.enqueue(mac.udid, a, "SecurityInfo", push=True)
    assert sent.status_code == 200
    push = servers.apns.pushes[-1]
    assert push.magic == "magic"
    servers.apns.unregistered.add(push.token)
    failed = servers.nanomdm.enqueue(mac.udid, b, "SecurityInfo", push=True)
    assert failed.status_code == 500
    assert "Unregistered" in failed.json()["status"][mac.udid]["push_error"]
    # The command is queued all the same.
    assert answer(mac, "Idle") == a
    assert answer(mac, "Acknowledged", a) == b


def test_another_mac_s_certificate_is_refused(servers: MdmServers, mac: MdmClient) -> None:
    other = MdmClient(mac.url, mac.udid, servers.scep.issue("other"), mac.http)
    with pytest.raises(RefusedError) as refused:
        other.report("Idle")
    assert refused.value.status == 500


def test_declarations_reach_the_mac(servers: MdmServers, mac: MdmClient) -> None:
    servers.kmfddm.declare(mac.udid, ENFORCEMENT, ACTIVATION, name="set")
    command = mac.report("Idle")
    assert command is not None
    assert command["Command"]["RequestType"] == "DeclarativeManagement"
    mac.report("Acknowledged", CommandUUID=command["CommandUUID"])
    items = mac.declarative("declaration-items")["Declarations"]
    assert [item["Identifier"] for item in items["Configurations"]] == ["org.example.update"]
    assert (
        mac.declarative("declaration/configuration/org.example.update")["Payload"]
        == (ENFORCEMENT["Payload"])
    )
    report = {"StatusItems": {"softwareupdate": {"install-state": "prepared"}}, "Errors": []}
    mac.declarative("status", report)
    [kept] = [servers.kmfddm.request("GET", f"status-report/{mac.udid}?index=0").json()]
    assert kept == report
    values = servers.kmfddm.request("GET", f"status-values/{mac.udid}").json()
    assert "softwareupdate" not in str(values)


def test_the_token_of_unchanged_declarations_changes(servers: MdmServers, mac: MdmClient) -> None:
    more = [ENFORCEMENT | {"Identifier": f"org.example.update.{number}"} for number in range(4)]
    servers.kmfddm.declare(mac.udid, *more, name="four", notify=False)
    tokens = {mac.declarative("tokens")["SyncTokens"]["DeclarationsToken"] for _ in range(40)}
    assert len(tokens) > 1


def test_a_missing_declaration_is_an_error_500(servers: MdmServers, mac: MdmClient) -> None:
    with pytest.raises(RefusedError) as refused:
        mac.declarative("declaration/configuration/missing")
    assert refused.value.status == 500


def test_kmfddm_reports_success_although_nanomdm_is_down(
    servers: MdmServers, mac: MdmClient
) -> None:
    servers.nanomdm.program.stop()
    try:
        servers.kmfddm.declare(mac.udid, ENFORCEMENT, name="set")
    finally:
        servers.nanomdm.program.start()
        servers.nanomdm.install_push_certificate()  # storage in memory has lost it
    if "inmem" not in servers.nanomdm.program.command:
        assert answer(mac, "Idle") is None
