"""Several proxies on one store, killed and cut off under load, and what must be there afterwards.

Clients of all proxies work on the same keys: they count up, append elements that nobody else has, and take
elements out of queues, each by itself, in transactions, or by ``WATCH``.  Every reply that acknowledges
something is kept to at the end, and each connection never sees a counter or a list go backwards.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, suppress
from typing import Any, Final, NamedTuple

import hiredis

from tests.faultproxy import FaultProxy
from tests.faults.load import PAUSE_FAILED, Client
from tests.servers import RedtierServer

PROXIES: Final = 3
PATIENCE: Final = 30.0  # seconds for a proxy to be there again
HOT: Final = 20  # keys that half of the commands are for
NOT_DONE: Final = ("CONFLICT", "BACKENDDOWN")  # and not MAYBE: then it did not happen
MAYBE: Final = "may have been applied"
READS: Final = 3  # of each write
AT_ONCE: Final = 100  # keys that are looked at in the end

MakeServer = Callable[[str], RedtierServer]


class Report(NamedTuple):
    """What an ordeal came to.  Each of ``broken`` is a promise that was not kept."""

    seconds: float
    acknowledged: Counter[str]  # by what was done
    unknown: int  # operations whose reply did not come, or said so
    refused: Counter[str]  # by code
    reads: int
    cached: int  # reads answered by near caches of proxies that lived until the end
    kills: int
    cuts: int
    broken: list[str]


class Ledger:
    """What was acknowledged, by all clients."""

    def __init__(self) -> None:
        self.counted: Counter[str] = Counter()  # increments that were acknowledged, by key
        self.maybe_counted: Counter[str] = Counter()
        self.pushed: dict[str, set[bytes]] = {}  # elements that must be there, by key
        self.maybe_pushed: dict[str, set[bytes]] = {}
        self.taken: Counter[bytes] = Counter()  # out of queues
        self.maybe_taken: Counter[str] = Counter()  # of a queue, nobody knows which
        self.acknowledged: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.unknown = 0
        self.reads = 0
        self.broken: list[str] = []

    def failed(self, error: hiredis.ReplyError | None) -> bool:
        """Whether an operation may have happened all the same; None: its reply did not come."""
        text = "" if error is None else str(error)
        code = text.partition(" ")[0]
        if error is not None and MAYBE not in text:
            self.refused[code] += 1
            if code not in NOT_DONE:
                self.broken.append(f"an unexpected error: {text}")
            return False
        self.unknown += 1
        return True


class Worker:
    """One client, which goes to another proxy when its connection is lost."""

    def __init__(self, number: int, ports: list[int], keys: int, atomic: bool, ledger: Ledger) -> None:
        self._number = number
        self._ports = ports
        self._keys = keys
        self._ledger = ledger
        self._random = random.Random(number)
        self._elements = 0
        self._seen: dict[str, int] = {}  # by key, on this connection
        self.stopping = False
        self._writes: list[Callable[[Client], Awaitable[None]]] = [
            self._count,
            self._push,
            self._take,
            self._swap,
            self._together if atomic else self._twice,
        ]

    async def run(self) -> None:
        while not self.stopping:
            self._seen = {}
            try:
                async with await Client.connect(self._random.choice(self._ports)) as client:
                    while not self.stopping:
                        await self._random.choice(self._writes)(client)
                        for _ in range(READS):
                            await self._read(client)
            except (OSError, TimeoutError):
                await asyncio.sleep(0.02)

    def _key(self, kind: str) -> str:
        return f"{kind}:{self._random.randrange(self._random.choice((HOT, self._keys)))}"

    def _element(self) -> bytes:
        self._elements += 1
        return b"%d-%d" % (self._number, self._elements)

    async def _ask(self, client: Client, *commands: tuple[str | bytes | int, ...]) -> Any:
        """The last reply, or the first error."""
        replies = await client.pipeline(commands)
        last = replies[-1]
        for reply in [*replies, *(last if isinstance(last, list) else [])]:
            if isinstance(reply, hiredis.ReplyError):
                await asyncio.sleep(PAUSE_FAILED)
                return reply
        return last

    def _see(self, key: str, value: int, least: int = 0) -> None:
        before = self._seen.get(key, 0)
        if value < before + least:
            self._ledger.broken.append(f"{key} went from {before} back to {value} on one connection")
        self._seen[key] = value

    async def _read(self, client: Client) -> None:
        kind = self._random.choice("cl")
        key = self._key(kind)
        reply = await self._ask(client, ("GET" if kind == "c" else "LLEN", key))
        if not isinstance(reply, hiredis.ReplyError):
            self._ledger.reads += 1
            self._see(key, int(reply or 0))

    async def _count(self, client: Client) -> None:
        key = self._key("c")
        await self._increment(client, key, 1, ("INCR", key))
        if self._random.random() < 0.1:
            await self._ask(client, ("EXPIRE", key, 100_000 + self._random.randrange(1000)))

    async def _twice(self, client: Client) -> None:
        key = self._key("c")
        await self._increment(client, key, 2, ("MULTI",), ("INCR", key), ("INCR", key), ("EXEC",))

    async def _swap(self, client: Client) -> None:
        key = self._key("c")
        before = await self._ask(client, ("WATCH", key), ("GET", key))
        if isinstance(before, hiredis.ReplyError):
            await self._ask(client, ("UNWATCH",))
            return
        after = int(before or 0) + 1
        await self._increment(client, key, 1, ("MULTI",), ("SET", key, after), ("GET", key), ("EXEC",))

    async def _increment(
        self, client: Client, key: str, by: int, *commands: tuple[str | bytes | int, ...]
    ) -> None:
        ledger = self._ledger
        try:
            reply = await self._ask(client, *commands)
        except (OSError, TimeoutError):
            ledger.failed(None)
            ledger.maybe_counted[key] += by
            raise
        if isinstance(reply, hiredis.ReplyError):
            ledger.maybe_counted[key] += by * ledger.failed(reply)
        elif reply is not None:  # else another has written what was watched
            ledger.counted[key] += by
            ledger.acknowledged["INCR" if len(commands) == 1 else f"{len(commands) - 2} in MULTI"] += 1
            self._see(key, int(reply[-1] if isinstance(reply, list) else reply), by)

    async def _push(self, client: Client) -> None:
        key = self._key(self._random.choice("lq"))
        await self._append(client, key, "", ("RPUSH", key, b""))

    async def _together(self, client: Client) -> None:
        key, counter = self._key("l"), self._key("c")
        await self._append(
            client, key, counter, ("MULTI",), ("INCR", counter), ("RPUSH", key, b""), ("EXEC",)
        )

    async def _append(
        self, client: Client, key: str, counter: str, *commands: tuple[str | bytes | int, ...]
    ) -> None:
        ledger = self._ledger
        element = self._element()
        commands = tuple([(*c[:-1], element) if c[0] == "RPUSH" else c for c in commands])
        try:
            reply = await self._ask(client, *commands)
        except (OSError, TimeoutError):
            ledger.failed(None)
            ledger.maybe_pushed.setdefault(key, set()).add(element)
            ledger.maybe_counted[counter] += 1
            raise
        if isinstance(reply, hiredis.ReplyError):
            if ledger.failed(reply):
                ledger.maybe_pushed.setdefault(key, set()).add(element)
                ledger.maybe_counted[counter] += 1
            return
        ledger.pushed.setdefault(key, set()).add(element)
        ledger.acknowledged["MULTI of two keys" if counter else "RPUSH"] += 1
        if counter:
            ledger.counted[counter] += 1
            self._see(counter, reply[0], 1)
        if key[0] == "l":
            self._see(key, reply[1] if counter else reply, 1)

    async def _take(self, client: Client) -> None:
        key = self._key("q")
        ledger = self._ledger
        try:
            reply = await self._ask(client, ("LPOP", key))
        except (OSError, TimeoutError):
            ledger.failed(None)
            ledger.maybe_taken[key] += 1
            raise
        if isinstance(reply, hiredis.ReplyError):
            ledger.maybe_taken[key] += ledger.failed(reply)
        elif reply is not None:
            ledger.acknowledged["LPOP"] += 1
            ledger.taken[reply] += 1
            if ledger.taken[reply] > 1:
                ledger.broken.append(f"{reply!r} was taken twice out of {key}")


class Proxies:
    """Three proxies, each behind a relay that can cut its clients off."""

    def __init__(self, stack: ExitStack, make: MakeServer, store_port: int) -> None:
        """``make`` gets the address, host and port, at which its proxy finds the store."""
        self.stores = [stack.enter_context(FaultProxy(store_port)) for _ in range(PROXIES)]
        self.servers = [stack.enter_context(make(f"127.0.0.1:{store.port}")) for store in self.stores]
        self.fronts = [stack.enter_context(FaultProxy(server.port)) for server in self.servers]
        self.kills = 0
        self.cuts = 0

    @property
    def ports(self) -> list[int]:
        return [front.port for front in self.fronts]

    async def torment(self, chance: random.Random, pause: float, over: asyncio.Event) -> None:
        """Kill one and start it again, cut one off from clients or from the store, until it is ``over``.

        ``pause`` is the mean time between two of these, in seconds.
        """
        starting: asyncio.Future[None] | None = None
        while not over.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(chance.uniform(0.4, 1.6) * pause):
                    await over.wait()
            victim = chance.randrange(PROXIES)
            if self.kills and chance.randrange(3):
                self.cuts += 1
                chance.choice([self.fronts, self.stores])[victim].cut()
            elif starting is None or starting.done():
                self.kills += 1
                self.servers[victim].kill()
                starting = asyncio.ensure_future(asyncio.to_thread(self.servers[victim].start, PATIENCE))
        if starting is not None:
            await starting


async def ordeal(
    proxies: Proxies, seconds: float, *, clients: int, keys: int, pause: float, atomic: bool
) -> Report:
    """``pause`` is that between two faults; ``atomic``: whether a transaction may have several keys."""
    ledger = Ledger()
    workers = [Worker(number, proxies.ports, keys, atomic, ledger) for number in range(clients)]
    running = [asyncio.ensure_future(worker.run()) for worker in workers]
    over = asyncio.Event()
    torment = asyncio.ensure_future(proxies.torment(random.Random(1), pause, over))
    started = time.monotonic()
    done, _ = await asyncio.wait([*running, torment], timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    elapsed = time.monotonic() - started
    for worker in workers:
        worker.stopping = True
    over.set()
    await asyncio.gather(torment, *running)
    if done:
        raise RuntimeError("a client has ended by itself")
    cached = 0
    for server in proxies.servers:
        async with await Client.connect(server.port) as client:
            await client.until_served("c:")
            stats: bytes = await client.ask("INFO", "tiers")
            cached += int(stats.partition(b"hits=")[2].partition(b",")[0] or 0)
    async with await Client.connect(proxies.servers[0].port) as client:
        await _verify(client, ledger, keys)
    if ledger.broken:
        for server in proxies.servers:
            print(f"--- log of {server}:\n{server.log_tail(limit=20_000)}")
    return Report(
        elapsed,
        ledger.acknowledged,
        ledger.unknown,
        ledger.refused,
        ledger.reads,
        cached,
        proxies.kills,
        proxies.cuts,
        ledger.broken,
    )


async def _verify(client: Client, ledger: Ledger, keys: int) -> None:
    pushed = set[bytes]().union(*ledger.pushed.values(), *ledger.maybe_pushed.values())
    ledger.broken += [
        f"{each!r} was taken, and never put there" for each in ledger.taken if each not in pushed
    ]
    for first in range(0, keys, AT_ONCE):
        numbers = range(first, min(first + AT_ONCE, keys))
        counts = await client.pipeline([("GET", f"c:{number}") for number in numbers])
        for number, count in zip(numbers, counts, strict=True):
            least = ledger.counted[f"c:{number}"]
            most = least + ledger.maybe_counted[f"c:{number}"]
            if not least <= int(count or 0) <= most:
                ledger.broken.append(f"c:{number} is {count!r}: {least} acknowledged, at most {most}")
        for kind in "lq":
            lists = await client.pipeline([("LRANGE", f"{kind}:{number}", 0, -1) for number in numbers])
            for number, elements in zip(numbers, lists, strict=True):
                _verify_elements(ledger, f"{kind}:{number}", elements)


def _verify_elements(ledger: Ledger, key: str, elements: list[bytes]) -> None:
    there = Counter(elements)
    must, may = ledger.pushed.get(key, set()), ledger.maybe_pushed.get(key, set())
    broken = ledger.broken
    broken += [f"{each!r} stands {times} times in {key}" for each, times in there.items() if times > 1]
    broken += [f"{each!r} in {key} was never put there" for each in there if each not in must | may]
    broken += [f"{each!r} in {key} was taken out before" for each in there if ledger.taken[each]]
    missing = [each for each in must if each not in there and not ledger.taken[each]]
    if len(missing) > ledger.maybe_taken[key]:
        broken += [f"of {missing} in {key} at most {ledger.maybe_taken[key]} may have been taken"]
