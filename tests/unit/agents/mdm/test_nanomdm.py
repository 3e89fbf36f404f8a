"""Responses of NanoMDM and KMFDDM, as captured from v0.9.0 and v0.8.3, and their meaning."""

from collections.abc import Callable

import httpx
import pytest

from agents.mdm.commands import erase_device
from agents.mdm.http import HttpServer, Login
from agents.mdm.kmfddm import Kmfddm
from agents.mdm.nanomdm import NanoMdmServer
from agents.mdm.rate_limit import RateLimit
from agents.mdm.server import (
    LoginRefusedError,
    ServerLimits,
    ServerRefusedError,
    ServerUnavailableError,
)

KEY = "the-secret-key"
PIN = "738291"
MAC = "11111111-AAAA-4000-8000-000000000001"
COMMAND = erase_device("job-1/1/erase", PIN)
NAMED = {"command_uuid": COMMAND.uuid, "request_type": "EraseDevice"}
NO_PUSH = "APNS: no certificate"
Handler = Callable[[httpx.Request], httpx.Response]


def adapter(handler: Handler) -> NanoMdmServer:
    def http(user: str) -> HttpServer:
        return HttpServer(
            "https://mdm.test",
            Login(user, lambda: KEY),
            limit=RateLimit(1e6),
            timeout_s=1,
            transport=httpx.MockTransport(handler),
        )

    return NanoMdmServer("mdm", http("nanomdm"), ServerLimits(1e6, 10), Kmfddm(http("kmfddm")))


def responding(status: int, body: object) -> NanoMdmServer:
    if isinstance(body, str):
        return adapter(lambda _: httpx.Response(status, text=body))
    return adapter(lambda _: httpx.Response(status, json=body))


QUEUED = [
    pytest.param(200, NAMED, "", id="without a push"),
    pytest.param(200, NAMED | {"status": {MAC: {"push_result": "X"}}}, "", id="pushed"),
    pytest.param(500, NAMED | {"push_error": NO_PUSH}, NO_PUSH, id="no push certificate"),
    pytest.param(
        500,
        NAMED | {"status": {MAC: {"push_error": NO_PUSH}}},
        NO_PUSH,
        id="push to the Mac failed",
    ),
    pytest.param(
        207, NAMED | {"status": {MAC: {"push_error": NO_PUSH}}}, NO_PUSH, id="some pushes failed"
    ),
]


@pytest.mark.parametrize(("status", "body", "push_error"), QUEUED)
def test_command_is_queued(status: int, body: object, push_error: str) -> None:
    enqueued = responding(status, body).enqueue(MAC, COMMAND)
    assert (enqueued.known_before, enqueued.push_error) == (False, push_error)


KNOWN = [
    pytest.param(f"command already exists: {COMMAND.uuid}", id="filekv, inmem"),
    pytest.param(
        'ERROR: duplicate key value violates unique constraint "commands_pkey" (SQLSTATE 23505)',
        id="PostgreSQL",
    ),
    pytest.param("Error 1062 (23000): Duplicate entry 'x' for key 'commands.PRIMARY'", id="MySQL"),
]


@pytest.mark.parametrize("error", KNOWN)
def test_command_uuid_that_exists_was_queued_before(error: str) -> None:
    body = NAMED | {"command_error": error}
    assert responding(500, body).enqueue(MAC, COMMAND).known_before


NOT_QUEUED = [
    pytest.param(500, NAMED | {"command_error": "foreign key"}, id="unknown Mac on PostgreSQL"),
    pytest.param(
        500, NAMED | {"status": {MAC: {"command_error": "disk"}}}, id="error of the enrollment"
    ),
    pytest.param(
        500, NAMED | {"status": {COMMAND.uuid: {"command_error": "disk"}}}, id="error on filekv"
    ),
    pytest.param(
        207,
        NAMED | {"status": {MAC: {"command_error": "disk", "push_error": NO_PUSH}}},
        id="both errors",
    ),
    pytest.param(400, "Bad Request", id="unreadable property list"),
    pytest.param(404, "404 page not found\n", id="server without an API"),
]


@pytest.mark.parametrize(("status", "body"), NOT_QUEUED)
def test_command_is_not_queued(status: int, body: object) -> None:
    with pytest.raises(ServerRefusedError):
        responding(status, body).enqueue(MAC, COMMAND)


UNKNOWN = [
    pytest.param(502, "Bad Gateway", id="proxy without its server"),
    pytest.param(404, "default backend - 404", id="proxy without a route"),
    pytest.param(404, "", id="proxy without a body"),
    pytest.param(504, NAMED, id="proxy gave up waiting"),
    pytest.param(500, "panic", id="no JSON object"),
    pytest.param(200, {"command_uuid": "other"}, id="another command"),
    pytest.param(302, "", id="redirect"),
]


@pytest.mark.parametrize(("status", "body"), UNKNOWN)
def test_command_is_perhaps_queued(status: int, body: object) -> None:
    with pytest.raises(ServerUnavailableError):
        responding(status, body).enqueue(MAC, COMMAND)


@pytest.mark.parametrize("status", [401, 403])
def test_refused_login_names_the_user_and_not_the_key(status: int) -> None:
    with pytest.raises(LoginRefusedError) as refused:
        responding(status, "Unauthorized").enqueue(MAC, COMMAND)
    assert "nanomdm" in str(refused.value)
    assert KEY not in str(refused.value)


@pytest.mark.parametrize(
    "error", [httpx.ReadTimeout("timed out"), httpx.ConnectError("refused"), httpx.ReadError("")]
)
def test_request_without_a_response_is_sent_once(error: httpx.TransportError) -> None:
    sent = []

    def fail(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        raise error

    with pytest.raises(ServerUnavailableError):
        adapter(fail).enqueue(MAC, COMMAND)
    assert len(sent) == 1


def test_id_with_special_characters_is_one_part_of_the_path() -> None:
    paths = []

    def record(request: httpx.Request) -> httpx.Response:
        paths.append(request.url.raw_path)
        return httpx.Response(200, json=NAMED)

    adapter(record).enqueue("A/B,C?nopush=1", COMMAND)
    assert paths == [b"/v1/enqueue/A%2FB%2CC%3Fnopush%3D1"]


def test_failed_change_of_a_declaration_is_unknown() -> None:
    with pytest.raises(ServerUnavailableError):
        responding(500, {"error": "declaration in a set"}).withdraw(MAC, "drydock-job-1-1-declare")


@pytest.mark.parametrize(
    "shown",
    [COMMAND, responding(200, NAMED), Login("u", lambda: KEY)],
    ids=["command", "server", "login"],
)
def test_representation_has_no_secret(shown: object) -> None:
    for text in (repr(shown), str(shown)):
        assert KEY not in text
        assert PIN not in text
        assert "plist" not in text


def test_requests_are_spaced_after_the_first_burst() -> None:
    now, slept = [100.0], []

    def sleep(seconds: float) -> None:
        slept.append(round(seconds, 3))
        now[0] += seconds

    limit = RateLimit(4, monotonic=lambda: now[0], sleep=sleep)
    for _ in range(7):
        limit.wait()
    assert slept == [0.25, 0.25, 0.25]
    now[0] += 60
    limit.wait()
    assert len(slept) == 3
