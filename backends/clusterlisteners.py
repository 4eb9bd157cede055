"""Connections to a cluster that listen.

What is published to a channel reaches every node, so one connection to any of them serves all.  A shard
channel's messages come from the node that has its slot, and changes of keys are told of by each node for its
own.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial

from backends.base import Invalidations, Message, StoreError, Subscriber, Subscription, Tracker
from backends.cluster import ClusterNode, RedisCluster

SHARD: bytes = b"ssubscribe"

log = logging.getLogger("redtier.cluster")


class ClusterSubscriber(Subscriber):
    def __init__(self, cluster: RedisCluster, message: Message) -> None:
        self._cluster = cluster
        self._message = message
        self._everywhere = cluster.roaming.subscriber(message)
        self._shards: dict[ClusterNode, Subscriber] = {}
        self._at: dict[Subscription, ClusterNode] = {}  # where a shard channel is subscribed to
        self._moving: set[asyncio.Task[None]] = set()
        cluster.told.append(self._moved)

    async def want(self, names: list[Subscription]) -> None:
        everywhere = [name for name in names if name.command != SHARD]
        if everywhere:
            await self._everywhere.want(everywhere)
        for name in names:
            if name.command == SHARD:
                await self._want_shard(name)

    async def _want_shard(self, name: Subscription) -> None:
        node = self._at[name] = self._cluster.node_of(name.name)
        subscriber = self._shards.get(node)
        if subscriber is None:
            subscriber = self._shards[node] = node.subscriber(self._message)
        await subscriber.want([name])

    def drop(self, name: Subscription) -> None:
        if name.command != SHARD:
            self._everywhere.drop(name)
        elif name in self._at:
            self._shards[self._at.pop(name)].drop(name)

    def _moved(self) -> None:
        """Slots may have: shard channels go with theirs."""
        for name, node in list(self._at.items()):
            if self._cluster.node_of(name.name) is not node:
                self._shards[node].drop(name)
                task = asyncio.create_task(self._move(name))
                self._moving.add(task)
                task.add_done_callback(self._moving.discard)

    async def _move(self, name: Subscription) -> None:
        try:
            await self._want_shard(name)
        except StoreError as error:
            log.warning(
                "backend '%s': no messages of shard channel %r: %s", self._cluster.name, name.name, error
            )

    async def close(self) -> None:
        self._cluster.told.remove(self._moved)
        for task in self._moving:
            task.cancel()
        await asyncio.gather(self._everywhere.close(), *(each.close() for each in self._shards.values()))


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
