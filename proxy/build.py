"""From the configuration to what it describes: backends, homes and routes.

With ``proxy.server`` the only module that sees both sides.  A backend's class is imported when one is
configured, since some of their libraries take long to load.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from backends.base import Store
from backends.codecs import Codec, Hash
from backends.dictionaries import Dictionaries
from backends.memory import MemoryBackend
from backends.s3_layout import Access
from backends.seal import SealPolicy
from proxy.cells import ColdPolicy
from proxy.clock import Clock
from proxy.clusterhome import ClusterHome
from proxy.commands.spec import CommandSpec, load_table
from proxy.config import (
    BackendConfig,
    ColdBackend,
    Config,
    PostgresBackend,
    RedisBackend,
    RouteConfig,
    S3Backend,
    in_backend,
)
from proxy.config import MemoryBackend as MemoryConfig
from proxy.dictionaries import TrainedRoute, Training
from proxy.events import Events
from proxy.homes import ColdHome, MemoryHome, UpstreamHome
from proxy.keyspace import EventSink, KeyPolicy
from proxy.mirror import Mirror
from proxy.mirrors import Mirrors
from proxy.nearcache import NearCache
from proxy.nearreplies import NearReplies
from proxy.prefixes import PrefixMap
from proxy.resp import BULK_MAX, INLINE_MAX
from proxy.router import ANY, PREFER_REPLICA, PRIMARY, REPLICA, Home, Route, Router
from proxy.sealing import Sealing
from proxy.snapshots import Snapshot, Snapshots
from proxy.tally import Overload
from proxy.verifying.scrub import Scrub

if TYPE_CHECKING:
    from backends.offload import Offload

READS: Final = {"primary": PRIMARY, "prefer_replica": PREFER_REPLICA, "replica": REPLICA, "any": ANY}


def build_router(
    config: Config, clock: Clock, cache: NearCache, events: EventSink, table: dict[bytes, CommandSpec]
) -> Router:
    """All routes, and the homes that they lead to; nothing is opened yet."""
    homes: dict[str, Home] = {}
    for route in config.routes:
        if route.backend not in homes:
            backend = config.backends[route.backend]
            if isinstance(backend, RedisBackend):
                homes[route.backend] = _upstream_home(config, backend, clock, cache, table)
            else:
                homes[route.backend] = _home(config, backend, clock, cache, events)
    return Router([_route(route, homes[route.backend]) for route in config.routes])


def build_home(config: Config, clock: Clock) -> Home:
    """The one backend that a configuration's routes lead to, for a process that serves nobody."""
    [home] = build_router(config, clock, NearCache(0), Events(), load_table()).homes
    return home


def build_mirrors(config: Config, router: Router, clock: Clock, table: dict[bytes, CommandSpec]) -> Mirrors:
    """The mirrors of all routes; nothing is opened yet.

    A second backend has a home of its own, even where routes lead to it: neither holds up the other, and what
    is put there for a mirror is no change of any client's key.  So has a first one that is a Redis, since
    large values would hold up the replies behind them on a lane.
    """
    own: dict[str, Home] = {}

    def apart(name: str) -> Home:
        if name not in own:
            [own[name]] = build_router(in_backend(config, name), clock, NearCache(0), Events(), table).homes
        return own[name]

    mirrors: dict[bytes, Mirror | None] = {}
    for route, settings in ((router.find(each.prefix), each.mirror) for each in config.routes):
        mirrors[route.prefix] = None
        if settings is not None:
            source = apart(route.home.name) if isinstance(route.home, UpstreamHome) else route.home
            target = apart(settings.backend)
            assert isinstance(target, (ColdHome, UpstreamHome))
            mirrors[route.prefix] = Mirror(route, source, target, settings, clock)
    return Mirrors(mirrors)


def build_snapshots(config: Config, router: Router, clock: Clock) -> Snapshots:
    """Those of the memory backends that have one; nothing is read yet."""
    snapshots: dict[str, Snapshot] = {}
    for home in router.homes:
        backend = config.backends[home.name]
        if isinstance(home, MemoryHome) and isinstance(backend, MemoryConfig) and backend.snapshot:
            snapshots[home.name] = Snapshot(
                home.backend, Path(backend.snapshot), backend.snapshot_interval, clock
            )
    return Snapshots(snapshots)


