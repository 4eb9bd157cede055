"""Cold tiers in the test's own process: a real store behind them that can be watched and held up."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from backends.base import (
    Changes,
    Group,
    Key,
    KeyInfo,
    Loaded,
    Outcome,
    Quarantined,
    Record,
    Store,
    Tracker,
    Waiter,
    Want,
)
from backends.seal import SealPolicy
from proxy import commands
from proxy.cells import ColdPolicy, Handler, Order
from proxy.clock import Clock
from proxy.commands.spec import bind, key_positions, load_table, lookup
from proxy.homes import ColdHome
from proxy.keyspace import EventSink
from proxy.nearcache import MISS, NearCache
from proxy.prefixes import PrefixMap
from proxy.resp import Reply


class WatchedStore(Store):
    """A store that counts what is asked of it, and where a test can step in.

    ``before_load`` and ``before_commit`` are awaited first, and may wait or raise; so may ``after_load`` and
    ``after_commit``, when the store has done it but has not answered.  Chunks have ``before_load_chunks``.
    """

    def __init__(self, inner: Store, shared: bool) -> None:
        self.inner = inner
        self.name, self.type = inner.name, inner.type
        self.concurrency, self.load_max, self.commit_max = inner.concurrency, inner.load_max, inner.commit_max
        self.key_max, self.bulk_max, self.atomic_groups = inner.key_max, inner.bulk_max, inner.atomic_groups
        self.shared = shared and inner.shared
        self.loads: list[tuple[bytes, Want]] = []
        self.commits: list[Group] = []
        self.before_load: Callable[[], Awaitable[None]] = _nothing
        self.after_load: Callable[[], Awaitable[None]] = _nothing
        self.before_load_chunks: Callable[[], Awaitable[None]] = _nothing
        self.before_commit: Callable[[], Awaitable[None]] = _nothing
        self.after_commit: Callable[[], Awaitable[None]] = _nothing
        self.news = asyncio.Event()  # others' changes were told of, or listening began or ended

    async def open(self) -> None:
        await self.inner.open()

    async def close(self) -> None:
        await self.inner.close()

    async def ping(self) -> None:
        await self.inner.ping()

    async def load(self, keys: Sequence[Key], want: Want) -> list[Loaded]:
        self.loads += [(key.name, want) for key in keys]
        await self.before_load()
        loaded = await self.inner.load(keys, want)
        await self.after_load()
        return loaded

    async def load_chunks(self, wanted: Sequence[tuple[Key, int]]) -> list[bytes | None]:
        await self.before_load_chunks()
        return await self.inner.load_chunks(wanted)

    async def commit(self, groups: Sequence[Group]) -> list[Outcome]:
        self.commits += groups
        await self.before_commit()
        outcomes = await self.inner.commit(groups)
        await self.after_commit()
        return outcomes

    async def scan(
        self, db: int, prefix: bytes, after: bytes | None, limit: int
    ) -> tuple[list[KeyInfo], bytes | None]:
        return await self.inner.scan(db, prefix, after, limit)

    async def names(
        self, db: int, prefix: bytes, after: bytes | None, limit: int
    ) -> tuple[list[bytes], bytes | None]:
        return await self.inner.names(db, prefix, after, limit)

    async def size(self, db: int, prefix: bytes) -> int:
        return await self.inner.size(db, prefix)

    async def sweep(self, limit: int) -> int:
        return await self.inner.sweep(limit)

    async def clear(self, db: int | None, prefix: bytes) -> int:
        return await self.inner.clear(db, prefix)

    async def quarantine(self, key: Key, record: Record, reason: str) -> None:
        await self.inner.quarantine(key, record, reason)

    async def quarantined(self, after: tuple[Key, int] | None, limit: int) -> list[Quarantined]:
        return await self.inner.quarantined(after, limit)

    async def release(self, key: Key, write_id: int) -> bool:
        return await self.inner.release(key, write_id)

    def listen(self, told: Changes) -> Tracker | None:
        return self.inner.listen(_Watched(told, self.news))


class _Watched(Changes):
    def __init__(self, told: Changes, news: asyncio.Event) -> None:
        self._told, self._news = told, news

    def began(self) -> None:
        self._told.began()
        self._news.set()

    def changed(self, keys: list[Key] | None) -> None:
        self._told.changed(keys)
        self._news.set()

    def ended(self) -> None:
        self._told.ended()
        self._news.set()


async def _nothing() -> None:
    pass


class Gate:
    """Awaited, it waits until it is opened; ``reached`` tells that somebody does."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()
        self.reached = asyncio.Event()

    async def __call__(self) -> None:
        self.reached.set()
        await self.opened.wait()

    def open(self) -> None:
        self.opened.set()


