"""A Redis Cluster as one upstream: its nodes, and which of them has which slots.

What is known comes from two sides.  A node that is asked for a slot which it has not says so, and is believed
at once (``backends.clusterlanes``).  And some node is asked all the time how it sees the cluster
(``backends.clusterview``): so a failover is seen that no request runs into, and the new primary is found
where the old one answers nothing.

Order holds by slot: the nodes work side by side, and whatever is sent for one slot is executed in the order
in which it was sent, also when the slot moves (``NodeLane``).

Durations are milliseconds, sizes bytes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, cast

from backends.base import (
    ClusterUpstream,
    Counters,
    Dedicated,
    Invalidations,
    Message,
    Redirect,
    StoreError,
    Subscriber,
    Tracker,
    Upstream,
    total,
)
from backends.clusterlanes import ASK, NodeLane, Piece, Redirects, redirect_in, redirect_to
from backends.clusterview import Member, parse_nodes
from backends.lanes import RedisLane, RefusingLane
from backends.redis import RedisDedicated, RedisUpstream, user_part
from backends.replicas import NONE
from backends.topology import Cluster, Endpoint, Topology, parse_url
from proxy.errors import CommandError, one_database
from proxy.resp import Argv
from proxy.slots import SLOTS, key_slot

POLL: Final = 0.25  # seconds between questions
POLL_MIN: Final = 0.05  # where something is known to have changed
GRACE: Final = 0.25  # seconds for an answer before another node is asked besides

log: Final = logging.getLogger("redtier.cluster")


class ClusterNode(RedisUpstream):
    """One server of a cluster, at ``address`` (host:port)."""

    def __init__(
        self,
        name: str,
        url: str,
        address: str,
        redirects: Redirects,
        follows: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(name, url, **options)
        self._follows = follows  # is read from, as the replica of another one
        self.address = address
        endpoint = parse_url(url)
        assert isinstance(endpoint, Endpoint)
        self.endpoint = endpoint
        self.asked_at = 0.0  # for its view, in seconds of the loop's clock
        self._redirects = redirects
        self._reply_max = options["reply_max"]

    def replica(self, address: str) -> ClusterNode:
        url = f"{self._scheme}{user_part(self._user)}{address}"
        options = {"password": self._password, **self._shared}
        return ClusterNode(self.name, url, address, self._redirects, True, **options)

    def greeting(self, db: int, proto: int) -> list[Argv]:
        greeting = super().greeting(db, proto)
        return [*greeting, [b"READONLY"]] if self._follows else greeting

    def new_lane(self, db: int, proto: int) -> NodeLane:
        call_soon = asyncio.get_running_loop().call_soon
        return NodeLane(self, self._reply_max, call_soon, proto, self._redirects)

    def lane(self, db: int, proto: int) -> RedisLane:
        if not db:
            return super().lane(db, proto)
        return RefusingLane(self, asyncio.get_running_loop().call_soon, one_database(self.name))

    def node_lane(self, proto: int) -> NodeLane:
        lane = super().lane(0, proto)
        assert isinstance(lane, NodeLane)
        return lane

    async def dedicated(self, db: int, proto: int, patient: bool) -> RedisDedicated:
        if db:
            raise one_database(self.name)
        return await super().dedicated(db, proto, patient)

    @property
    def node_lanes(self) -> list[NodeLane]:
        return [lane for lane in self._lanes.values() if isinstance(lane, NodeLane)]


class AnyNode(Topology):
    """Whichever node of a cluster is there."""

    moves = False

    def __init__(self, cluster: RedisCluster) -> None:
        self._cluster = cluster

    def __str__(self) -> str:
        return self._cluster.any().address

    async def primary(self) -> Endpoint:
        return self._cluster.any().endpoint

    async def close(self) -> None:
        pass


class NodeAnswers(Redirects):
    """Has a cluster hear what its nodes say of each other."""

    def __init__(self, cluster: RedisCluster, patience: int) -> None:
        self.patience = patience
        self._cluster = cluster

    def moved(self, slot: int, address: str, lane: NodeLane) -> NodeLane | None:
        node = self._cluster.named(address, lane.node)
        if node is None:
            return None
        self._cluster.moved(slot, node)
        return node.node_lane(lane.proto)

    def asked(self, address: str, lane: NodeLane) -> NodeLane | None:
        node = self._cluster.named(address, lane.node)
        return None if node is None else node.node_lane(lane.proto)

    def later(self, ms: int, piece: Piece) -> None:
        asyncio.get_running_loop().call_later(ms / 1000, piece.again)


class RedisCluster(ClusterUpstream):
    """The cluster that the servers of ``target`` belong to; ``options`` are each ``RedisUpstream``'s."""

    def __init__(self, name: str, target: Cluster, *, password: str = "", **options: Any) -> None:
        self.name = name
        self.in_flight = 0
        self._answers = NodeAnswers(self, options["timeout"])
        self._failovers = 0
        self._replicas_wanted = False
        self.replicas = []  # they are the nodes'
        # Called when the nodes have changed, or which slots they have.
        self.told: list[Callable[[], None]] = []
        self._scheme = "rediss://" if target.tls else "redis://"
        self._user = user_part(target.user)
        self._options = {**options, "password": password or target.password}
        self._seeds = target.seeds
        self._known: dict[str, ClusterNode] = {}
        self._names: dict[str, ClusterNode] = {}  # all that nodes are called, as far as some have told
        for seed in target.seeds:
            self._node(seed)
        # Until it is known whose a slot is, any node says so.
        self._owners: list[ClusterNode] = [self._node(target.seeds[0])] * SLOTS
        self.nodes = [self._node(target.seeds[0])]  # those that have slots
        super().__init__(
            cast(list[Upstream], self._owners), cast(list[Upstream], self.nodes), options["timeout"]
        )
        self._epochs = [-1] * SLOTS  # the configuration epoch that each owner had its slot in
        self._view: tuple[Member, ...] = ()  # as it was believed last
        self._seen = False  # whether any was
        # For what any node can do, each time another where need be.
        self.roaming = RedisUpstream(
            name, self._url(target.seeds[0]), topology=AnyNode(self), **self._options
        )
        self._past = NONE  # of nodes that the cluster has forgotten
        self._polling: asyncio.Task[None] | None = None
        self._asking: dict[ClusterNode, asyncio.Task[None]] = {}
        self._due = asyncio.Event()  # somebody should be asked at once
        self._prefer: ClusterNode | None = None
        self._closing: set[asyncio.Task[None]] = set()

    # The nodes

    def _node(self, address: str) -> ClusterNode:
        node = self._known.get(address)
        if node is None:
            node = ClusterNode(self.name, self._url(address), address, self._answers, **self._options)
            self._known[address] = node
        return node

    def _url(self, address: str) -> str:
        return f"{self._scheme}{self._user}{address}"

    def node_of(self, key: bytes) -> ClusterNode:
        return self._owners[key_slot(key)]

    def find_replicas(self) -> None:
        if not self._replicas_wanted:
            self._replicas_wanted = True
            self.told.append(self._find_replicas)
            self._find_replicas()

    def _find_replicas(self) -> None:
        for node in self.nodes:
            node.find_replicas()

    # What nodes say

    def moved(self, slot: int, node: ClusterNode) -> None:
        """A node says that another has the slot; whoever is asked next confirms it, or knows better."""
        before = self._owners[slot]
        if before is not node:
            self._owners[slot] = node
            if node not in self.nodes:
                self.nodes.append(node)
            self._view = ()  # what is told next is looked at, even if it is what was told last
            self._hand_over({(before, node): {slot}})
            self._prefer = node
            self._due.set()

    def address(self, server: Upstream) -> str:
        assert isinstance(server, ClusterNode)
        return server.address

    def redirect(self, server: Upstream, error: bytes) -> Redirect | None:
        redirect = redirect_in(error, False)
        if not redirect or redirect.startswith(b"-TRYAGAIN"):
            return None
        slot, address = redirect_to(redirect)
        node = self.named(address, server)
        if node is None or slot >= SLOTS:
            return None
        if redirect.startswith(ASK):
            return Redirect(node, True)
        self.moved(slot, node)
        return Redirect(node, False)

    def named(self, address: str, by: Upstream) -> ClusterNode | None:
        """The node that another one calls so; None where none has told of it: then it is asked for."""
        host, _, port = address.rpartition(":")
        if host in ("", "?"):  # it does not know what it is called: as we call it
            assert isinstance(by, ClusterNode)
            host = by.address.rpartition(":")[0]
        elif ":" in host and not host.startswith("["):
            host = f"[{host}]"
        node = self._names.get(f"{host}:{port}")
        if node is None:
            self._due.set()
        return node

    def _hand_over(self, moved: dict[tuple[ClusterNode, ClusterNode], set[int]]) -> None:
        """Slots have moved, from the first of each pair to the second."""
        for (before, now), slots in moved.items():
            for lane in before.node_lanes:
                now.node_lane(lane.proto).follow(lane, slots)
        self._tell()

    def _tell(self) -> None:
        for told in self.told:
            told()

    # What they are asked

    async def _poll(self) -> None:
        while True:
            try:
                await self._ask_any()
            except Exception:  # an answer that is none; without the next question nothing would be noticed
                log.exception("backend '%s': a node's view of the cluster", self.name)
            await asyncio.sleep(POLL_MIN)
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL - POLL_MIN):
                    await self._due.wait()
            self._due.clear()

    async def _ask_any(self) -> str:
        """Have one node say how it sees the cluster, others besides where it does not; why none has."""
        nodes = [node for node in self._members() if node not in self._asking]
        # Whoever may know more first, and whoever is known to be away last.
        nodes.sort(key=lambda node: (node is not self._prefer, node.state != "up", node.asked_at))
        self._prefer = None
        asked: list[asyncio.Task[None]] = []
        trouble = ""
        for node in dict.fromkeys(nodes):
            asked.append(self._ask(node))
            done, _ = await asyncio.wait(asked, timeout=GRACE, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                asked.remove(task)
                if not task.exception():
                    return ""
                trouble = trouble or str(task.exception())
        for answer in asyncio.as_completed(asked):
            try:
                await answer
            except StoreError as error:
                trouble = trouble or str(error)
            else:
                return ""
        return trouble

    def _members(self) -> list[ClusterNode]:
        """Whom to ask: seeds only until a node has answered, since they may have gone to another cluster."""
        if not self._seen or not any(node.state == "up" for node in self.nodes):
            return [*self._known.values()]
        told = [self._known[member.address] for member in self._view if member.address in self._known]
        return [*self.nodes, *told]

    def _ask(self, node: ClusterNode) -> asyncio.Task[None]:
        task = asyncio.create_task(self._take_view(node))
        self._asking[node] = task

        def done(task: asyncio.Task[None]) -> None:
            del self._asking[node]
            if not task.cancelled():
                task.exception()  # nobody may be waiting for it any more

        task.add_done_callback(done)
        return task

    async def _take_view(self, node: ClusterNode) -> None:
        """Ask a node how it sees the cluster; raises StoreError."""
        node.asked_at = asyncio.get_running_loop().time()
        try:
            reply = await node.call(0, [b"CLUSTER", b"NODES"])
        except CommandError as error:
            raise StoreError(f"{node.address} answers: {error.text}") from None
        assert isinstance(reply, bytes)
        try:
            members = parse_nodes(reply.decode(), node.address, self._scheme == "rediss://")
        except ValueError:
            raise StoreError(f"{node.address} answers what no node of a cluster should") from None
        if members != self._view:
            self._believe(members)

    def _believe(self, members: tuple[Member, ...]) -> None:
        """Take over what is newer than what is known."""
        self._view = members
        known = {member.address for member in members}
        for member in members:
            node = self._node(member.address)
            self._names.update(dict.fromkeys(member.names, node))
        moved: dict[tuple[ClusterNode, ClusterNode], set[int]] = {}
        # What the view knows of each node: nothing later than this epoch.
        upto = {self._node(member.address): member.epoch for member in members if not member.failed}
        for member in members:
            node = self._node(member.address)
            for slot in (slot for each in member.slots for slot in each):
                before = self._owners[slot]
                known_epoch = self._epochs[slot]
                if member.epoch >= known_epoch or upto.get(before, known_epoch) >= known_epoch:
                    if before is not node:
                        moved.setdefault((before, node), set()).add(slot)
                        self._owners[slot] = node
                    self._epochs[slot] = member.epoch
        before_it, self.nodes[:] = self.nodes.copy(), dict.fromkeys(self._owners)
        if self._seen:
            self._failovers += sum(before not in self.nodes for before, _ in moved)
        self._seen = True
        for member in members:
            node = self._node(member.address)
            if member.failed and node not in self.nodes:  # what it owes will not come, others have its slots
                node.leave("the cluster has given it up")
        if moved:
            self._hand_over(moved)
        elif before_it != self.nodes:
            self._tell()
        for node in before_it:
            if node not in self.nodes:
                self.roaming.leave(f"{node.address} has no keys any more", node.endpoint)
        for address, node in list(self._known.items()):
            if address not in known and address not in self._seeds and node not in self.nodes:
                del self._known[address]
                self._names = {name: each for name, each in self._names.items() if each is not node}
                node.leave("the cluster has forgotten it")
                self._close_later(node)

    # The contract

    async def open(self) -> None:
        trouble = await self._ask_any()
        if self._polling is None:
            self._polling = asyncio.create_task(self._poll())
        if trouble:
            raise StoreError(trouble)

    async def close(self) -> None:
        if self._polling is not None:
            self._polling.cancel()
            await asyncio.gather(self._polling, return_exceptions=True)
        for task in self._asking.values():
            task.cancel()
        nodes = [*self._known.values(), self.roaming]
        await asyncio.gather(*(node.close() for node in nodes), *self._closing, return_exceptions=True)

    def _close_later(self, node: ClusterNode) -> None:
        """The cluster has forgotten it."""
        self._past = total([self._past, node.counters()])
        task = asyncio.create_task(node.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def ping(self) -> None:
        await asyncio.gather(*(node.ping() for node in self.nodes))

    def any(self) -> ClusterNode:
        """A node for what concerns no key, or all: the first of those that are there."""
        primaries = self.nodes
        return next((node for node in primaries if node.state == "up"), primaries[0])

    def lane(self, db: int, proto: int) -> RedisLane:
        return self.any().lane(db, proto)

    async def dedicated(self, db: int, proto: int, patient: bool) -> Dedicated:
        return await self.any().dedicated(db, proto, patient)

    async def call(self, db: int, argv: Argv) -> object:
        return await self.any().call(db, argv)

    def subscriber(self, message: Message) -> Subscriber:
        from backends.clusterlisteners import ClusterSubscriber

        return ClusterSubscriber(self, message)

    def tracker(self, prefixes: list[bytes], told: Invalidations) -> Tracker:
        from backends.clusterlisteners import ClusterTracker

        return ClusterTracker(self, prefixes, told)

    @property
    def state(self) -> str:
        """``up``, or the state of the first node with slots that is not."""
        return next((node.state for node in self.nodes if node.state != "up"), "up")

    def breaker(self) -> str:
        states = {node.breaker() for node in self.nodes}
        return next(state for state in ("open", "half-open", "closed") if state in states)

    def occupied(self) -> int:
        return sum(node.occupied() for node in self._known.values())

    def counters(self) -> Counters:
        each = total([self._past, *(node.counters() for node in self._known.values())])
        return each._replace(failovers=self._failovers)
