"""Connections of the HTTP servers: their number and the duration of each phase are limited.

uvicorn limits neither the time of a request's head nor that of a body that no handler reads, and
it counts all connections, not those of one peer. This protocol of uvicorn adds the limits.

| phase of a connection | ends | limit |
| --- | --- | --- |
| `HEAD`: new, or a part of a request's head has come | the head is complete | `head_s` |
| `BODY`: the body of a request that is being handled | the body is complete | `body_s` |
| `RESPONSE`: request complete, or the server closes | the response is sent | `response_s` |
| `UNREAD`: the response is sent, the body goes on | the body is complete | `unread_s` |
| `IDLE`: between two requests | the next request begins | uvicorn's `timeout_keep_alive` |

A connection that exceeds a limit is closed without a response. Invariant: a connection in each
phase has exactly one timer, uvicorn's or this module's.

A new connection over the limit of its peer, or of all peers, takes the place of the oldest one that
has no request (`HEAD` before `IDLE`), of the same peer, or of the peer with the most connections.
Without such a connection the new one is closed. So an attacker that holds connections open does not
lock out senders, which have a request on theirs.

Private names of uvicorn that are used: see `docs/decisions/0020-http-server.md`.
"""

import asyncio
import ipaddress
import resource
from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

# Of the process's open files: for databases, Kafka, and connections that are accepted in one turn
# of the event loop, before the oldest ones are closed.
BACKLOG: Final = 128
_RESERVED_FILES: Final = BACKLOG + 64
_FEWEST: Final = 16
_IPV6_NETWORK_BYTES: Final = 8


class Phase(Enum):
    """The phase of a connection."""

    HEAD = "head"
    BODY = "body"
    RESPONSE = "response"
    UNREAD = "unread"
    IDLE = "idle"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Limits of the connections of one server, in seconds and in connections."""

    total: int = 1000
    per_peer: int = 500
    head_s: float = 10.0
    body_s: float = 35.0
    response_s: float = 120.0
    unread_s: float = 5.0

    def within_open_files(self) -> "ConnectionLimits":
        """Return the limits with at most as many connections as the process may open files."""
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        possible = max(soft - _RESERVED_FILES, _FEWEST)
        total = min(self.total, possible)
        return ConnectionLimits(
            total,
            min(self.per_peer, total),
            self.head_s,
            self.body_s,
            self.response_s,
            self.unread_s,
        )


@dataclass(slots=True)
class ConnectionPool:
    """The open connections of one server."""

    limits: ConnectionLimits
    closed_for_room: int = field(default=0, init=False)
    _open: dict["BoundedConnection", None] = field(default_factory=dict, init=False)
    _of_peer: Counter[Hashable] = field(default_factory=Counter, init=False)

    def admit(self, new: "BoundedConnection") -> bool:
        """Add a connection; close an older one if there are too many. False if it has no place."""
        if self._of_peer[new.peer] >= self.limits.per_peer:
            has_room = self._close_one_of(new.peer)
        elif len(self._open) >= self.limits.total:
            has_room = self._close_one_of(max(self._of_peer, key=self._of_peer.__getitem__))
        else:
            has_room = True
        if has_room:
            self._open[new] = None
            self._of_peer[new.peer] += 1
        return has_room

    def remove(self, connection: "BoundedConnection") -> None:
        """Remove a connection; do nothing if it is not in the pool."""
        if connection in self._open:
            del self._open[connection]
            self._of_peer[connection.peer] -= 1
            if not self._of_peer[connection.peer]:
                del self._of_peer[connection.peer]

    def _close_one_of(self, peer: Hashable) -> bool:
        """Close the oldest connection of a peer without a request; return False if it has none."""
        for phase in (Phase.HEAD, Phase.IDLE):
            for one in self._open:
                if one.peer == peer and one.phase is phase:
                    self.remove(one)
                    self.closed_for_room += 1
                    one.transport.abort()
                    return True
        return False


class BoundedConnection(H11Protocol):
    """One connection of a server, with the limits of its pool."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        pool: ConnectionPool,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.pool = pool
        self.peer: Hashable = None
        self.phase = Phase.HEAD
        self._timer: asyncio.TimerHandle | None = None
        self._timed: object = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the deadline of the first request's head."""
        super().connection_made(transport)
        self.peer = _peer(self.client)
        if self.pool.admit(self):
            self._enter(Phase.HEAD, self)
        else:
            self.pool.closed_for_room += 1
            self._enter(Phase.CLOSED, self)
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Give the place of the connection free."""
        self.pool.remove(self)
        self._enter(Phase.CLOSED, None)
        super().connection_lost(exc)
        # uvicorn does so only after a close without an error.
        self._unset_keepalive_if_required()

    def data_received(self, data: bytes) -> None:
        """Read a part of a request, unless the connection is being closed."""
        if self.phase is Phase.CLOSED:
            return
        super().data_received(data)
        self._follow(Phase.HEAD)

    def on_response_complete(self) -> None:
        """Start the deadline of what follows the response."""
        super().on_response_complete()
        self._follow(Phase.HEAD if self.conn.trailing_data[0] else Phase.IDLE)

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection; start the deadline of the bytes that its peer has not read."""
        super().timeout_keep_alive_handler()
        self._follow(Phase.IDLE)

    def _follow(self, without_request: Phase) -> None:
        """Enter the phase that the state of the connection shows.

        Without a request in progress it is `without_request`.
        """
        if self.transport.is_closing():
            # Bytes that are still to be written go to a peer that may not read them.
            self._enter(Phase.RESPONSE, self.conn)
        elif self.cycle is not None and not self.cycle.response_complete:
            reads = self.conn.their_state is h11.SEND_BODY
            self._enter(Phase.BODY if reads else Phase.RESPONSE, self.cycle)
        elif self.conn.their_state is h11.SEND_BODY:
            self._enter(Phase.UNREAD, self.cycle)
        elif self.transport.get_write_buffer_size():
            # uvicorn counts a response as complete before its peer has read it.
            self._enter(Phase.RESPONSE, self.cycle)
        else:
            self._enter(without_request, self.cycle)

    def _enter(self, phase: Phase, of: object) -> None:
        """Set the phase; start its timer unless it runs for this phase of this request already."""
        if phase is self.phase and of is self._timed:
            return
        self.phase, self._timed = phase, of
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        limit_s = self._limit_s(phase)
        if limit_s is not None:
            self._timer = self.loop.call_later(limit_s, self._end)

    def _limit_s(self, phase: Phase) -> float | None:
        limits = self.pool.limits
        return {
            Phase.HEAD: limits.head_s,
            Phase.BODY: limits.body_s,
            Phase.RESPONSE: limits.response_s,
            Phase.UNREAD: limits.unread_s,
        }.get(phase)

    def _end(self) -> None:
        self._timer = None
        is_read = not self.transport.is_closing() and not self.transport.get_write_buffer_size()
        if self.phase is Phase.RESPONSE and is_read and self.cycle.response_complete:
            self._enter(Phase.IDLE, self.cycle)
            return
        self.phase = Phase.CLOSED
        self.transport.abort()


def _peer(client: tuple[str, int] | None) -> Hashable:
    """Return the address of a peer; of an IPv6 address the network, which has one owner."""
    if client is None or ":" not in client[0]:
        return None if client is None else client[0]
    address = ipaddress.IPv6Address(client[0].partition("%")[0])
    mapped = address.ipv4_mapped
    return str(mapped) if mapped is not None else address.packed[:_IPV6_NETWORK_BYTES]