def failing(error: Exception) -> Callable[[], Awaitable[None]]:
    async def fail() -> None:
        raise error

    return fail


class Answer(Waiter):
    """One command's reply, to be awaited."""

    def __init__(self) -> None:
        super().__init__(1)
        self.reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()

    def done(self, wire: bytes, failed: int) -> None:
        raise TypeError("a tier answers with a value")

    def resolve(self, reply: Reply) -> None:
        self.reply.set_result(reply)  # fails if it is the second


class Events(EventSink):
    def __init__(self) -> None:
        self.seen: list[tuple[int, str, bytes]] = []
        self.elsewhere: list[bytes] = []

    def event(self, db: int, name: str, key: bytes) -> None:
        self.seen.append((db, name, key))

    def changed(self, db: int, key: bytes) -> None:
        pass

    def by(self, waiters: list[Waiter]) -> None:
        pass

    def changed_elsewhere(self, db: int, key: bytes) -> None:
        self.elsewhere.append(key)


class Tier:
    """A ``ColdHome`` as the dispatcher uses it."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        *,
        max_value: int = 1 << 26,
        ttl: int = 0,
        cache: bool = True,
        cache_ttl: int = 0,
        cache_bytes: int = 1 << 24,
        shared: bool = False,
        chunk_over: int = 0,
        chunk_size: int = 0,
    ) -> None:
        commands.load()
        bind(load_table())
        self.store = WatchedStore(store, shared)
        self.events = Events()
        self.cache = NearCache(cache_bytes)
        policy = ColdPolicy(
            *(ttl, max_value, SealPolicy(), cache, cache_ttl), chunk_over=chunk_over, chunk_size=chunk_size
        )
        policies = PrefixMap([(b"", policy)])
        self.home = ColdHome(self.store, clock, policies, self.cache, self.events, False, 10_000, 1 << 30)

    def send(self, line: str | bytes, db: int = 0, order: Order | None = None) -> asyncio.Future[Reply]:
        """Start a command, whose arguments are separated by spaces; awaited, it gives the reply value.

        ``order`` stands for the client that sends it.
        """
        argv = line.encode().split(b" ") if isinstance(line, str) else line.split(b" ")
        spec = lookup(load_table(), argv)
        assert spec is not None
        assert spec.handler is not None
        names = [argv[position] for position in key_positions(spec, argv)]
        if not spec.write and len(names) == 1:
            reply = self.home.copies.read(spec.handler, argv, db, names[0])
            if reply is not MISS:
                answer = Answer()
                answer.resolve(reply)
                return answer.reply
        if not spec.write:
            order = None
        return self.run(spec.handler, *names, argv=argv, db=db, need=spec.need, order=order)

    def run(
        self,
        handler: Handler,
        *names: bytes,
        argv: list[bytes] | None = None,
        db: int = 0,
        need: int = Want.VALUE,
        order: Order | None = None,
    ) -> asyncio.Future[Reply]:
        answer = Answer()
        self.home.submit(answer, handler, argv or [b"test"], db, need, list(names), order)
        return answer.reply
