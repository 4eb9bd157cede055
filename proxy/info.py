"""INFO's text, and the counters behind it.

Sections and fields have Redis' names and order, so that clients, GUIs and exporters find what they know; a
field that would say nothing about this server is left out.  Ours are ``redtier_version`` and the section
``Tiers``, with a line for each backend, each mirror, each scrub, and the near cache.

Sizes are bytes, as in Redis: https://redis.io/commands/info.
"""

from __future__ import annotations

import asyncio
import os
import platform
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol

from proxy import __version__
from proxy.blocking import Blocking
from proxy.broker import CHANNEL, PATTERN, SHARD
from proxy.clock import Clock
from proxy.commands.connection import REDIS_VERSION
from proxy.commands.spec import CommandSpec, every_spec
from proxy.config import Config
from proxy.counters import Rate, Traffic, commands_run
from proxy.dispatch import Dispatcher
from proxy.homes import ColdHome, MemoryHome, UpstreamHome
from proxy.keyspace import DATABASES
from proxy.lru import ENTRY_OVERHEAD
from proxy.memoryreport import backends_of, client_memory, used
from proxy.mirrors import Mirrors
from proxy.nearcache import NearCache
from proxy.parameters import policy_of
from proxy.pubsub import PubSub
from proxy.router import Home, Router
from proxy.session import Session
from proxy.snapshots import Snapshots
from proxy.timing import percentile
from proxy.tracking import Tracking
from proxy.verifying.scrub import Scrub

HZ: Final = 10  # rounds of housekeeping a second


class InfoSource(Protocol):
    """The parts of a server that INFO tells of."""

    config: Config
    clock: Clock
    started_at: int  # ms since the epoch
    table: dict[bytes, CommandSpec]
    router: Router
    dispatcher: Dispatcher
    blocking: Blocking
    homes: dict[str, Home]
    mirrors: Mirrors
    cache: NearCache
    max_clients: int
    connections_received: int
    connections_rejected: int
    command_rate: Rate
    latency_tracking: bool
    latency_percentiles: tuple[float, ...]
    input_rate: Rate  # bytes
    output_rate: Rate
    run_id: str  # 40 hexadecimal digits, other ones at each start
    subscriptions: PubSub
    tracking: Tracking
    snapshots: Snapshots
    scrubs: dict[str, Scrub]

    @property
    def saved_at(self) -> int: ...

    def traffic(self) -> Traffic: ...

    def clients(self) -> list[Session]: ...


Fields = Mapping[str, object]


def info_text(source: InfoSource, sections: Sequence[str]) -> str:
    """The text of the sections, in Redis' order; names are in lower case, and unknown ones say nothing.

    ``default`` and no section at all are all but the long ones, ``all`` and ``everything`` are all.
    """
    every = not {"all", "everything"}.isdisjoint(sections)
    default = not sections or "default" in sections
    return "\r\n".join(
        f"# {title}\r\n" + "".join(f"{name}:{value}\r\n" for name, value in fields(source).items())
        for title, fields in SECTIONS.items()
        if every or (default and title not in LONG) or title.lower() in sections
    )


def reset_counters(source: InfoSource) -> None:
    """CONFIG RESETSTAT: begin to count anew.  What tells the present state, such as memory in use, stays."""
    source.connections_received = source.connections_rejected = 0
    source.dispatcher.errors.clear()
    for spec in every_spec(source.table):
        spec.forget_calls()
    for backend in backends_of(source):
        backend.hits = backend.misses = backend.evicted = backend.expired = 0
        backend.peak = backend.lru.used
    cache = source.cache
    cache.hits = cache.misses = cache.evicted = 0
    for home in source.homes.values():
        if isinstance(home, ColdHome):
            home.conflicts = home.damaged = home.expired = 0
        elif isinstance(home, UpstreamHome) and home.sealing is not None:
            home.sealing.damaged = 0
    for mirror in source.mirrors.all:
        mirror.forget_counts()


def _server(source: InfoSource) -> Fields:
    now = source.clock.ms
    uptime = (now - source.started_at) // 1000
    system = platform.uname()
    file = Path(source.config.source)
    return {
        "redis_version": REDIS_VERSION,
        "redis_git_sha1": "00000000",
        "redis_git_dirty": 0,
        "redis_build_id": 0,
        "redtier_version": __version__,
        "redis_mode": "standalone",
        "os": f"{system.system} {system.release} {system.machine}",
        "arch_bits": 64,
        "monotonic_clock": "POSIX clock_gettime",
        "multiplexing_api": type(asyncio.get_running_loop()).__module__.partition(".")[0],
        "process_id": os.getpid(),
        "process_supervised": "no",
        "run_id": source.run_id,
        "tcp_port": next((address.port for address in source.config.server.listen if address.port), 0),
        "server_time_usec": time.time_ns() // 1000,
        "uptime_in_seconds": uptime,
        "uptime_in_days": uptime // 86400,
        "hz": HZ,
        "configured_hz": HZ,
        "lru_clock": now // 1000 & 0xFFFFFF,
        "executable": sys.executable,
        "config_file": str(file.resolve()) if file.is_file() else "",
        "io_threads_active": 0,
    }


