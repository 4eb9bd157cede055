"""What MEMORY STATS and MEMORY DOCTOR tell, and MEMORY PURGE.

The keys are Redis' own (https://redis.io/commands/memory-stats), for what this server has of each.  What is
counted is what keys and near caches take; the rest of the process, Python and its libraries, shows as the
difference to what the system says that it has (``allocator.resident``).
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import resource
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from backends.memory import MemoryBackend
from proxy.homes import MemoryHome
from proxy.keyspace import DATABASES
from proxy.lru import ENTRY_OVERHEAD
from proxy.nearcache import NearCache
from proxy.resp import OK, Reply
from proxy.router import Home
from proxy.session import Session

SMALL: Final = 5 << 20  # bytes in use below which nothing can be told, as in Redis
FULL: Final = 0.95  # of a bound


class MemorySource(Protocol):
    """The parts of a server that use memory."""

    homes: dict[str, Home]
    cache: NearCache

    def clients(self) -> list[Session]: ...


class Used(NamedTuple):
    """Bytes."""

    now: int  # keys and near caches
    peak: int
    resident: int  # of the whole process


def backends_of(source: MemorySource) -> list[MemoryBackend]:
    return [home.backend for home in source.homes.values() if isinstance(home, MemoryHome)]


def used(source: MemorySource) -> Used:
    backends = backends_of(source)
    now = sum(backend.lru.used for backend in backends) + source.cache.lru.used
    return Used(now, max(sum(backend.peak for backend in backends), now), resident())


def resident() -> int:
    """Bytes of memory that the process has; its highest so far where the system has no /proc."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return pages * os.sysconf("SC_PAGE_SIZE")


def client_memory(client: Session) -> int:
    """Bytes that wait for a client, in either direction."""
    multi = 0 if client.multi is None else client.multi.size
    return sum(map(len, client.received)) + client.unflushed + client.link.unsent() + multi


def memory_stats(source: MemorySource) -> dict[str, Reply]:
    """MEMORY STATS' map."""
    total = used(source)
    databases: dict[str, Reply] = {}
    keys = 0
    for db in range(DATABASES):
        held = [backend.keyspaces[db].database for backend in backends_of(source)]
        if count := sum(database.count for database in held):
            keys += count
            databases[f"db.{db}"] = {
                "overhead.hashtable.main": count * ENTRY_OVERHEAD,
                "overhead.hashtable.expires": 0,  # a key's time is part of its entry
                "overhead.hashtable.slot-to-keys": 0,
            }
    clients = sum(map(client_memory, source.clients()))
    overhead = keys * ENTRY_OVERHEAD + clients
    dataset = max(total.now - keys * ENTRY_OVERHEAD, 0)
    return {
        "peak.allocated": total.peak,
        "total.allocated": total.now + clients,
        "startup.allocated": 0,
        "replication.backlog": 0,
        "clients.slaves": 0,
        "clients.normal": clients,
        "cluster.links": 0,
        "aof.buffer": 0,
        "lua.caches": 0,
        "functions.caches": 0,
        **databases,
        "overhead.total": overhead,
        "keys.count": keys,
        "keys.bytes-per-key": total.now // keys if keys else 0,
        "dataset.bytes": dataset,
        "dataset.percentage": 100.0 * dataset / max(total.now, 1),
        "peak.percentage": 100.0 * total.now / max(total.peak, 1),
        "allocator.allocated": total.now + clients,
        "allocator.active": total.resident,
        "allocator.resident": total.resident,
        "allocator-fragmentation.ratio": 1.0,
        "allocator-fragmentation.bytes": 0,
        "allocator-rss.ratio": 1.0,
        "allocator-rss.bytes": 0,
        "rss-overhead.ratio": 1.0,
        "rss-overhead.bytes": 0,
        "fragmentation": total.resident / max(total.now + clients, 1),
        "fragmentation.bytes": total.resident - total.now - clients,
    }


def memory_advice(source: MemorySource) -> str:
    """MEMORY DOCTOR's text."""
    total = used(source)
    advice = [
        f"Backend '{backend.name}' holds {backend.lru.used} of {backend.max_bytes} bytes and has evicted "
        f"{backend.evicted} keys: raise its max_bytes, or let keys expire sooner."
        for backend in backends_of(source)
        if backend.lru.used >= FULL * backend.max_bytes
    ]
    if not advice and total.now < SMALL:
        return "There is too little in memory to tell anything of it.\n"
    if total.peak > 1.5 * total.now:
        advice.append(
            f"There were {total.peak} bytes in use once and are {total.now} now: the process may keep memory "
            "that it does not need; MEMORY PURGE gives back what it can."
        )
    waiting = [client for client in source.clients() if client_memory(client) > 1 << 20]
    if waiting:
        advice.append(
            f"{len(waiting)} clients have more than a megabyte of requests or replies waiting: "
            "CLIENT LIST shows them by tot-mem."
        )
    return "".join(f"{line}\n" for line in advice or ["Nothing about the use of memory is out of order."])


async def trim_memory() -> Reply:
    """Have the allocator give back what it does not need, where it can (glibc)."""
    with suppress(OSError, AttributeError):
        trim = ctypes.CDLL(None).malloc_trim
        await asyncio.get_running_loop().run_in_executor(None, trim, 0)
    return OK
