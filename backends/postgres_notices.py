"""What proxies tell each other of their commits through Postgres: LISTEN and NOTIFY.

A commit's statement sends its messages itself, so that they are delivered if and only if it is committed,
in the order of commits.  A message is the id of its sender (``ORIGIN`` characters), then one that says
what follows, then

- ``=``: keys, each its database (a signed byte), the length of its name (2 bytes) and its name, in Base64,
  since a payload is text in the encoding of the database;
- ``*``: nothing; any key may have been changed;
- ``!``: the number of a heartbeat.

Any other is taken as ``*``: it is from a later release.  A payload has at most 7,999 bytes
(https://www.postgresql.org/docs/current/sql-notify.html); keys that do not fit into ``MESSAGES_MAX`` are not
named.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import struct
from base64 import b64decode, b64encode
from collections.abc import Awaitable, Callable, Iterable
from random import uniform
from typing import Final

import asyncpg

from backends.base import Changes, Key, StoreError, Tracker
from backends.postgres_pool import explained

log = logging.getLogger("redtier.listener")

ORIGIN: Final = 16
KEYS: Final = "="
EVERYTHING: Final = "*"
HEARTBEAT: Final = "!"

MESSAGES_MAX: Final = 8
_PACKED_MAX: Final = 5_900  # bytes of a message's keys, before Base64
_HEAD: Final = struct.Struct(">bH")
# The pause before another attempt to listen, in seconds; doubled each time, and jittered.
_PAUSE_MIN: Final = 0.05
_PAUSE_MAX: Final = 2.0

_ERRORS: Final = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    StoreError,
    OSError,
    ValueError,
)


def new_origin() -> str:
    return secrets.token_hex(ORIGIN // 2)


def messages(origin: str, keys: Iterable[Key]) -> list[str]:
    """What tells of changes of ``keys``."""
    parts: list[bytes] = []
    packed: list[bytes] = []
    size = 0
    for db, name in keys:
        if size + len(name) + _HEAD.size > _PACKED_MAX:
            parts.append(b"".join(packed))
            packed, size = [], 0
            if len(parts) == MESSAGES_MAX:
                return [everything(origin)]
        packed += (_HEAD.pack(db, len(name)), name)
        size += len(name) + _HEAD.size
    parts.append(b"".join(packed))
    head = origin + KEYS
    return [head + b64encode(part).decode("ascii") for part in parts]


def everything(origin: str) -> str:
    return origin + EVERYTHING


def keys_in(payload: str) -> list[Key] | None:
    """The keys that a message names; None where it names none, and so tells of all."""
    if payload[ORIGIN : ORIGIN + 1] != KEYS:
        return None
    try:
        packed = b64decode(payload[ORIGIN + 1 :], validate=True)
        keys = []
        at = 0
        while at < len(packed):
            db, length = _HEAD.unpack_from(packed, at)
            at += _HEAD.size
            keys.append(Key(db, packed[at : at + length]))
            at += length
    except (ValueError, struct.error):
        return None
    return keys if at == len(packed) else None


class Listener(Tracker):
    """Listens on a connection of its own, which is made again when it is lost.

    ``heartbeat`` is in seconds: what is committed is told within that time, or listening has ended.  For
    that, heartbeats are sent with ``send`` on another connection, the way that commits take, so that a
    listener which is half open is noticed, and one that a pooler has cut off from its session, too.
    """

    def __init__(
        self,
        title: str,
        url: str,
        channel: str,
        origin: str,
        send: Callable[[str], Awaitable[object]],
        told: Changes,
        *,
        heartbeat: float,
        connect_timeout: float,
    ) -> None:
        self._title = title
        self._url = url
        self._channel = channel
        self._origin = origin
        self._send = send
        self._told = told
        self._half = heartbeat / 2
        self._connect_timeout = connect_timeout
        self._beats = 0
        self._beat = ""  # the heartbeat that is awaited
        self._event = asyncio.Event()  # it has come, or the connection is lost
        self._lost = False
        self._listening = False
        self._sending: set[asyncio.Future[object]] = set()
        self._work = asyncio.get_running_loop().create_task(self._keep())

    async def close(self) -> None:
        self._work.cancel()
        for sending in self._sending:
            sending.cancel()
        await asyncio.gather(self._work, *self._sending, return_exceptions=True)

    async def _keep(self) -> None:
        attempt = 0
        while True:
            reason = ""
            try:
                await self._listen()
            except TimeoutError:
                reason = f"no answer within {self._connect_timeout:g} s"
            except _ERRORS as error:
                reason = explained(error)
            finally:
                listened, self._listening = self._listening, False
                if listened:
                    self._told.ended()
            attempt = 0 if listened else attempt + 1
            if attempt <= 1:  # it is tried again and again: once tells it
                log.warning("%s: what other proxies change is not heard of: %s", self._title, reason)
            pause = min(_PAUSE_MIN * 2 ** min(attempt, 16), _PAUSE_MAX)
            await asyncio.sleep(uniform(pause / 2, pause))

    async def _listen(self) -> None:
        """Listen until the connection is lost; raises what ended it."""
        self._lost = False
        connection = await asyncpg.connect(self._url, timeout=self._connect_timeout, statement_cache_size=0)
        try:
            connection.add_termination_listener(self._end)
            async with asyncio.timeout(self._connect_timeout):
                await connection.add_listener(self._channel, self._hear)
            while True:
                await self._hear_heartbeat()
                if not self._listening:
                    self._listening = True
                    log.info("%s: what other proxies change is heard of", self._title)
                    self._told.began()
                await self._until(self._half)
        finally:
            connection.remove_termination_listener(self._end)
            connection.terminate()

    async def _hear_heartbeat(self) -> None:
        """Send one and wait until it has come back."""
        self._beats += 1
        self._event.clear()
        self._beat = f"{self._origin}{HEARTBEAT}{self._beats}"
        sending = asyncio.ensure_future(self._send(self._beat))
        self._sending.add(sending)
        sending.add_done_callback(self._sent)
        try:
            await self._until(self._half)
            if self._beat:
                if sending.done():
                    sending.result()
                raise StoreError(
                    "a notification did not come back; does listen_url lead to the same database as url,"
                    " and not through a transaction pooler?"
                )
        finally:
            if (
                self._beat
            ):  # one that was heard is about to be answered: to cut it off would cost a connection
                sending.cancel()

    def _sent(self, sending: asyncio.Future[object]) -> None:
        self._sending.discard(sending)
        if not sending.cancelled():
            sending.exception()  # what matters is whether it is heard

    async def _until(self, seconds: float) -> None:
        """Wait for the heartbeat that is awaited, if one is; raises when the connection is lost."""
        try:
            async with asyncio.timeout(seconds):
                await self._event.wait()
        except TimeoutError:
            pass
        else:
            self._event.clear()
        if self._lost:
            raise StoreError("the connection was lost")

    def _hear(self, connection: object, pid: int, channel: str, payload: object) -> None:
        message = str(payload)
        if not message.startswith(self._origin):
            if message[ORIGIN : ORIGIN + 1] != HEARTBEAT:
                self._told.changed(keys_in(message))
        elif message == self._beat:
            self._beat = ""
            self._event.set()

    def _end(self, connection: object) -> None:
        self._lost = True
        self._event.set()
