"""A stand-in for Apple's push service (APNs) on loopback.

An MDM server reaches it as its HTTPS proxy: `CONNECT api.push.apple.com:443`, then TLS with a
certificate of an authority that only the tests trust, then HTTP/2.
"""

import asyncio
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, Event, RequestReceived, StreamEnded

from tests.kafka.brokers import free_ports
from tests.mdm.identity import Identity

HOST: Final = "api.push.apple.com"


@dataclass(frozen=True, slots=True)
class Push:
    """One notification: the device token in hex, and the PushMagic of its Mac."""

    token: str
    magic: str


@dataclass
class Apns:
    """A running push service.

    `authority` is the file of the authority that the server's HTTP client must trust. A token in
    `unregistered` is answered with 410. `on_push` is called for every delivered notification, in
    the thread of the service.
    """

    port: int
    authority: Path
    pushes: list[Push] = field(default_factory=list)
    unregistered: set[str] = field(default_factory=set)
    on_push: Callable[[Push], None] = lambda _: None

    @property
    def env(self) -> dict[str, str]:
        """The environment of a Go program that uses this push service."""
        return {
            "HTTPS_PROXY": f"http://127.0.0.1:{self.port}",
            "NO_PROXY": "127.0.0.1",
            "SSL_CERT_FILE": str(self.authority),
        }

    @classmethod
    @contextmanager
    def run(cls, folder: Path) -> "Iterator[Apns]":
        """Run a push service within the block; the folder gets its certificates."""
        folder.mkdir(parents=True, exist_ok=True)
        authority = Identity.create("Push authority")
        server = Identity.create(HOST, authority, dns_name=HOST)
        (folder / "authority.pem").write_bytes(authority.certificate_pem)
        (folder / "server.pem").write_bytes(server.certificate_pem + server.key_pem)
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(folder / "server.pem")
        tls.set_alpn_protocols(["h2"])
        service = cls(free_ports(1)[0], folder / "authority.pem")
        loop = asyncio.new_event_loop()
        started, stop = threading.Event(), asyncio.Event()

        async def serve() -> None:
            async with await asyncio.start_server(
                lambda reader, writer: service._serve(reader, writer, tls),
                "127.0.0.1",
                service.port,
            ):
                started.set()
                await stop.wait()
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
        thread.start()
        try:
            assert started.wait(10)
            yield service
        finally:
            loop.call_soon_threadsafe(stop.set)
            thread.join()
            loop.close()

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, tls: ssl.SSLContext
    ) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            asked = await reader.readuntil(b"\r\n\r\n")
            if not asked.startswith(f"CONNECT {HOST}:443 ".encode()):
                writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
                await writer.drain()
            else:
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
                await writer.drain()
                await writer.start_tls(tls)
                await self._notifications(reader, writer)
        writer.close()

    async def _notifications(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        http = H2Connection(H2Configuration(client_side=False))
        http.initiate_connection()
        tokens: dict[int, str] = {}
        bodies: dict[int, bytes] = {}
        data = b""
        while True:
            events: list[Event] = http.receive_data(data) if data else []
            for event in events:
                if isinstance(event, RequestReceived):
                    path = dict(event.headers)[b":path"].decode()
                    tokens[event.stream_id] = path.removeprefix("/3/device/")
                    bodies[event.stream_id] = b""
                elif isinstance(event, DataReceived):
                    bodies[event.stream_id] += event.data
                    http.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                elif isinstance(event, StreamEnded):
                    number = event.stream_id
                    self._answer(http, number, tokens.pop(number), bodies.pop(number))
            writer.write(http.data_to_send())
            await writer.drain()
            data = await reader.read(65536)
            if not data:
                return

    def _answer(self, http: H2Connection, stream: int, token: str, body: bytes) -> None:
        if token in self.unregistered:
            http.send_headers(stream, [(":status", "410"), ("content-type", "application/json")])
            http.send_data(stream, b'{"reason":"Unregistered","timestamp":0}', end_stream=True)
            return
        push = Push(token, json.loads(body)["mdm"])
        self.pushes.append(push)
        headers = [(":status", "200"), ("apns-id", f"PUSH-{len(self.pushes):06}")]
        http.send_headers(stream, headers, end_stream=True)
        self.on_push(push)
