"""One connection to a Redis on which it tells of every change of the keys that are of interest.

``CLIENT TRACKING ON BCAST`` with the prefixes of these keys, in RESP3, so that it needs no second connection
(https://redis.io/docs/latest/develop/reference/client-side-caching/).  What is told counts as complete only
while the Redis answers a ``PING`` in time: a connection that is half open tells nothing, for ever.
"""

from __future__ import annotations

import asyncio
import logging

from hiredis import PushNotification

from backends.base import Invalidations, Tracker
from backends.redis import RedisUpstream
from backends.redis_listener import Listener
from proxy.resp import Argv

log = logging.getLogger("redtier.tracker")


class RedisTracker(Tracker):
    """Keeps such a connection; see ``Upstream.tracker``."""

    def __init__(
        self, upstream: RedisUpstream, prefixes: list[bytes], heartbeat: int, told: Invalidations
    ) -> None:
        self._upstream = upstream
        self._heartbeat = heartbeat
        self._told = told
        self._tracking: Argv = [b"CLIENT", b"TRACKING", b"ON", b"BCAST"]
        for prefix in prefixes:
            if prefix:  # the empty one is all keys, which is what none stands for
                self._tracking += [b"PREFIX", prefix]
        self._keeper = asyncio.get_running_loop().create_task(self._keep())

    async def close(self) -> None:
        self._keeper.cancel()
        await asyncio.gather(self._keeper, return_exceptions=True)

    async def _keep(self) -> None:
        """Connect again and again, until cancelled."""
        upstream = self._upstream
        attempt = 0
        while True:
            link = _Link(upstream, [*upstream.greeting(0, 3), self._tracking], self._told)
            try:
                await upstream.reconnect(link, attempt)
                self._told.began()
                attempt = 0
                await link.watch(self._heartbeat / 1000)
            except Exception as error:
                if attempt == 0:  # it is tried again and again: once tells it
                    log.warning("backend '%s': nothing is cached: %s", upstream.name, upstream.reason(error))
            finally:
                link.close()
                self._told.ended()
            attempt += 1


class _Link(Listener):
    def __init__(self, upstream: RedisUpstream, greeting: list[Argv], told: Invalidations) -> None:
        super().__init__(upstream, greeting)
        self._told = told

    def take(self, reply: object) -> None:
        if isinstance(reply, PushNotification) and reply[0] == b"invalidate":
            self._told.changed(reply[1])
