"""The replicas of a Redis, for routes that may read from them.

The primary is asked for them again and again: it knows who follows it, and how long it has not heard of each.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final, NamedTuple

from backends.base import Counters, StoreError, Upstream, total
from backends.redis import RedisUpstream
from proxy.errors import CommandError

POLL: Final = 0.5  # seconds
NONE: Final = Counters(*[0] * len(Counters._fields))

log: Final = logging.getLogger("redtier.upstream")


class Follower(NamedTuple):
    """A replica as its primary sees it; ``lag`` is how long it has not been heard of, in seconds."""

    address: str
    online: bool
    lag: int


class Replicas:
    """Keeps ``usable`` to the replicas of ``primary`` that are there and at most ``lag_max`` ms behind.

    What a primary that gives no answer said last goes on to hold, and ages: nobody knows then how far behind
    its replicas are.
    """

    def __init__(
        self,
        primary: RedisUpstream,
        lag_max: int,
        usable: list[Upstream],
        make: Callable[[str], RedisUpstream],
    ) -> None:
        self._primary = primary
        self._lag_max = lag_max / 1000
        self._usable = usable
        self._make = make
        self._known: dict[str, RedisUpstream] = {}
        self._past = NONE  # of those that are gone
        self._followers: list[Follower] = []
        self._told_at = 0.0
        self._polling = asyncio.get_running_loop().create_task(self._poll())
        self._closing: set[asyncio.Task[None]] = set()

    def counters(self) -> Counters:
        """Of all, those that are gone included."""
        return total([self._past, *(replica.counters() for replica in self._known.values())])

    async def close(self) -> None:
        self._polling.cancel()
        await asyncio.gather(self._polling, return_exceptions=True)
        await asyncio.gather(*(replica.close() for replica in self._known.values()), *self._closing)

    async def _poll(self) -> None:
        asking = asyncio.create_task(self._ask())
        try:
            while True:
                await asyncio.wait([asking], timeout=POLL)
                self.choose()
                if asking.done():
                    await asyncio.sleep(POLL)
                    asking = asyncio.create_task(self._ask())
        finally:
            asking.cancel()

    async def _ask(self) -> None:
        try:
            reply = await self._primary.call(0, [b"INFO", b"replication"])
            assert isinstance(reply, bytes)
            self._followers = parse_followers(reply.decode("utf-8", "replace"))
        except (StoreError, CommandError, ValueError, KeyError) as error:
            log.debug("backend '%s': replicas are not told of: %s", self._primary.name, error)
            return
        self._told_at = asyncio.get_running_loop().time()
        addresses = {follower.address for follower in self._followers}
        for address in addresses.difference(self._known):
            replica = self._known[address] = self._make(address)
            replica.lost = self.choose
            replica.lane(0, 2)  # which connects
        for address in set(self._known).difference(addresses):
            replica = self._known.pop(address)
            replica.leave("it is no replica any more")
            task = asyncio.create_task(replica.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
            self._past = total([self._past, replica.counters()])

    def choose(self) -> None:
        """Leave out who is away or lags, and let in who is back."""
        age = asyncio.get_running_loop().time() - self._told_at
        self._usable[:] = [
            self._known[each.address]
            for each in self._followers
            if each.online and each.lag + age <= self._lag_max and self._known[each.address].state == "up"
        ]


def parse_followers(text: str) -> list[Follower]:
    """From what ``INFO replication`` answers, in the order of their addresses."""
    followers = []
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.startswith("slave") and name[5:].isdigit():
            facts = dict(fact.partition("=")[::2] for fact in value.split(","))
            host = f"[{facts['ip']}]" if ":" in facts["ip"] else facts["ip"]
            followers.append(
                Follower(f"{host}:{facts['port']}", facts["state"] == "online", int(facts["lag"]))
            )
    return sorted(followers)
