"""The connections of the Postgres store: a few, opened when first needed, replaced when they die.

Not ``asyncpg.Pool``: that resets the session each time it takes a connection back, which costs a round
trip and reaches somebody else's session behind a transaction pooler, and its bookkeeping costs more
than the query of one key.  There is no session state here to reset.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import uniform
from typing import Final
from urllib.parse import parse_qs, urlsplit

import asyncpg
from asyncpg.prepared_stmt import PreparedStatement

from backends.base import StoreError

# The server plans a prepared statement once, by the size that the table has then: what was planned on an
# empty table reads all of it, however large it has grown.  So plans are made anew, in seconds.
_PLAN_LIFETIME: Final = 10.0
# The pause before a server that is down is tried again, in seconds; doubled each time, and jittered.
_PAUSE_MIN: Final = 0.05
_PAUSE_MAX: Final = 2.0

# How long a server may take to agree that a connection ends, in seconds.
_GOODBYE: Final = 1.0

_CHECK_LOGIN: Final = "check user and password in url, and the server's pg_hba.conf"
# What to do, by SQLSTATE (https://www.postgresql.org/docs/current/errcodes-appendix.html).
_REMEDIES: Final = {
    "25006": "url must lead to the primary, not to a standby",
    "28000": _CHECK_LOGIN,
    "28P01": _CHECK_LOGIN,
    "3D000": "create it, or correct the name in url",
    "3F000": "create it, or correct the name in table",
    "42501": "grant it to this user, or let the tables' owner start redtier once",
    "42703": "another program's table has this name: choose a name for table",
    "42P01": "it was dropped: restart to create it anew",
    "53100": "make room on the server's disk",
    "RT001": "raise grace in offload: an upload must not take as long",
    "53300": "lower pool, or raise the server's max_connections",
}
_DRIVER_ERRORS: Final = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
    TimeoutError,
)

_ARRAY_TYPES: Final = (
    (1001, "_bytea", 17),
    (1005, "_int2", 21),
    (1009, "_text", 25),
    (1016, "_int8", 20),
)
# The array types of our statements, as asyncpg describes a type: its oid and its element's, from pg_type.dat.
# Left to itself, it asks each new connection for them, with a query that takes seconds where JIT compiles it,
# and so switches JIT off for the session, which behind a transaction pooler is another one.
_ARRAYS: Final = [
    dict.fromkeys(("range_subtype", "attrtypoids", "basetype"))
    | {"oid": oid, "ns": "pg_catalog", "name": name, "elemtype": element, "elemdelim": ","}
    for oid, name, element in _ARRAY_TYPES
]

Rows = list[asyncpg.Record]


class Refused(StoreError):
    """The server answered with an error: what was asked did not happen."""

    def __init__(self, message: str, sqlstate: str) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate


class Lost(StoreError):
    """The connection broke, or the time was up, before the answer came: it may have happened."""


class Link:
    """One connection, and the statements prepared on it.

    Whoever gets anything but ``Refused`` from it finds it closed.
    """

    def __init__(self, connection: asyncpg.Connection[asyncpg.Record], title: str, timeout: float) -> None:
        self._connection = connection
        self._title = title
        self._timeout = timeout
        self._now = asyncio.get_running_loop().time
        self._prepared: dict[str, tuple[PreparedStatement[asyncpg.Record], float]] = {}

    @property
    def closed(self) -> bool:
        return self._connection.is_closed()

    async def fetch(self, statement: str, *args: object) -> Rows:
        try:
            prepared, until = self._prepared.get(statement, (None, 0.0))
            if prepared is None or until < self._now():
                # Unnamed, and so parsed with each execution, where statement_cache_size is 0.
                prepared = await self._connection.prepare(statement, timeout=self._timeout)
                self._prepared[statement] = prepared, self._now() + _PLAN_LIFETIME
            return await prepared.fetch(*args, timeout=self._timeout)
        except BaseException as error:
            raise await self._failure(error) from error

    async def run(self, script: str) -> None:
        """Statements without arguments; several are one transaction."""
        try:
            await self._connection.execute(script, timeout=self._timeout)
        except BaseException as error:
            raise await self._failure(error) from error

    @asynccontextmanager
    async def transaction(self, end: str = "commit") -> AsyncIterator[None]:
        """Each statement sees what was committed before it, whatever the server's default is."""
        await self.run("begin isolation level read committed")
        try:
            yield
        except Refused:
            if not self.closed:
                await self.run("rollback")
            raise
        except BaseException:
            self.terminate()
            raise
        await self.run(end)

    async def close(self) -> None:
        """Cancel what is under way, wait for the server to agree, and say good-bye."""
        try:
            await self._connection.close(timeout=_GOODBYE)
        except _DRIVER_ERRORS:
            self.terminate()

    def terminate(self) -> None:
        self._connection.terminate()

    async def _failure(self, error: BaseException) -> BaseException:
        if not isinstance(error, _DRIVER_ERRORS):
            self.terminate()
            return error
        message = f"{self._title}: {explained(error)}"
        sqlstate = getattr(error, "sqlstate", None) or "08000"
        # 08: the connection failed; 57P: the server is going down.  Whether a commit that was under way
        # came through, neither says.
        if sqlstate.startswith(("08", "57P")):
            # A statement whose time was up must have ended before anyone asks what became of it.
            await self.close()
            return Lost(message)
        if sqlstate == "25006":
            self.terminate()  # after a failover, the way to the new primary is a new connection
        return Refused(message, sqlstate)


