"""Keyspace notifications: what happens to keys, published on channels of their own.

``notify-keyspace-events`` chooses classes of events and the channels, as in Redis
(https://redis.io/docs/latest/develop/use/keyspace-notifications/).  Keys of a Redis route are that Redis'
affair.  Classes ``m`` (a key was missed) and ``n`` (a key is new) are not told of here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

KEYSPACE: Final = "K"
KEYEVENT: Final = "E"
CLASSES: Final = {
    "g": "del expire rename_from rename_to persist copy_to move_from move_to restore",
    "$": "set setrange incrby incrbyfloat append setbit",
    "l": "lpush rpush lpop rpop linsert lset lrem ltrim sortstore",
    "s": "sadd srem spop sinterstore sunionstore sdiffstore",
    "h": "hset hincrby hincrbyfloat hdel hexpire hpersist hexpired",
    "z": "zadd zincr zrem zremrangebyscore zremrangebyrank zremrangebylex zpopmin zpopmax zunionstore "
    "zinterstore zdiffstore zrangestore geosearchstore georadiusstore",
    "x": "expired",
    "e": "evicted",
    "t": "xadd xtrim xdel xsetid xgroup-create xgroup-setid xgroup-destroy xgroup-createconsumer "
    "xgroup-delconsumer",
    "d": "",  # of modules
}
"""Events by their class, in the order in which Redis lists the classes."""

CLASS_OF: Final = {event: letter for letter, events in CLASSES.items() for event in events.split()}
CLASS_OF["pfadd"] = "$"

Publish = Callable[[bytes, bytes], object]


class Notifications:
    """Which events are published; ``publish`` takes a channel and a message."""

    def __init__(self, publish: Publish) -> None:
        self._publish = publish
        self._wanted: frozenset[str] = frozenset()

    @property
    def flags(self) -> str:
        """The setting, in Redis' order of the letters."""
        wanted = self._wanted
        classes = "A" if wanted.issuperset(CLASSES) else "".join(each for each in CLASSES if each in wanted)
        return classes + "".join(each for each in (KEYSPACE, KEYEVENT) if each in wanted)

    @property
    def listening(self) -> bool:
        """Whether any event is published."""
        return not self._wanted.isdisjoint((KEYSPACE, KEYEVENT)) and not self._wanted.isdisjoint(CLASSES)

    def choose(self, flags: str) -> None:
        """Take a new setting, one that ``parse`` has accepted."""
        self._wanted = parse(flags)

    def event(self, db: int, name: str, key: bytes) -> None:
        wanted = self._wanted
        if CLASS_OF.get(name) not in wanted:
            return
        if KEYSPACE in wanted:
            self._publish(b"__keyspace@%d__:%b" % (db, key), name.encode())
        if KEYEVENT in wanted:
            self._publish(b"__keyevent@%d__:%b" % (db, name.encode()), key)


def parse(flags: str) -> frozenset[str]:
    """The letters of a setting; raises ValueError, in Redis' words where it refuses them too."""
    wanted = set(flags)
    if not wanted.issubset([*CLASSES, KEYSPACE, KEYEVENT, "A", "m", "n"]):
        raise ValueError("Invalid event class character. Use 'Ag$lshzxeKEtmdn'.")
    if not wanted.isdisjoint("mn"):
        raise ValueError("keys that are missed (m) or new (n) are not told of here")
    if "A" in wanted:
        wanted.update(CLASSES)
    return frozenset(wanted - {"A"})
