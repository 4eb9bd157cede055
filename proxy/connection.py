"""A client's connection: the only asyncio.Protocol for clients.

It pumps bytes between the socket and the session, and keeps back-pressure in both directions: a session
that waits is not read from, a client that does not read its replies is paused, and cut at its limit.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import Protocol, cast

from proxy.dispatch import Dispatcher
from proxy.session import HELD_CLOSING, HELD_OUTPUT, Link, Session

log = logging.getLogger("redtier.connection")

HIGH_WATER = 64 * 1024  # bytes; asyncio's default


class Host(Protocol):
    """Whoever listens: it takes connections in and lets them go."""

    def accept(self, connection: Connection) -> Session | None:
        """The session of a new connection, or None if it is turned away."""

    def forget(self, session: Session) -> None:
        """The session's connection is gone."""

    def keep_alive(self, sock: socket.socket) -> None:
        """Have the kernel notice when the socket's peer is gone."""


class Connection(Link, asyncio.Protocol):
    """One accepted socket."""

    def __init__(self, host: Host, dispatcher: Dispatcher, output_max: int) -> None:
        self._host = host
        self._dispatcher = dispatcher
        self._output_max = output_max
        self._transport: asyncio.Transport | None = None
        self._choked = False  # more is unread than the transport likes to hold
        self._session: Session | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if self._output_max < HIGH_WATER:  # which is where it begins to tell of it
            self._transport.set_write_buffer_limits(self._output_max)
        sock = transport.get_extra_info("socket")
        self.local = _shown(transport.get_extra_info("sockname"))
        self.peer = _shown(transport.get_extra_info("peername")) or self.local
        self.fd = sock.fileno() if sock is not None else -1
        if sock is not None and sock.family != socket.AF_UNIX:
            self._host.keep_alive(sock)
        self.straight = self._transport.write
        self._session = self._host.accept(self)

    def data_received(self, data: bytes) -> None:
        session = self._session
        if session is not None:
            self._dispatcher.feed(session, data)

    def eof_received(self) -> bool:
        """The client has sent all that it will: answer what is due, then close."""
        if self._session is not None:
            self._session.finish()
        # TLS has no half-closed connections.
        return self._transport is not None and self._transport.get_extra_info("ssl_object") is None

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = self.straight = None
        session, self._session = self._session, None
        if session is not None:
            session.held |= HELD_CLOSING
            self._host.forget(session)

    def pause_writing(self) -> None:
        self._choked = True
        self.straight = None
        if self._session is not None:
            self._session.hold(HELD_OUTPUT)

    def resume_writing(self) -> None:
        self._choked = False
        if self._transport is not None:
            self.straight = self._transport.write
        if self._session is not None:
            self._session.release(HELD_OUTPUT)

    def write(self, data: bytes) -> None:
        transport = self._transport
        if transport is None:
            return
        # What is unread counts, not what comes: a single reply may be larger than the limit.
        if self._choked and transport.get_write_buffer_size() > self._output_max:
            self.abort("it does not read its replies: output_buffer_max is reached")
        else:
            transport.write(data)

    def pause(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def abort(self, reason: str) -> None:
        transport, self._transport = self._transport, None
        self.straight = None
        if transport is not None:
            log.warning("client %s is cut: %s", self.peer, reason)
            if self._session is not None:
                self._session.held |= HELD_CLOSING  # what it has sent and is not run, is for nobody
            transport.abort()

    def unsent(self) -> int:
        return 0 if self._transport is None else self._transport.get_write_buffer_size()


def _shown(address: object) -> str:
    """An address as CLIENT LIST shows it."""
    if isinstance(address, tuple):
        host, port = address[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    if isinstance(address, bytes):
        address = address.decode("utf-8", "replace")
    return f"{address}:0" if address else ""
