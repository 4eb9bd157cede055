"""One connection to a Redis on which it tells of every change of the keys that are of interest.

``CLIENT TRACKING ON BCAST`` with the prefixes of these keys, in RESP3, so that it needs no second connection
(https://redis.io/docs/latest/develop/reference/client-side-caching/).  What is told counts as complete only
while the Redis answers a ``PING`` in time: a connection that is half open tells nothing, for ever.
"""

from __future__ import annotations

from hiredis import PushNotification

from backends.base import Invalidations, Tracker
from backends.redis import RedisUpstream
from backends.redis_listener import Keeper, Listener
from proxy.resp import Argv


class RedisTracker(Keeper, Tracker):
    """Keeps such a connection; see ``Upstream.tracker``.  ``heartbeat`` is in ms."""

    def __init__(
        self, upstream: RedisUpstream, prefixes: list[bytes], heartbeat: int, told: Invalidations
    ) -> None:
        super().__init__(upstream, heartbeat / 1000, "nothing is cached")
        self._told = told
        self._tracking: Argv = [b"CLIENT", b"TRACKING", b"ON", b"BCAST"]
        for prefix in prefixes:
            if prefix:  # the empty one is all keys, which is what none stands for
                self._tracking += [b"PREFIX", prefix]
        self.keep()

    def listener(self) -> Listener:
        return _Link(self.upstream, [*self.upstream.greeting(0, 3), self._tracking], self._told)

    def began(self, listener: Listener) -> None:
        self._told.began()

    def ended(self) -> None:
        self._told.ended()


class _Link(Listener):
    def __init__(self, upstream: RedisUpstream, greeting: list[Argv], told: Invalidations) -> None:
        super().__init__(upstream, greeting)
        self._told = told

    def take(self, reply: object) -> None:
        if isinstance(reply, PushNotification) and reply[0] == b"invalidate":
            self._told.changed(reply[1])