def build_scrubs(config: Config, homes: Iterable[Home], clock: Clock, owner: str) -> dict[str, Scrub]:
    """Those of the stores that have one, by their names; ``owner`` tells this server from others.

    Of two homes of one store the last one's connections are used.
    """
    scrubs: dict[str, Scrub] = {}
    for home in homes:
        backend = config.backends[home.name]
        if isinstance(home, ColdHome) and isinstance(backend, ColdBackend) and backend.scrub:
            scrubs[home.name] = Scrub(home, backend.scrub, backend.scrub_interval, clock, owner)
    return scrubs


def _route(route: RouteConfig, home: Home) -> Route:
    keyspaces = home.backend.keyspaces if isinstance(home, MemoryHome) else []
    upstream = isinstance(home, UpstreamHome)
    near, sealed = upstream and route.cache, upstream and route.seals
    reads = READS[route.read_policy]
    if reads and isinstance(home, UpstreamHome):
        home.has_readers = True
    policy = KeyPolicy(route.ttl, route.max_value)
    return Route(route.prefix, home, policy, list(keyspaces), near, sealed, reads)


def _home(config: Config, backend: BackendConfig, clock: Clock, cache: NearCache, events: EventSink) -> Home:
    own = backend.name  # other routes' keys come here by what a command finds out only while it runs
    bounds = (backend.flushable, backend.in_flight_max, backend.in_flight_bytes_max)
    if isinstance(backend, MemoryConfig):
        policies = PrefixMap(
            (route.prefix, KeyPolicy(route.ttl, route.max_value, route.backend != own))
            for route in config.routes
        )
        memory = MemoryBackend(backend.name, backend.max_bytes, backend.policy, clock, policies, events)
        return MemoryHome(memory, *bounds)
    assert isinstance(backend, ColdBackend)
    store = _store(config, backend, clock)
    behind: WriteBackStore | None = None
    if any(route.backend == own and route.write == "back" for route in config.routes):
        from backends.writeback import WriteBackStore

        behind = WriteBackStore(store, Path(backend.journal), backend.journal_max, backend.lease, clock)
    chunked = (behind or store).chunked
    cold = PrefixMap(
        (route.prefix, _cold_policy(route, route.backend != own, chunked)) for route in config.routes
    )
    home = ColdHome(behind or store, clock, cold, cache, events, *bounds)
    home.write_back = behind
    home.dictionaries = Dictionaries(home.store, backend.dictionaries_max)
    trained = [
        TrainedRoute(
            route.prefix,
            cold.find(route.prefix),
            *(route.dictionary_size, route.dictionary_samples, route.dictionary_samples_bytes),
        )
        for route in config.routes
        if route.dictionary == "auto" and route.backend == own
    ]
    if trained:
        home.training = Training(home.dictionaries, clock, trained)
    home.down = "it is being opened"
    return home


def _upstream_home(
    config: Config, backend: RedisBackend, clock: Clock, cache: NearCache, table: dict[bytes, CommandSpec]
) -> UpstreamHome:
    from backends.redis import RedisUpstream
    from backends.topology import Cluster, parse_url

    # As for other backends: what was taken can be read again, whatever a client may leave unread.
    reply_max = max(config.server.output_buffer_max, BULK_MAX + INLINE_MAX)
    options = {"reply_max": reply_max, **_own(backend, BackendConfig)}
    overload = Overload() if options.pop("overload") == "refuse" else None
    near = None
    ttls = {
        route.prefix: route.cache_ttl if route.cache and route.backend == backend.name else -1
        for route in config.routes
    }
    kept = [prefix for prefix, ttl in ttls.items() if ttl >= 0]
    if kept:
        near = NearReplies(cache, clock, table, PrefixMap(ttls.items()), outermost(kept))
    sealing = None
    policies = {
        route.prefix: _seal_policy(route) if route.seals and route.backend == backend.name else None
        for route in config.routes
    }
    if any(policies.values()):
        sealing = Sealing(backend.name, PrefixMap(policies.items()), reply_max)
    bounds = (backend.flushable, backend.in_flight_max, backend.in_flight_bytes_max)
    target = parse_url(backend.url)
    if isinstance(target, Cluster):
        from backends.cluster import RedisCluster

        del options["url"]
        cluster = RedisCluster(backend.name, target, **options)
        home: UpstreamHome = ClusterHome(cluster, near, sealing, *bounds, table)
    else:
        home = UpstreamHome(RedisUpstream(backend.name, **options), near, sealing, *bounds)
    if sealing is not None:
        sealing.load = home.load
    home.overload = overload
    return home


