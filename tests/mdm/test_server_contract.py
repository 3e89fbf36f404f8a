"""The adapter for NanoMDM and KMFDDM keeps its contract with the real servers, on every storage."""

import uuid
from collections.abc import Iterator
from contextlib import closing

import pytest

from agents.mdm.http import HttpServer, Login
from agents.mdm.kmfddm import Kmfddm
from agents.mdm.nanomdm import NanoMdmServer
from agents.mdm.rate_limit import RateLimit
from agents.mdm.server import ServerLimits
from tests.contracts.mdm_server import Form, MdmServerContract
from tests.kafka.brokers import free_ports
from tests.mdm.client import MdmClient
from tests.mdm.servers import KMFDDM_KEY, NANOMDM_KEY, MdmServers
from tests.mdm.test_servers import ACTIVATION, ENFORCEMENT, enroll

LIMITS = ServerLimits(max_requests_per_s=1000, max_open_commands=500)


def adapter(url: str, ddm_url: str, key: str = NANOMDM_KEY) -> NanoMdmServer:
    limit = RateLimit(LIMITS.max_requests_per_s)

    def http(base: str, user: str, password: str) -> HttpServer:
        return HttpServer(base, Login(user, lambda: password), limit=limit, timeout_s=10)

    kmfddm = Kmfddm(http(ddm_url, "kmfddm", KMFDDM_KEY))
    return NanoMdmServer("mdm", http(url, "nanomdm", key), LIMITS, kmfddm)


@pytest.fixture(scope="module")
def enrolled(servers: MdmServers) -> Iterator[MdmClient]:
    """A Mac with an identity from the SCEP server."""
    udid = str(uuid.uuid4()).upper()
    client = MdmClient(servers.nanomdm.url, udid, servers.scep.issue(udid))
    with closing(client.http):
        yield client


@pytest.fixture
def form(servers: MdmServers, enrolled: MdmClient) -> Iterator[Form]:
    """The adapter for the Mac of `enrolled`, with an empty queue and no declarations of Drydock."""
    mac = enrolled
    enroll(mac)
    server = adapter(servers.nanomdm.url, servers.kmfddm.url)
    for name in server.observe(mac.udid).sets:
        server.withdraw(mac.udid, name)
    wrong = adapter(servers.nanomdm.url, servers.kmfddm.url, "wrong")
    nowhere = f"http://127.0.0.1:{free_ports(1)[0]}"
    down = adapter(nowhere, nowhere)

    def next_command() -> str | None:
        command = mac.report("Idle")
        return None if command is None else str(command["CommandUUID"])

    def answer(command: str, status: str) -> str | None:
        following = mac.report(status, CommandUUID=command)
        return None if following is None else str(following["CommandUUID"])

    def items() -> dict[str, str]:
        listed = mac.declarative("declaration-items")["Declarations"]
        return {
            one["Identifier"]: one["ServerToken"]
            for kind in ("Configurations", "Activations")
            for one in listed[kind]
        }

    def add_foreign() -> str:
        servers.kmfddm.declare(
            mac.udid, ENFORCEMENT, ACTIVATION, name="org.example.set", notify=False
        )
        servers.kmfddm.request(
            "DELETE",
            "set-declarations/org.example.set",
            params={"declaration": ACTIVATION["Identifier"], "nonotify": "1"},
        )
        return str(ENFORCEMENT["Identifier"])

    yield Form(
        server=server,
        wrong_login=wrong,
        down=down,
        enrollment_id=mac.udid,
        next_command=next_command,
        answer=answer,
        items=items,
        send_status=lambda report: mac.declarative("status", report),
        foreign=add_foreign,
        secrets=(NANOMDM_KEY, KMFDDM_KEY),
    )
    servers.kmfddm.withdraw(mac.udid, "org.example.set", notify=False)
    for each in (server, wrong, down):
        each.close()


class TestRealServers(MdmServerContract):
    """NanoMDM and KMFDDM."""
