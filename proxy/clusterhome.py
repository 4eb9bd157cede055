"""A Redis Cluster as commands see it: one backend, whose keys live on several servers."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from zlib import crc32

from backends.base import ClusterUpstream, Dedicated, KeyInfo, Lane, Upstream
from proxy.commands.spec import CommandSpec, InvalidKeys, key_positions, lookup
from proxy.homes import UpstreamHome
from proxy.nearreplies import NearReplies
from proxy.resp import Argv
from proxy.sealing import Sealing
from proxy.slots import key_slot


class ClusterHome(UpstreamHome):
    """A cluster; each of its servers is a home of its own, with lanes and bounds of its own.

    So one server that is slow holds back those alone who want something of it.
    """

    def __init__(
        self,
        upstream: ClusterUpstream,
        near: NearReplies | None,
        sealing: Sealing | None,
        flushable: bool,
        in_flight_max: int,
        in_flight_bytes_max: int,
        table: Mapping[bytes, CommandSpec],
    ) -> None:
        super().__init__(upstream, near, sealing, flushable, in_flight_max, in_flight_bytes_max)
        self.sharded = True
        self._cluster: ClusterUpstream = upstream
        self.patience = upstream.patience / 1000
        self._table: Mapping[bytes, CommandSpec] = table
        self._servers: dict[Upstream, UpstreamHome] = {}

    def _server(self, node: Upstream) -> UpstreamHome:
        server = self._servers.get(node)
        if server is None:
            bounds = (self.flushable, self.in_flight_max, self.in_flight_bytes_max)
            server = self._servers[node] = UpstreamHome(node, self.near, self.sealing, *bounds)
            server.overload = self.overload
            server.observation = self.observation
        return server

    def of(self, key: bytes) -> UpstreamHome:
        node = self._cluster.owners[key_slot(key)]
        return self._servers.get(node) or self._server(node)

    def of_request(self, spec: CommandSpec, argv: Argv) -> UpstreamHome:
        if spec.first_key:
            return self.of(argv[spec.first_key])
        try:
            positions = key_positions(spec, argv)
        except InvalidKeys:
            positions = []
        if positions:
            return self.of(argv[positions[0]])
        # A channel's messages keep their order; all servers pass on what is published to one.
        if spec.name in (b"publish", b"spublish"):
            return self.of(argv[1])
        return self._server(self._cluster.any())

    def redirect(self, server: UpstreamHome, error: bytes) -> tuple[UpstreamHome, bool] | None:
        redirect = self._cluster.redirect(server.upstream, error)
        return (self._server(redirect.server), redirect.asking) if redirect else None

    @property
    def servers(self) -> list[UpstreamHome]:
        servers = [self._server(node) for node in self._cluster.primaries]
        if len(self._servers) > 2 * len(servers):
            self._servers = {server.upstream: server for server in servers}
        return servers

    def step(self, key: bytes) -> object:
        return self, key_slot(key)

    @property
    def in_flight(self) -> int:
        return sum(server.in_flight for server in self._servers.values())

    @property
    def full(self) -> bool:
        return self.load.bytes >= self.in_flight_bytes_max or all(server.full for server in self.servers)

    # It has database 0 alone: the others are empty.

    async def walk(
        self, db: int, prefix: bytes, position: object, limit: int
    ) -> tuple[Sequence[KeyInfo], object]:
        """Server after server; a key whose slot moves meanwhile may be missed, or come twice."""
        if db:
            return [], None
        # Where it goes on: the cursor, servers that are through, and the one at hand, for whoever keeps it.
        cursor, *places = position.decode().split(" ") if isinstance(position, bytes) else [""]
        servers = {self._cluster.address(server.upstream): server for server in self.servers}
        left = [place for place in servers if place not in places]
        if not cursor or places[-1] not in servers:  # that one may have no keys any more, others have them
            cursor = ""
            if not left:
                return [], None
            places.append(left.pop(0))
        at = cursor.encode() if cursor else None
        infos, after = await servers[places[-1]].walk(db, prefix, at, limit)
        if after is None and not left:
            return infos, None
        assert after is None or isinstance(after, bytes)
        return infos, b"%b %b" % (after or b"", " ".join(places).encode())

    async def kinds(self, db: int, names: list[bytes]) -> list[str]:
        each = await asyncio.gather(*(self.of(name).kinds(db, [name]) for name in names))
        return [kind for kinds in each for kind in kinds]

    async def size(self, db: int, prefix: bytes) -> int:
        if db:
            return 0
        return sum(await asyncio.gather(*(server.size(db, prefix) for server in self.servers)))

    async def clear(self, db: int | None, prefix: bytes) -> int:
        if db:
            return 0
        if prefix:
            return await super().clear(0, prefix)
        return sum(await asyncio.gather(*(server.clear(0, prefix) for server in self.servers)))

    def connect(self, db: int, proto: int, number: int) -> Lane:
        raise TypeError("a cluster's lanes are its servers'")

    async def dedicated(self, db: int, proto: int, patient: bool) -> Dedicated:
        return await self._server(self._cluster.any()).dedicated(db, proto, patient)

    async def call(self, db: int, argv: list[bytes]) -> object:
        spec = lookup(self._table, argv)
        server = self._server(self._cluster.any()) if spec is None else self.of_request(spec, argv)
        return await server.call(db, argv)

    @property
    def layout(self) -> str:
        return f"{crc32(' '.join(map(self._cluster.address, self._cluster.owners)).encode()):x}"

    async def life(self) -> str:
        return " ".join(sorted(await asyncio.gather(*(server.life() for server in self.servers))))