def outermost(prefixes: list[bytes]) -> list[bytes]:
    """Those that lie within no other: together they are the starts of the same keys."""
    return [
        prefix
        for prefix in prefixes
        if not any(prefix != other and prefix.startswith(other) for other in prefixes)
    ]


def _store(config: Config, backend: BackendConfig, clock: Clock) -> Store:
    own = _own(backend, ColdBackend)
    if isinstance(backend, PostgresBackend):
        if any(route.offload and route.backend == backend.name for route in config.routes):
            from backends.offload import OffloadingStore

            return OffloadingStore(backend.name, clock=clock, offload=_offload(config, backend), **own)
        from backends.postgres import PostgresStore

        return PostgresStore(backend.name, clock=clock, **own)
    if isinstance(backend, S3Backend):
        from backends.s3 import S3Store

        del own["cdn_url"]
        return S3Store(backend.name, clock=clock, **own)
    from backends.sqlite import SqliteStore

    return SqliteStore(backend.name, clock=clock, **own)


def _offload(config: Config, backend: PostgresBackend) -> Offload:
    """How the routes of one backend offload; they agree on where to."""
    from backends.offload import NEVER, Offload, Place, Rule

    own = {
        route.prefix: route.offload
        for route in config.routes
        if route.offload is not None and route.backend == backend.name
    }
    rules = {route.prefix: NEVER for route in config.routes}
    rules |= {prefix: Rule(offload.over, offload.encoding) for prefix, offload in own.items()}
    first = next(iter(own.values()))
    bucket = config.backends[first.backend]
    assert isinstance(bucket, S3Backend)
    access = Access(
        bucket=bucket.bucket,
        endpoint_url=bucket.endpoint_url,
        region=bucket.region,
        access_key=bucket.access_key,
        secret_key=bucket.secret_key,
        ca_bundle=bucket.ca_bundle,
        connections=first.transfers,
        connect_timeout=bucket.connect_timeout,
        timeout=bucket.timeout,
    )
    place = Place(bucket.name, access, bucket.prefix, bucket.cdn_url)
    return Offload(place, PrefixMap(rules.items()), first.grace, first.transfers)


# Any: each backend takes options of its own, under the names that the configuration has for them.
def _own(backend: BackendConfig, general: type[BackendConfig]) -> dict[str, Any]:
    """A backend's options but those that all backends like it have."""
    shared = {field.name for field in fields(general)}
    return {field.name: getattr(backend, field.name) for field in fields(backend) if field.name not in shared}


def _cold_policy(route: RouteConfig, foreign: bool, chunked: bool) -> ColdPolicy:
    policy = _seal_policy(route)
    chunk_over = route.chunk_over if chunked else 0
    return ColdPolicy(
        *(route.ttl, route.max_value, policy, route.cache, route.cache_ttl, foreign),
        *(chunk_over, route.chunk_size),
    )


def _seal_policy(route: RouteConfig) -> SealPolicy:
    return SealPolicy(
        Codec.ZSTD if route.compression == "zstd" else Codec.NONE,
        route.compression_level,
        route.compress_min,
        Hash.SHA256 if route.integrity == "sha256" else Hash.NONE,
        compress_max=2**62 if route.offload is None else route.offload.over,
    )
