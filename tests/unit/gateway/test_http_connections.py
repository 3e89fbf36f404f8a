"""The limits of connections, with real sockets and short times."""

import asyncio
import contextlib
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from pipeline.http_connections import ConnectionLimits
from pipeline.server_process import serve_until_stopped
from runtime.listening import Listen

SHORT_S = 0.4
LONG_S = 60.0
WITHIN_S = 20.0
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST /%s HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n"

Connect = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]


async def respond(request: Request) -> Response:
    if request.url.path == "/read":
        await request.body()
    return PlainTextResponse("x" * (64 * 2**20 if request.url.path == "/large" else 2))


@asynccontextmanager
async def serving(**limits: float) -> AsyncIterator[Connect]:
    """Serve within the block; other limits than these are long."""
    chosen = {"head_s": LONG_S, "body_s": LONG_S, "unread_s": LONG_S, **limits}
    routes = [
        Route("/", respond),
        Route("/large", respond),
        Route("/read", respond, methods=["POST"]),
        Route("/unread", respond, methods=["POST"]),
    ]
    stopped = asyncio.Event()
    with Listen("127.0.0.1", 0).bind() as listener:
        port = listener.getsockname()[1]
        server = asyncio.create_task(
            serve_until_stopped(
                [(Starlette(routes=routes), listener)],
                stopped,
                ConnectionLimits(**chosen),  # type: ignore[arg-type]
            )
        )
        writers: list[asyncio.StreamWriter] = []

        async def connect() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writers.append(writer)
            return reader, writer

        try:
            yield connect
        finally:
            for writer in writers:
                writer.transport.abort()
            stopped.set()
            await server


async def is_closed(reader: asyncio.StreamReader) -> bool:
    """Return True once the server has closed the connection."""
    async with asyncio.timeout(WITHIN_S):
        with contextlib.suppress(ConnectionResetError):
            while await reader.read(2**16):
                pass
    return True


async def status(reader: asyncio.StreamReader) -> int:
    async with asyncio.timeout(WITHIN_S):
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(one for one in head.split(b"\r\n") if one.startswith(b"content-length"))
        await reader.readexactly(int(length.partition(b":")[2]))
    return int(head.split()[1])


@pytest.mark.parametrize(
    "sent", [b"", b"GET / HT", GET[:-2]], ids=["nothing", "a part of the first line", "no end"]
)
def test_connection_without_a_whole_head_is_closed(sent: bytes) -> None:
    async def test() -> bool:
        async with serving(head_s=SHORT_S) as connect:
            reader, writer = await connect()
            writer.write(sent)
            return await is_closed(reader)

    assert asyncio.run(test())


def test_byte_after_byte_does_not_extend_the_deadline_of_a_head() -> None:
    async def test() -> bool:
        async with serving(head_s=SHORT_S) as connect:
            reader, writer = await connect()

            async def trickle() -> None:
                writer.write(b"GET / HTTP/1.1\r\nX: ")
                while not writer.is_closing():
                    writer.write(b"a")
                    await asyncio.sleep(SHORT_S / 10)

            trickling = asyncio.create_task(trickle())
            try:
                return await is_closed(reader)
            finally:
                trickling.cancel()

    assert asyncio.run(test())


def test_slow_head_of_a_second_request_is_closed() -> None:
    async def test() -> tuple[int, bool]:
        async with serving(head_s=SHORT_S) as connect:
            reader, writer = await connect()
            writer.write(GET)
            first = await status(reader)
            await asyncio.sleep(2 * SHORT_S)  # idle: the deadline of a head does not run
            writer.write(GET)
            assert await status(reader) == 200
            writer.write(GET[:-2])
            return first, await is_closed(reader)

    assert asyncio.run(test()) == (200, True)


def test_pipelined_requests_get_their_responses() -> None:
    async def test() -> list[int]:
        async with serving(head_s=SHORT_S) as connect:
            reader, writer = await connect()
            writer.write(GET * 3)
            return [await status(reader) for _ in range(3)]

    assert asyncio.run(test()) == [200, 200, 200]


def test_body_that_a_handler_waits_for_has_a_deadline() -> None:
    async def test() -> bool:
        async with serving(body_s=SHORT_S) as connect:
            reader, writer = await connect()
            writer.write(POST % b"read" + b"a")
            return await is_closed(reader)

    assert asyncio.run(test())


def test_body_that_no_handler_reads_has_a_deadline() -> None:
    async def test() -> tuple[int, bool]:
        async with serving(unread_s=SHORT_S) as connect:
            reader, writer = await connect()
            writer.write(POST % b"unread" + b"a")
            return await status(reader), await is_closed(reader)

    assert asyncio.run(test()) == (200, True)


def test_response_that_is_not_read_has_a_deadline() -> None:
    async def test() -> int:
        async with serving(response_s=SHORT_S) as connect:
            reader, writer = await connect()
            writer.write(GET.replace(b"/ ", b"/large "))
            await asyncio.sleep(4 * SHORT_S)
            async with asyncio.timeout(WITHIN_S):
                received = 0
                with contextlib.suppress(ConnectionResetError):
                    while part := await reader.read(2**20):
                        received += len(part)
            return received

    assert asyncio.run(test()) < 64 * 2**20


@pytest.mark.parametrize("limit", ["total", "per_peer"])
def test_new_connection_takes_the_place_of_the_oldest_without_a_request(limit: str) -> None:
    async def test() -> tuple[bool, list[int]]:
        async with serving(**{limit: 4}) as connect:
            working = await connect()
            working[1].write(POST % b"read" + b"a")
            silent = [await connect() for _ in range(3)]
            await asyncio.sleep(SHORT_S / 4)
            honest = await connect()
            honest[1].write(GET)
            found = [await status(honest[0])]
            closed = await is_closed(silent[0][0])
            working[1].write(b"a" * 99_999)
            found.append(await status(working[0]))
            silent[2][1].write(GET)
            found.append(await status(silent[2][0]))
            return closed, found

    assert asyncio.run(test()) == (True, [200, 200, 200])


def test_connection_is_closed_while_all_others_have_requests() -> None:
    async def test() -> tuple[bool, int]:
        async with serving(total=2) as connect:
            working = [await connect() for _ in range(2)]
            for _, writer in working:
                writer.write(POST % b"read" + b"a")
            await asyncio.sleep(SHORT_S / 4)
            reader, _ = await connect()
            closed = await is_closed(reader)
            working[0][1].write(b"a" * 99_999)
            return closed, await status(working[0][0])

    assert asyncio.run(test()) == (True, 200)


def test_private_names_of_uvicorn_exist() -> None:
    """0020: a new version of uvicorn that changes them needs a review of `http_connections`."""
    source = inspect.getsource(H11Protocol)
    for name in ("self.conn", "self.cycle", "self.client", "self.transport", "self.loop"):
        assert name in source, name
    assert "on_response=self.on_response_complete" in source
    assert "self.response_complete" in inspect.getsource(RequestResponseCycle)
    for method in ("_unset_keepalive_if_required", "timeout_keep_alive_handler"):
        assert callable(getattr(H11Protocol, method))
    assert list(inspect.signature(H11Protocol.__init__).parameters) == [
        "self",
        "config",
        "server_state",
        "app_state",
        "_loop",
    ]