class Pool:
    """At most ``size`` links to one server.  Times are in seconds.

    While the server is down, whoever asks is told so at once; every now and then one of them tries.
    """

    def __init__(
        self,
        name: str,
        url: str,
        *,
        size: int,
        connect_timeout: float,
        timeout: float,
        statement_cache_size: int,
    ) -> None:
        self._url = url
        self.title: Final = f"{name} ({_address(url)})"
        self._connect_timeout = connect_timeout
        self._timeout = timeout
        self._statement_cache_size = statement_cache_size
        self._slots = asyncio.Semaphore(size)
        self._idle: list[Link] = []
        self._closed = True
        self._down: StoreError | None = None
        self._attempts = 0  # that failed since the server was last there
        self._retry_at = 0.0

    def open(self) -> None:
        self._closed = False

    async def close(self) -> None:
        self._closed = True
        while self._idle:
            await self._idle.pop().close()

    async def acquire(self) -> Link:
        """A link that is not known to be dead; raises StoreError if there is none to be had now."""
        if not self._idle:
            self._check()  # before waiting for a slot, which an attempt to connect may hold
        await self._slots.acquire()
        try:
            while self._idle:
                link = self._idle.pop()
                if not link.closed:
                    return link
            return await self._connect()
        except BaseException:
            self._slots.release()
            raise

    def release(self, link: Link) -> None:
        if self._closed:
            link.terminate()
        elif not link.closed:
            self._idle.append(link)
        self._slots.release()

    @asynccontextmanager
    async def link(self) -> AsyncIterator[Link]:
        link = await self.acquire()
        try:
            yield link
        finally:
            self.release(link)

    def _check(self) -> None:
        if self._closed:
            raise StoreError(f"{self.title}: not open")
        if self._down is not None and asyncio.get_running_loop().time() < self._retry_at:
            raise StoreError(str(self._down))

    async def _connect(self) -> Link:
        self._check()
        now = asyncio.get_running_loop().time
        self._retry_at = now() + self._connect_timeout  # while it is down, one at a time is to wait for it
        try:
            connection = await asyncpg.connect(
                self._url,
                timeout=self._connect_timeout,
                statement_cache_size=self._statement_cache_size,
            )
        except (*_DRIVER_ERRORS, ValueError) as error:
            self._down = StoreError(f"{self.title}: {self._unreachable(error)}")
            pause = min(_PAUSE_MIN * 2**self._attempts, _PAUSE_MAX)
            self._attempts = min(self._attempts + 1, 16)
            self._retry_at = now() + uniform(pause / 2, pause)
            raise self._down from error
        self._down = None
        self._attempts = 0
        connection.get_settings().register_data_types(_ARRAYS)
        return Link(connection, self.title, self._timeout)

    def _unreachable(self, error: Exception) -> str:
        if isinstance(error, TimeoutError):
            return (
                f"no answer within {self._connect_timeout:g} s: is it running, and are host and port right?"
            )
        if isinstance(error, asyncpg.PostgresError) or _quotes_url(error):
            return explained(error)
        return f"can't be reached: {explained(error)}; is it running, and are host and port right?"


def explained(error: Exception) -> str:
    """One line that says what happened, and, where that is known, what to do."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if _quotes_url(error):
        return "its url can't be read: percent-encode what is special in its user and password"
    said = error.strerror.lower() if isinstance(error, OSError) and error.strerror else str(error)
    text = " ".join((said or type(error).__name__).split())
    remedy = _REMEDIES.get(getattr(error, "sqlstate", None) or "")
    return f"{text}; {remedy}" if remedy else text


def _quotes_url(error: Exception) -> bool:
    """Whether an error's text may hold a part of the url, and with it of the password."""
    return isinstance(error, ValueError) and not isinstance(error, asyncpg.InterfaceError)


def _address(url: str) -> str:
    """Host, port and database of ``url``, and nothing that is secret."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return "url"
    if "@" in parts.path:  # a password with an unescaped slash
        return "url"
    host = parts.hostname or parse_qs(parts.query).get("host", ["localhost"])[0]
    return f"{host}:{port or 5432}{parts.path}"