def _clients(source: InfoSource) -> Fields:
    clients = source.clients()
    return {
        "connected_clients": len(clients),
        "cluster_connections": 0,
        "maxclients": source.max_clients,
        "client_recent_max_input_buffer": max((sum(map(len, c.received)) for c in clients), default=0),
        "client_recent_max_output_buffer": max((c.unflushed + c.link.unsent() for c in clients), default=0),
        "blocked_clients": source.blocking.count,
        "tracking_clients": len(source.tracking.clients),
        "clients_in_timeout_table": 0,
    }


def _memory(source: InfoSource) -> Fields:
    """What keys and near caches take; ``used_memory_rss`` is the whole process."""
    backends = backends_of(source)
    total = used(source)
    system = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    bound = sum(backend.max_bytes for backend in backends)
    overhead = ENTRY_OVERHEAD * sum(backend.size(db) for backend in backends for db in range(DATABASES))
    clients = sum(map(client_memory, source.clients()))
    return {
        "used_memory": total.now,
        "used_memory_human": human(total.now),
        "used_memory_rss": total.resident,
        "used_memory_rss_human": human(total.resident),
        "used_memory_peak": total.peak,
        "used_memory_peak_human": human(total.peak),
        "used_memory_peak_perc": f"{100 * total.now / total.peak if total.peak else 100:.2f}%",
        "used_memory_overhead": overhead,
        "used_memory_startup": 0,
        "used_memory_dataset": max(total.now - overhead, 0),
        "used_memory_dataset_perc": f"{100 * max(total.now - overhead, 0) / max(total.now, 1):.2f}%",
        "allocator_allocated": total.now,
        "allocator_active": total.resident,
        "allocator_resident": total.resident,
        "total_system_memory": system,
        "total_system_memory_human": human(system),
        "used_memory_lua": 0,
        "used_memory_lua_human": human(0),
        "used_memory_scripts": 0,
        "used_memory_scripts_human": human(0),
        "maxmemory": bound,
        "maxmemory_human": human(bound),
        "maxmemory_policy": policy_of(backends),
        "mem_fragmentation_ratio": f"{total.resident / max(total.now, 1):.2f}",
        "mem_fragmentation_bytes": total.resident - total.now,
        "mem_not_counted_for_evict": 0,
        "mem_replication_backlog": 0,
        "mem_clients_slaves": 0,
        "mem_clients_normal": clients,
        "mem_aof_buffer": 0,
        "mem_allocator": "libc",
        "active_defrag_running": 0,
        "lazyfree_pending_objects": 0,
        "lazyfreed_objects": 0,
    }


