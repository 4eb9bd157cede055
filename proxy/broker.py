"""Who is subscribed to what, and how a message reaches them: pub/sub within this server.

Channels, patterns and shard channels are three name spaces, as in Redis
(https://redis.io/docs/latest/develop/interact/pubsub/).  A message is encoded once for each protocol version
and goes into each subscriber's output at once, between replies.
"""

from __future__ import annotations

from typing import Final

from proxy.glob import Glob
from proxy.resp import Push, Raw, Reply, encode_reply
from proxy.session import Session, Subscriptions

CHANNEL: Final = 0
PATTERN: Final = 1
SHARD: Final = 2

_SUBSCRIBED: Final = (b"subscribe", b"psubscribe", b"ssubscribe")
_UNSUBSCRIBED: Final = (b"unsubscribe", b"punsubscribe", b"sunsubscribe")
_MESSAGE: Final = (b"message", b"pmessage", b"smessage")

Members = dict[Session, None]
"""Sessions in the order in which they came."""


class Broker:
    """All subscriptions."""

    def __init__(self) -> None:
        self._members: list[dict[bytes, Members]] = [{}, {}, {}]  # by kind, then name
        self._globs: dict[bytes, Glob] = {}

    # Subscribing

    def subscribe(self, session: Session, kind: int, names: list[bytes]) -> Reply:
        """Add a session to channels or patterns; the reply is a push for each."""
        if session.subscriptions is None:
            session.subscriptions = Subscriptions()
        frames = []
        for name in names:
            session.subscriptions.names[kind].setdefault(name)
            self._members[kind].setdefault(name, {}).setdefault(session)
            if kind == PATTERN and name not in self._globs:
                self._globs[name] = Glob(name)
            frames.append(_note(session, _SUBSCRIBED[kind], name, kind))
        session.regate()
        return Raw(b"".join(frames))

    def unsubscribe(self, session: Session, kind: int, names: list[bytes]) -> Reply:
        """Take a session from channels or patterns, or from all; the reply is a push for each."""
        mine = session.subscriptions.names[kind] if session.subscriptions is not None else {}
        frames = []
        for name in names or list(mine):
            if name in mine:
                del mine[name]
                self._leave(session, kind, name)
            frames.append(_note(session, _UNSUBSCRIBED[kind], name, kind))
        if not frames:
            frames.append(_note(session, _UNSUBSCRIBED[kind], None, kind))
        if session.subscriptions is not None and not any(session.subscriptions.names):
            session.subscriptions = None
        session.regate()
        return Raw(b"".join(frames))

    def forget(self, session: Session) -> None:
        """The session is gone, or begins anew."""
        if session.subscriptions is not None:
            for kind, names in enumerate(session.subscriptions.names):
                for name in names:
                    self._leave(session, kind, name)
            session.subscriptions = None

    def _leave(self, session: Session, kind: int, name: bytes) -> None:
        members = self._members[kind][name]
        del members[session]
        if not members:
            del self._members[kind][name]
            if kind == PATTERN:
                del self._globs[name]

    # Publishing

    def publish(self, channel: bytes, message: bytes) -> int:
        """To all subscribers of a channel, and of the patterns that it fits; how many there were."""
        count = self.deliver(CHANNEL, channel, channel, message)
        for pattern, glob in list(self._globs.items()):
            if glob.matches(channel):
                count += self.deliver(PATTERN, pattern, channel, message)
        return count

    def receivers(self, channel: bytes) -> int:
        """How many ``publish`` would reach."""
        patterns = [pattern for pattern, glob in self._globs.items() if glob.matches(channel)]
        return self.count(CHANNEL, channel) + sum([self.count(PATTERN, pattern) for pattern in patterns])

    def deliver(self, kind: int, name: bytes, channel: bytes, message: bytes) -> int:
        """To the subscribers of one channel or pattern; how many there were."""
        members = self._members[kind].get(name)
        if members is None:
            return 0
        items: list[Reply] = [_MESSAGE[kind], channel, message]
        if kind == PATTERN:
            items.insert(1, name)
        push = Push(items)
        wires: dict[int, bytes] = {}
        for session in list(members):
            wire = wires.get(session.proto)
            if wire is None:
                wire = wires[session.proto] = encode_reply(push, session.proto)
            session.push_behind(wire)
        return len(members)

    # What is asked of it

    def names(self, kind: int) -> list[bytes]:
        """Channels or patterns that somebody is subscribed to."""
        return list(self._members[kind])

    def count(self, kind: int, name: bytes) -> int:
        return len(self._members[kind].get(name, ()))


def _note(session: Session, what: bytes, name: bytes | None, kind: int) -> bytes:
    """That a session was subscribed, or no longer is; with how many subscriptions it has."""
    mine = session.subscriptions
    count = 0
    if mine is not None:
        counted = (SHARD,) if kind == SHARD else (CHANNEL, PATTERN)
        count = sum([len(mine.names[each]) for each in counted])
    return encode_reply(Push([what, name, count]), session.proto)
