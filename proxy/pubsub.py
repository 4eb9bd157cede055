"""Pub/sub over all backends: channels are routed by their names, as keys are.

A channel whose prefix leads to a Redis is that Redis' own: what is published there goes to it, and one
subscription there serves all of our clients.  Every other channel is the local broker's.  A pattern listens
wherever a channel that fits it may be.  Keyspace notifications have channels of their own
(``__keyspace@0__:…``): those of every backend are listened to.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from backends.base import StoreError, Subscriber, Subscription
from proxy import errors
from proxy.broker import CHANNEL, PATTERN, SHARD, Broker
from proxy.errors import CommandError
from proxy.glob import Glob
from proxy.homes import UpstreamHome
from proxy.resp import Argv, Reply
from proxy.router import Router
from proxy.session import HELD_CLOSING, Deferred, Session

KINDS: Final = {b"": CHANNEL, b"p": PATTERN, b"s": SHARD}
"""By what goes before ``subscribe``, ``message`` …"""
COMMANDS: Final = (b"subscribe", b"psubscribe", b"ssubscribe")
NOTIFICATIONS: Final = b"__key"


class PubSub:
    """Subscriptions of all sessions, and what is published to them."""

    def __init__(self, router: Router, broker: Broker) -> None:
        self._router = router
        self.broker = broker
        self._subscribers: dict[UpstreamHome, Subscriber] = {}

    def subscribe(self, session: Session, command: bytes, names: list[bytes]) -> Reply:
        kind = KINDS[command[: -len(b"subscribe")]]
        wanted: dict[UpstreamHome, list[Subscription]] = {}
        for name in names:
            for home in self._homes(kind, name):
                wanted.setdefault(home, []).append(Subscription(command, name))
        if not wanted:
            return self.broker.subscribe(session, kind, names)
        return Deferred(lambda: self._subscribe(session, kind, names, wanted))

    async def _subscribe(
        self, session: Session, kind: int, names: list[bytes], wanted: dict[UpstreamHome, list[Subscription]]
    ) -> Reply:
        for home, each in wanted.items():
            try:
                await self._subscriber(home).want(each)
            except StoreError as error:
                self._drop_unwanted(kind, names)
                raise errors.backend_down(home.name, str(error)) from error
        if session.held & HELD_CLOSING:  # it has left in the meantime
            self._drop_unwanted(kind, names)
            raise CommandError(errors.INTERNAL)
        return self.broker.subscribe(session, kind, names)

    def unsubscribe(self, session: Session, command: bytes, names: list[bytes]) -> Reply:
        kind = KINDS[command[: -len(b"unsubscribe")]]
        if not names and session.subscriptions is not None:
            names = list(session.subscriptions.names[kind])
        reply = self.broker.unsubscribe(session, kind, names)
        self._drop_unwanted(kind, names)
        return reply

    def forget(self, session: Session) -> None:
        """The session is gone, or begins anew."""
        if session.subscriptions is not None:
            names = [list(each) for each in session.subscriptions.names]
            self.broker.forget(session)
            for kind, each in enumerate(names):
                self._drop_unwanted(kind, each)

    def _drop_unwanted(self, kind: int, names: list[bytes]) -> None:
        for name in names:
            if not self.broker.count(kind, name):
                for subscriber in self._subscribers.values():
                    subscriber.drop(Subscription(COMMANDS[kind], name))

    def publish(self, session: Session, command: bytes, channel: bytes, message: bytes) -> Reply:
        home = self._router.find(channel).home
        if isinstance(home, UpstreamHome):
            upstream = home
            return Deferred(lambda: upstream.call(session.db, [command, channel, message]))
        return self.publish_here(command, channel, message)

    def publish_here(self, command: bytes, channel: bytes, message: bytes) -> int:
        """To our own subscribers, of a channel that no Redis has; how many there were."""
        if command == b"spublish":
            return self.broker.deliver(SHARD, channel, channel, message)
        return self.broker.publish(channel, message)

    def receivers(self, command: bytes, channel: bytes) -> int:
        """How many a script's message will reach, of a channel that no Redis has; raises CommandError."""
        if isinstance(self._router.find(channel).home, UpstreamHome):
            raise errors.channel_elsewhere(channel)
        return self.broker.count(SHARD, channel) if command == b"spublish" else self.broker.receivers(channel)

    def deliver(self, shard: bool, channel: bytes, message: bytes) -> None:
        """A script's message."""
        self.publish_here(b"spublish" if shard else b"publish", channel, message)

    def pubsub(self, asked: bytes, names: list[bytes]) -> Reply:
        question = asked.lower()
        kind = SHARD if question.startswith(b"shard") else CHANNEL
        if question == b"numpat":
            return len(self.broker.names(PATTERN))
        if question.endswith(b"numsub"):
            return Deferred(lambda: self._count(kind, question, names))
        if len(names) > 1:
            raise errors.subcommand_syntax(asked, "pubsub")
        return Deferred(lambda: self._list(kind, question, names))

    async def _count(self, kind: int, question: bytes, names: list[bytes]) -> Reply:
        reply: list[Reply] = []
        for name in names:
            count = self.broker.count(kind, name)
            home = self._router.find(name).home
            if isinstance(home, UpstreamHome):
                count -= count > 0  # ours are one there
                for theirs in await self._ask(home, [b"PUBSUB", question, name]):
                    count += theirs[1]
            reply += [name, count]
        return reply

    async def _list(self, kind: int, question: bytes, patterns: list[bytes]) -> Reply:
        glob = Glob(patterns[0]) if patterns else None
        names = dict.fromkeys(name for name in self.broker.names(kind) if glob is None or glob.matches(name))
        for home in self._router.homes:
            if isinstance(home, UpstreamHome):
                for theirs in await self._ask(home, [b"PUBSUB", question, *patterns]):
                    names.update(
                        dict.fromkeys(name for name in theirs if self._router.find(name).home is home)
                    )
        return list(names)

    # Any: parsed replies, of the shape that the command has.
    async def _ask(self, home: UpstreamHome, argv: Argv) -> list[Any]:
        """The replies of every server of a backend: each knows its own subscribers."""
        return await asyncio.gather(*(server.call(0, argv) for server in home.servers))

    def _homes(self, kind: int, name: bytes) -> list[UpstreamHome]:
        """The Redis servers that may have messages for a channel or pattern."""
        homes = [home for home in self._router.homes if isinstance(home, UpstreamHome)]
        if kind != SHARD and name.startswith(NOTIFICATIONS):
            return homes
        if kind != PATTERN:
            return [home for home in homes if self._router.find(name).home is home]
        literal = Glob(name).prefix
        return [
            home
            for home in homes
            if self._router.find(literal).home is home
            or any(route.prefix.startswith(literal) for route in self._router.of_home(home))
        ]

    def _subscriber(self, home: UpstreamHome) -> Subscriber:
        subscriber = self._subscribers.get(home)
        if subscriber is None:

            def message(kind: bytes, name: bytes, channel: bytes, payload: bytes) -> None:
                # Of a pattern: channels of that Redis alone that route elsewhere are not its affair.
                if channel.startswith(NOTIFICATIONS) or self._router.find(channel).home is home:
                    self.broker.deliver(KINDS[kind[: -len(b"message")]], name, channel, payload)

            subscriber = self._subscribers[home] = home.upstream.subscriber(message)
        return subscriber

    async def close(self) -> None:
        await asyncio.gather(*(subscriber.close() for subscriber in self._subscribers.values()))
