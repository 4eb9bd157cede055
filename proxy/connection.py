"""A client's connection: the only asyncio.Protocol for clients.

It pumps bytes between the socket and the session, and keeps back-pressure in both directions: a session
that waits is not read from, a client that does not read its replies is paused, and cut at its limit.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import Final, Protocol, cast

from proxy.session import HELD_CLOSING, HELD_OUTPUT, Link, Session

log = logging.getLogger("redtier.connection")

HIGH_WATER: Final = 64 * 1024  # unsent bytes from which on a client is not read from


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

    def __init__(self, host: Host, output_max: int) -> None:
        self._host = host
        self._output_max = output_max
        self._high_water = min(HIGH_WATER, output_max)
        self._transport: asyncio.Transport | None = None
        self._tls = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        sock = transport.get_extra_info("socket")
        self.local = _shown(transport.get_extra_info("sockname"))
        self.peer = _shown(transport.get_extra_info("peername")) or self.local
        self.fd = sock.fileno() if sock is not None else -1
        if sock is not None and sock.family != socket.AF_UNIX:
            self._host.keep_alive(sock)
        self._tls = transport.get_extra_info("ssl_object") is not None
        # We are told when that is sent which a session is held for; without TLS, of anything that is unsent.
        self._transport.set_write_buffer_limits(self._high_water if self._tls else 0)
        self.direct = not self._tls
        self.session = self._host.accept(self)

    def eof_received(self) -> bool:
        """The client has sent all that it will: answer what is due, then close."""
        if self.session is not None:
            self.session.finish()
        return self._transport is not None and not self._tls  # which has no half-closed connections

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self.direct = False
        session, self.session = self.session, None
        if session is not None:
            session.lost()
            self._host.forget(session)

    def pause_writing(self) -> None:
        self.direct = False

    def resume_writing(self) -> None:
        self.direct = self._transport is not None and not self._tls
        if self.session is not None:
            self.session.release(HELD_OUTPUT)

    def write(self, data: bytes) -> None:
        transport = self._transport
        if transport is None:
            return
        # What is unread counts, not what comes: a single reply may be larger than the limit.
        if transport.get_write_buffer_size() > self._output_max:
            self.abort("it does not read its replies: output_buffer_max is reached")
            return
        transport.write(data)
        if transport.get_write_buffer_size() > self._high_water and self.session is not None:
            self.session.hold(HELD_OUTPUT)

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
        self.direct = False
        if transport is not None:
            log.warning("client %s is cut: %s", self.peer, reason)
            if self.session is not None:
                self.session.held |= HELD_CLOSING  # what it has sent and is not run, is for nobody
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