def human(size: int) -> str:
    """Bytes as INFO's ``_human`` fields have them: ``512B``, ``1.33M``."""
    if size < 1024:
        return f"{size}B"
    power = min((size.bit_length() - 1) // 10, 5)
    return f"{size / 1024**power:.2f}{' KMGTP'[power]}"


def _persistence(source: InfoSource) -> Fields:
    """Of the snapshots of memory backends, together; clients ask whether they are still being loaded."""
    snapshots = source.snapshots.all.values()
    under_way = [time.monotonic() - each.began_at for each in snapshots if each.began_at]
    return {
        "loading": 0,
        "async_loading": 0,
        "rdb_changes_since_last_save": 0,
        "rdb_bgsave_in_progress": int(bool(under_way)),
        "rdb_last_save_time": source.saved_at // 1000,
        "rdb_last_bgsave_status": "err" if any(each.failed for each in snapshots) else "ok",
        "rdb_last_bgsave_time_sec": int(max((each.took for each in snapshots), default=-1)),
        "rdb_current_bgsave_time_sec": int(max(under_way, default=-1)),
        "rdb_saves": sum(each.saves for each in snapshots),
        "aof_enabled": 0,
        "aof_rewrite_in_progress": 0,
        "aof_rewrite_scheduled": 0,
        "aof_last_rewrite_time_sec": -1,
        "aof_current_rewrite_time_sec": -1,
        "aof_last_bgrewrite_status": "ok",
        "aof_rewrites": 0,
        "aof_last_write_status": "ok",
    }


def _stats(source: InfoSource) -> Fields:
    """Hits and misses are those of memory backends, where they mean what they do in Redis."""
    backends = backends_of(source)
    cold = [home for home in source.homes.values() if isinstance(home, ColdHome)]
    traffic = source.traffic()
    broker = source.subscriptions.broker
    return {
        "total_connections_received": source.connections_received,
        "total_commands_processed": commands_run(source.table),
        "instantaneous_ops_per_sec": source.command_rate.per_second(),
        "total_net_input_bytes": traffic.received,
        "total_net_output_bytes": traffic.sent,
        "total_net_repl_input_bytes": 0,
        "total_net_repl_output_bytes": 0,
        "instantaneous_input_kbps": f"{source.input_rate.per_second() / 1024:.2f}",
        "instantaneous_output_kbps": f"{source.output_rate.per_second() / 1024:.2f}",
        "rejected_connections": source.connections_rejected,
        "sync_full": 0,
        "sync_partial_ok": 0,
        "sync_partial_err": 0,
        "expired_keys": sum(backend.expired for backend in backends) + sum(home.expired for home in cold),
        "evicted_keys": sum(backend.evicted for backend in backends),
        "evicted_clients": 0,
        "keyspace_hits": sum(backend.hits for backend in backends),
        "keyspace_misses": sum(backend.misses for backend in backends),
        "pubsub_channels": len(broker.names(CHANNEL)),
        "pubsub_patterns": len(broker.names(PATTERN)),
        "pubsubshard_channels": len(broker.names(SHARD)),
        "latest_fork_usec": 0,
        "total_forks": 0,
        "migrate_cached_sockets": 0,
        "slave_expires_tracked_keys": 0,
        "active_defrag_hits": 0,
        "active_defrag_misses": 0,
        "active_defrag_key_hits": 0,
        "active_defrag_key_misses": 0,
        "tracking_total_keys": source.tracking.keys,
        "tracking_total_items": source.tracking.items,
        "tracking_total_prefixes": source.tracking.prefixes,
        "unexpected_error_replies": 0,
        "total_error_replies": sum(source.dispatcher.errors.values()),
        "total_reads_processed": traffic.reads,
        "total_writes_processed": traffic.writes,
        "io_threaded_reads_processed": 0,
        "io_threaded_writes_processed": 0,
    }


def _replication(source: InfoSource) -> Fields:
    return {
        "role": "master",
        "connected_slaves": 0,
        "master_failover_state": "no-failover",
        "master_replid": source.run_id,
        "master_replid2": "0" * 40,
        "master_repl_offset": 0,
        "second_repl_offset": -1,
        "repl_backlog_active": 0,
        "repl_backlog_size": 0,
        "repl_backlog_first_byte_offset": 0,
        "repl_backlog_histlen": 0,
    }


def _cpu(source: InfoSource) -> Fields:
    own = resource.getrusage(resource.RUSAGE_SELF)
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    fields = {
        "used_cpu_sys": f"{own.ru_stime:.6f}",
        "used_cpu_user": f"{own.ru_utime:.6f}",
        "used_cpu_sys_children": f"{children.ru_stime:.6f}",
        "used_cpu_user_children": f"{children.ru_utime:.6f}",
    }
    if hasattr(resource, "RUSAGE_THREAD"):
        thread = resource.getrusage(resource.RUSAGE_THREAD)
        fields["used_cpu_sys_main_thread"] = f"{thread.ru_stime:.6f}"
        fields["used_cpu_user_main_thread"] = f"{thread.ru_utime:.6f}"
    return fields


def _modules(source: InfoSource) -> Fields:
    return {}


def _commandstats(source: InfoSource) -> Fields:
    """Times as ``proxy.timing`` has them: of quick commands they are an estimate, by a sample."""
    return {
        f"cmdstat_{spec.title}": _command_stats(spec)
        for spec in every_spec(source.table)
        if spec.calls or spec.rejected
    }


def _command_stats(spec: CommandSpec) -> str:
    us = spec.timing.sum_us(spec.calls)
    return _pairs(
        calls=spec.calls,
        usec=us,
        usec_per_call=f"{us / max(spec.calls, 1):.2f}",
        rejected_calls=spec.rejected,
        failed_calls=spec.failed,
    )


def _errorstats(source: InfoSource) -> Fields:
    return {f"errorstat_{code}": _pairs(count=n) for code, n in sorted(source.dispatcher.errors.items())}


def _latencystats(source: InfoSource) -> Fields:
    if not source.latency_tracking:
        return {}
    fields = {}
    for spec in every_spec(source.table):
        if buckets := spec.timing.buckets(spec.calls):
            fields[f"latency_percentiles_usec_{spec.title}"] = ",".join(
                f"p{percent:g}={percentile(buckets, percent):.3f}" for percent in source.latency_percentiles
            )
    return fields


def _cluster(source: InfoSource) -> Fields:
    return {"cluster_enabled": 0}


def _tiers(source: InfoSource) -> Fields:
    fields = {f"tier{n}": _tier(source, home) for n, home in enumerate(source.homes.values())}
    for n, mirror in enumerate(source.mirrors.all):
        fields[f"mirror{n}"] = _pairs(
            route=mirror.route.prefix.decode(),
            backend=mirror.target.name,
            state="waiting" if mirror.away else "up",
            **mirror.figures(),
        )
    for n, (name, scrub) in enumerate(source.scrubs.items()):
        fields[f"scrub{n}"] = _pairs(backend=name, state=scrub.state, **scrub.figures())
    cache = source.cache
    fields["near_cache"] = _pairs(
        copies=cache.lru.count,
        used_bytes=cache.lru.used,
        max_bytes=cache.max_bytes,
        hits=cache.hits,
        misses=cache.misses,
        evicted=cache.evicted,
    )
    return fields


def _tier(source: InfoSource, home: Home) -> str:
    tallies = [route.tally for route in source.router.of_home(home)]
    counters: dict[str, object] = {
        "name": home.name,
        "type": home.type,
        "state": "down" if home.down else "up",
        "calls": sum(tally.calls for tally in tallies),
        "errors": sum(tally.errors for tally in tallies),
        "in_flight": home.in_flight,
    }
    if isinstance(home, MemoryHome):
        backend = home.backend
        counters |= {
            "keys": sum(backend.size(db) for db in range(DATABASES)),
            "used_bytes": backend.lru.used,
            "max_bytes": backend.max_bytes,
            "hits": backend.hits,
            "misses": backend.misses,
            "evicted": backend.evicted,
            "expired": backend.expired,
        }
    elif isinstance(home, ColdHome):
        counters |= {
            "raw_bytes": home.raw_bytes,
            "stored_bytes": home.stored_bytes,
            "conflicts": home.conflicts,
            "damaged": home.damaged,
            "expired": home.expired,
            **home.store.figures(),
        }
        if home.write_back is not None:
            counters |= home.write_back.state()
        hearing = home.hearing
        if hearing is not None:
            counters |= {
                "listening": int(hearing.live),
                "invalidations": hearing.invalidations,
                "flushes": hearing.flushes,
            }
    elif isinstance(home, UpstreamHome):
        upstream = home.upstream
        counters |= {"breaker": upstream.breaker(), "dedicated": upstream.occupied()}
        counters |= upstream.counters()._asdict()
        if home.overload is not None:
            counters["overloaded"] = home.overload.refused
        if home.has_readers:
            counters["replicas"] = home.replica_count
        near = home.near
        if near is not None:
            counters |= {
                "caching": int(near.live),
                "invalidations": near.invalidations,
                "flushes": near.flushes,
            }
        sealing = home.sealing
        if sealing is not None:
            counters |= {
                "raw_bytes": sealing.raw_bytes,
                "stored_bytes": sealing.stored_bytes,
                "damaged": sealing.damaged,
            }
    return _pairs(**counters)


def _keyspace(source: InfoSource) -> Fields:
    """The databases in memory; what the other backends hold is not cheap to count (see DBSIZE)."""
    fields = {}
    for db in range(DATABASES):
        databases = [backend.keyspaces[db].database for backend in backends_of(source)]
        if keys := sum(database.count for database in databases):
            expires = sum(database.expiring for database in databases)
            fields[f"db{db}"] = _pairs(keys=keys, expires=expires, avg_ttl=0)
    return fields


def _pairs(**values: object) -> str:
    return ",".join(f"{name}={value}" for name, value in values.items())


# By title, which in lower case is the name that a client asks for.
SECTIONS: Final[dict[str, Callable[[InfoSource], Fields]]] = {
    "Server": _server,
    "Clients": _clients,
    "Memory": _memory,
    "Persistence": _persistence,
    "Stats": _stats,
    "Replication": _replication,
    "CPU": _cpu,
    "Modules": _modules,
    "Commandstats": _commandstats,
    "Errorstats": _errorstats,
    "Latencystats": _latencystats,
    "Cluster": _cluster,
    "Tiers": _tiers,
    "Keyspace": _keyspace,
}
LONG: Final = {"Commandstats", "Latencystats"}
