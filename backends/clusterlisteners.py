"""Connections to a cluster that listen.

What is published to a channel reaches every node, so one connection to any of them serves all.  A shard
channel's messages come from the node that has its slot, and changes of keys are told of by each node for its
own.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final

from backends.base import Invalidations, Message, StoreError, Subscriber, Subscription, Tracker
from backends.cluster import ClusterNode, RedisCluster

SHARD: Final = b"ssubscribe"
FOLLOW_PAUSE: Final = 1.0  # seconds
NOTIFICATIONS: Final = b"__key"  # begins the channels of keyspace notifications

log: Final = logging.getLogger("redtier.cluster")


class ClusterSubscriber(Subscriber):
    def __init__(self, cluster: RedisCluster, message: Message) -> None:
        self._cluster = cluster
        self._message = message
        self._anywhere = cluster.roaming.subscriber(message)
        self._subscribers: dict[ClusterNode, Subscriber] = {}
        self._at: dict[Subscription, set[ClusterNode]] = {}  # for what not every node tells of
        self._moving: set[asyncio.Task[None]] = set()
        cluster.told.append(self._moved)

    def _nodes_for(self, name: Subscription) -> set[ClusterNode]:
        """Those that tell of it; empty: any."""
        if name.command == SHARD:
            return {self._cluster.node_of(name.name)}
        return set(self._cluster.nodes) if name.name.startswith(NOTIFICATIONS) else set()

    async def want(self, names: list[Subscription]) -> None:
        anywhere = [name for name in names if not self._nodes_for(name)]
        if anywhere:
            await self._anywhere.want(anywhere)
        for name in names:
            for node in self._nodes_for(name):
                await self._want_at(name, node)

    async def _want_at(self, name: Subscription, node: ClusterNode) -> None:
        self._at.setdefault(name, set()).add(node)
        subscriber = self._subscribers.get(node)
        if subscriber is None:
            subscriber = self._subscribers[node] = node.subscriber(self._message)
        await subscriber.want([name])

    def drop(self, name: Subscription) -> None:
        for node in self._at.pop(name, ()):
            self._drop_at(name, node)
        if not self._nodes_for(name):
            self._anywhere.drop(name)

    def _moved(self) -> None:
        """Slots may have: shard channels go with theirs."""
        for name, at in self._at.items():
            nodes = self._nodes_for(name)
            for node in at - nodes:
                self._drop_at(name, node)
            for node in nodes - at:
                self._begin(self._follow(name, node))
            self._at[name] = nodes
        used = set(self._cluster.nodes).union(*self._at.values())
        for node in set(self._subscribers) - used:
            self._begin(self._subscribers.pop(node).close())

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._moving.add(task)
        task.add_done_callback(self._moving.discard)

    def _drop_at(self, name: Subscription, node: ClusterNode) -> None:
        subscriber = self._subscribers.get(node)
        if subscriber is not None:  # else it is yet to be asked
            subscriber.drop(name)

    async def _follow(self, name: Subscription, node: ClusterNode) -> None:
        while node in self._at.get(name, ()):  # else it was dropped in the meantime, or went on
            try:
                await self._want_at(name, node)
                return
            except StoreError as error:
                log.warning("backend '%s': no messages of %r: %s", self._cluster.name, name.name, error)
                await asyncio.sleep(FOLLOW_PAUSE)

    async def close(self) -> None:
        self._cluster.told.remove(self._moved)
        for task in self._moving:
            task.cancel()
        subscribers = [self._anywhere, *self._subscribers.values()]
        await asyncio.gather(*(subscriber.close() for subscriber in subscribers))


class ClusterTracker(Tracker):
    """Changes are told of while every node that has keys tells of its own."""

    def __init__(self, cluster: RedisCluster, prefixes: list[bytes], told: Invalidations) -> None:
        self._cluster = cluster
        self._prefixes = prefixes
        self._told = told
        self._trackers: dict[ClusterNode, Tracker] = {}
        self._live: set[ClusterNode] = set()
        self._complete = False
        self._closing: set[asyncio.Task[None]] = set()
        cluster.told.append(self._moved)
        self._moved()

    def _moved(self) -> None:
        primaries = self._cluster.nodes
        for node in primaries:
            if node not in self._trackers:
                told = _NodeTold(self._told, partial(self._heard, node))
                self._trackers[node] = node.tracker(self._prefixes, told)
        for node in set(self._trackers).difference(primaries):
            self._live.discard(node)
            task = asyncio.create_task(self._trackers.pop(node).close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
        self._look()

    def _heard(self, node: ClusterNode, live: bool) -> None:
        if live and node in self._trackers:
            self._live.add(node)
        else:
            self._live.discard(node)
        self._look()

    def _look(self) -> None:
        complete = self._live.issuperset(self._trackers)
        if complete != self._complete:
            self._complete = complete
            if complete:
                self._told.began()
            else:
                self._told.ended()

    async def close(self) -> None:
        self._cluster.told.remove(self._moved)
        await asyncio.gather(*(tracker.close() for tracker in self._trackers.values()), *self._closing)


class _NodeTold(Invalidations):
    """What one node tells of."""

    def __init__(self, told: Invalidations, heard: Callable[[bool], None]) -> None:
        self._told = told
        self._heard = heard

    def began(self) -> None:
        self._heard(True)

    def changed(self, keys: list[bytes] | None) -> None:
        self._told.changed(keys)

    def ended(self) -> None:
        self._heard(False)
