"""Where clients come in: listening sockets, TLS, and how many files may be open for them."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import resource
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Final

from proxy.config import TlsConfig
from proxy.options import Address

log = logging.getLogger("redtier")

FILES: Final = 256  # that may be open besides those of clients: listeners, connections to backends


class StartError(Exception):
    """The server can't start; one line that says why."""


async def listen(
    address: Address, tls: ssl.SSLContext | None, backlog: int, connection: Callable[[], asyncio.Protocol]
) -> asyncio.Server:
    """Take connections in at an address, each with a protocol of its own; raises StartError."""
    loop = asyncio.get_running_loop()
    try:
        if address.path:
            _remove_leftover(address.path)
            return await loop.create_unix_server(connection, address.path, backlog=backlog, ssl=tls)
        return await loop.create_server(connection, address.host, address.port, backlog=backlog, ssl=tls)
    except OSError as error:
        raise StartError(f"can't listen on {address}: {_reason(error)}") from error


def bind_http(address: Address) -> socket.socket:
    """The socket of [http], listening, so that a port in use is known at once; raises StartError."""
    try:
        if address.path:
            _remove_leftover(address.path)
            sock = socket.socket(socket.AF_UNIX)
            sock.bind(address.path)
        else:
            found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
            family, type, _, _, name = found[0]
            sock = socket.socket(family, type)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(name)
        sock.listen()
    except OSError as error:
        raise StartError(f"can't listen on {address} ([http] listen): {_reason(error)}") from error
    return sock


def tls_context(settings: TlsConfig) -> ssl.SSLContext:
    """What [server.tls] says, with its files read; raises StartError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    file = settings.cert
    try:
        context.load_cert_chain(settings.cert, settings.key)
        if settings.ca:
            file = settings.ca
            context.load_verify_locations(settings.ca)
    except (OSError, ssl.SSLError) as error:
        reason = error.strerror or str(error)
        raise StartError(f"[server.tls]: can't use {file} with {settings.key}: {reason}") from error
    context.verify_mode = {
        "no": ssl.CERT_NONE,
        "optional": ssl.CERT_OPTIONAL,
        "yes": ssl.CERT_REQUIRED,
    }[settings.client_auth]
    return context


def allowed_clients(wanted: int) -> int:
    """How many clients there can be at once, after raising the limit of open files as far as is needed.

    Beyond that limit the kernel takes connections that nobody can accept: better they are refused by name.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    files = wanted + FILES if hard == unlimited else min(wanted + FILES, hard)
    if soft != unlimited and soft < files:
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
    allowed = max(1, files - FILES)
    if allowed < wanted:
        log.warning("max_clients is %d: of the %d wanted, ulimit -n allows no more", allowed, wanted)
    return allowed


def _remove_leftover(path: str) -> None:
    """Remove a Unix socket that a server which was killed has left; raises OSError for one in use.

    Asyncio, which removes any, would take it from a server that lives.
    """
    if Path(path).is_socket():
        with socket.socket(socket.AF_UNIX) as probe:
            probe.setblocking(False)
            if probe.connect_ex(path) != errno.ECONNREFUSED:
                raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
        Path(path).unlink()


def _reason(error: OSError) -> str:
    """The system's own words: those of asyncio name the address again."""
    if error.errno and not isinstance(error, socket.gaierror):
        return os.strerror(error.errno).lower()
    return (error.strerror or str(error)).lower()
