"""What Prometheus is told: our plain integers, made into metrics only when it asks.

Every name begins with ``redtier_``, but for those of the process, which are the same for any program.
Units are Prometheus' own, seconds and bytes: https://prometheus.io/docs/practices/naming.  Counters begin
anew with the process, and some of them at ``CONFIG RESETSTAT``; Prometheus allows for both.

The label ``route`` is a prefix as a pattern, ``long:*``: the catch-all's prefix is empty, and an empty
label is to Prometheus as none at all.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.machinery import EXTENSION_SUFFIXES
from itertools import accumulate
from typing import Final, TypeVar

from prometheus_client import ProcessCollector
from prometheus_client.metrics_core import CounterMetricFamily as Counter
from prometheus_client.metrics_core import GaugeMetricFamily as Gauge
from prometheus_client.metrics_core import HistogramMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from proxy import __version__, dispatch
from proxy.commands.spec import every_spec
from proxy.dictionaries import TrainedRoute
from proxy.homes import ColdHome, MemoryHome, UpstreamHome
from proxy.info import InfoSource
from proxy.keyspace import DATABASES
from proxy.mirror import Mirror
from proxy.router import Home, Route
from proxy.sealing import Sealing
from proxy.snapshots import Snapshot as MemorySnapshot
from proxy.tally import LATENCY_BUCKETS

T = TypeVar("T")

_BOUNDS: Final = [*(str(us / 1e6) for us in LATENCY_BUCKETS), "+Inf"]
_PROCESS: Final = ProcessCollector(registry=None)


class Snapshot(Collector):
    """All metrics of a server at one moment, made on its event loop, to be encoded in any thread.

    ``up`` says of each backend, by its name, whether it answers.
    """

    def __init__(self, source: InfoSource, up: Mapping[str, bool]) -> None:
        self._metrics = list(_collect(source, up))

    def collect(self) -> Iterator[Metric]:
        yield from self._metrics
        yield from _PROCESS.collect()  # goes through the files that are open, as many as there are clients


def _collect(source: InfoSource, up: Mapping[str, bool]) -> Iterator[Metric]:
    yield _build()
    yield Gauge("redtier_connections", "Clients that are connected.", len(source.clients()))
    yield Gauge("redtier_connections_max", "Clients that may be connected.", source.max_clients)
    received, rejected = source.connections_received, source.connections_rejected
    yield Counter("redtier_connections_received", "Clients that were accepted.", received)
    yield Counter("redtier_connections_rejected", "Clients that were turned away.", rejected)
    yield from _routes(source.router.routes)
    yield from _commands(source)
    yield from _backends(list(source.homes.values()), up)
    yield from _dictionaries(source.router.homes)
    yield from _mirrors(source.mirrors.all)
    yield from _snapshots(source.snapshots.all)
    yield from _each(
        "backend",
        source.scrubs,
        (Counter, "redtier_scrub_records", "Records that the scrub has verified.", lambda s: s.tally.checked),
        (Counter, "redtier_scrub_bytes", "Stored size of them.", lambda s: s.tally.size),
        (Counter, "redtier_scrub_damaged", "Damaged ones among them.", lambda s: s.tally.damaged),
        (
            Gauge,
            "redtier_scrub_finished_time_seconds",
            "When one came to its end last; 0: not yet.",
            lambda s: s.progress.finished_at / 1000,
        ),
    )
    cache = source.cache
    yield Gauge("redtier_cache_used_bytes", "Memory of the near cache.", cache.lru.used)
    yield Gauge("redtier_cache_max_bytes", "Bound of the near cache's memory.", cache.max_bytes)
    yield Gauge("redtier_cache_copies", "Values in the near cache.", cache.lru.count)
    yield Counter("redtier_cache_hits", "Reads that the near cache answered.", cache.hits)
    yield Counter("redtier_cache_misses", "Reads that the near cache could not answer.", cache.misses)
    yield Counter(
        "redtier_cache_evictions", "Values removed from the near cache to make room.", cache.evicted
    )


def _backends(homes: Sequence[Home], up: Mapping[str, bool]) -> Iterator[Metric]:
    answers = Gauge("redtier_backend_up", "Whether the backend answers.", labels=["backend", "type"])
    for home in homes:
        answers.add_metric([home.name, home.type], up[home.name])
    yield answers
    yield from _each(
        "backend",
        {home.name: home for home in homes},
        (Gauge, "redtier_backend_in_flight", "Commands that wait for the backend.", lambda h: h.in_flight),
        (Gauge, "redtier_backend_in_flight_bytes", "Size of their requests.", lambda h: h.load.bytes),
    )
    yield from _each(
        "backend",
        {home.name: home.backend for home in homes if isinstance(home, MemoryHome)},
        (Gauge, "redtier_memory_used_bytes", "Memory of the backend's keys.", lambda m: m.lru.used),
        (Gauge, "redtier_memory_max_bytes", "Bound of the backend's memory.", lambda m: m.max_bytes),
        (Gauge, "redtier_memory_keys", "Keys in memory.", lambda m: sum(map(m.size, range(DATABASES)))),
        (Counter, "redtier_memory_hits", "Reads that found their key.", lambda m: m.hits),
        (Counter, "redtier_memory_misses", "Reads that found no key.", lambda m: m.misses),
        (Counter, "redtier_memory_evictions", "Keys removed to make room.", lambda m: m.evicted),
        (Counter, "redtier_memory_expirations", "Keys removed as expired.", lambda m: m.expired),
    )
    yield from _each(
        "backend",
        {home.name: sealer for home in homes if (sealer := _sealer(home)) is not None},
        (Counter, "redtier_cold_raw_bytes", "Size of values written, raw.", lambda s: s.raw_bytes),
        (Counter, "redtier_cold_stored_bytes", "Size of values written, sealed.", lambda s: s.stored_bytes),
        (Counter, "redtier_cold_integrity_failures", "Damaged values found.", lambda s: s.damaged),
    )
    yield from _each(
        "backend",
        {home.name: home for home in homes if isinstance(home, ColdHome)},
        (Counter, "redtier_cold_expirations", "Keys removed as expired.", lambda h: h.expired),
        (Counter, "redtier_cold_conflicts", "Commits refused: a key had changed.", lambda h: h.conflicts),
        (
            Counter,
            "redtier_dictionary_fetched",
            "Dictionaries read since a value needed them.",
            lambda h: h.dictionaries.fetched,
        ),
    )
    yield from _each(
        "backend",
        {
            home.name: home.write_back
            for home in homes
            if isinstance(home, ColdHome) and home.write_back is not None
        },
        (Gauge, "redtier_journal_bytes", "Size of the journal.", lambda w: w.journal.size),
        (Gauge, "redtier_journal_max_bytes", "Bound of the journal's size.", lambda w: w.journal.limit),
        (Counter, "redtier_journal_syncs", "Times that it was synced.", lambda w: w.journal.synced),
        (Gauge, "redtier_dirty_keys", "Keys not flushed yet.", lambda w: len(w.backlog.entries)),
        (Gauge, "redtier_dirty_bytes", "Memory of these keys.", lambda w: w.backlog.bytes),
        (Gauge, "redtier_dirty_age_seconds", "Wait of the oldest of them.", lambda w: w.age / 1000),
        (Counter, "redtier_flushed", "Records flushed to the store.", lambda w: w.flusher.flushed),
        (Counter, "redtier_overtaken", "Records set aside: another took over.", lambda w: w.overtaken),
        (Gauge, "redtier_lease_held", "Whether this process may write.", lambda w: not w.holder),
    )
    yield from _each(
        "backend",
        {
            home.name: figures
            for home in homes
            if isinstance(home, ColdHome) and (figures := home.store.figures())
        },
        (Counter, "redtier_blobs_uploaded", "Large values put in a bucket.", lambda f: f["blobs_uploaded"]),
        (Counter, "redtier_blobs_shared", "Large values that were there.", lambda f: f["blobs_shared"]),
        (Counter, "redtier_blobs_fetched", "Large values read there.", lambda f: f["blobs_fetched"]),
        (Counter, "redtier_blobs_collected", "Blobs removed.", lambda f: f["blobs_collected"]),
        (Counter, "redtier_blobs_cdn_hits", "Reads that the CDN answered.", lambda f: f["cdn_hits"]),
        (Counter, "redtier_blobs_cdn_misses", "Reads that it had to ask for.", lambda f: f["cdn_misses"]),
        (Counter, "redtier_blobs_cdn_fallbacks", "Reads it was no use for.", lambda f: f["cdn_fallbacks"]),
    )
    yield from _each(
        "backend",
        {home.name: home.overload for home in homes if home.overload is not None},
        (Counter, "redtier_upstream_overloaded", "Requests refused: too many wait.", lambda o: o.refused),
    )
    yield from _each(
        "backend",
        {home.name: home.upstream for home in homes if isinstance(home, UpstreamHome)},
        (
            Gauge,
            "redtier_upstream_breaker_open",
            "Whether the breaker is.",
            lambda u: u.breaker() != "closed",
        ),
        (
            Gauge,
            "redtier_upstream_dedicated",
            "Connections that one client each has for itself.",
            lambda u: u.occupied(),
        ),
    )
    yield from _each(
        "backend",
        {home.name: home.upstream.counters() for home in homes if isinstance(home, UpstreamHome)},
        (Counter, "redtier_upstream_connections", "Connections made.", lambda c: c.connections),
        (
            Counter,
            "redtier_upstream_failed_attempts",
            "Attempts to connect, no answer.",
            lambda c: c.failed_attempts,
        ),
        (
            Counter,
            "redtier_upstream_timeouts",
            "Connections given up: no answer in time.",
            lambda c: c.timeouts,
        ),
        (
            Counter,
            "redtier_upstream_breaker_opened",
            "Times that the breaker opened.",
            lambda c: c.breaker_opened,
        ),
        (Counter, "redtier_upstream_retried", "Reads sent once more.", lambda c: c.retried),
        (
            Counter,
            "redtier_upstream_failovers",
            "Moves of the primary to another server.",
            lambda c: c.failovers,
        ),
        (Counter, "redtier_upstream_replies", "Replies received.", lambda c: c.answered),
        (Counter, "redtier_upstream_lost", "Replies lost with a connection.", lambda c: c.lost),
        (Counter, "redtier_upstream_refused", "Requests refused: no connection.", lambda c: c.refused),
        (Counter, "redtier_upstream_received_bytes", "Size of all replies.", lambda c: c.bytes_in),
        (Counter, "redtier_upstream_sent_bytes", "Size of all requests.", lambda c: c.bytes_out),
    )

    yield from _each(
        "backend",
        {home.name: home.near for home in homes if isinstance(home, UpstreamHome) and home.near is not None},
        (Gauge, "redtier_near_live", "Whether changes are heard of, and replies kept.", lambda n: n.live),
        (
            Counter,
            "redtier_near_invalidations",
            "Keys that were announced as changed.",
            lambda n: n.invalidations,
        ),
        (Counter, "redtier_near_flushes", "Times that all replies were dropped.", lambda n: n.flushes),
    )
    yield from _each(
        "backend",
        {
            home.name: home.hearing
            for home in homes
            if isinstance(home, ColdHome) and home.hearing is not None
        },
        (
            Gauge,
            "redtier_store_listening",
            "Whether other proxies' changes are heard of, and copies believed.",
            lambda h: h.live,
        ),
        (
            Counter,
            "redtier_store_invalidations",
            "Keys that others have changed.",
            lambda h: h.invalidations,
        ),
        (
            Counter,
            "redtier_store_flushes",
            "Times that any key may have been changed by others.",
            lambda h: h.flushes,
        ),
    )


def _sealer(home: Home) -> ColdHome | Sealing | None:
    """Who seals a backend's values, if anybody does."""
    if isinstance(home, ColdHome):
        return home
    return home.sealing if isinstance(home, UpstreamHome) else None


def _build() -> Metric:
    build = {
        "version": __version__,
        "python": platform.python_version(),
        "compiled": "yes" if dispatch.__file__.endswith(tuple(EXTENSION_SUFFIXES)) else "no",
    }
    return InfoMetricFamily("redtier_build", "What runs here; compiled is the hot path.", build)


def _routes(routes: Sequence[Route]) -> Iterator[Metric]:
    labels = ["route", "backend"]
    commands = Counter("redtier_route_commands", "Commands on keys of the route.", labels=labels)
    failed = Counter("redtier_route_errors", "Commands on keys of the route that failed.", labels=labels)
    latency = HistogramMetricFamily(
        "redtier_route_latency_seconds", "From the arrival of a command to its reply.", labels=labels
    )
    for route in routes:
        tally = route.tally
        values = [route.prefix.decode() + "*", route.home.name]
        commands.add_metric(values, tally.calls)
        failed.add_metric(values, tally.errors)
        buckets = list(zip(_BOUNDS, accumulate(tally.buckets), strict=True))
        latency.add_metric(values, buckets, tally.sum_us / 1e6)
    yield from (commands, failed, latency)


def _snapshots(snapshots: Mapping[str, MemorySnapshot]) -> Iterator[Metric]:
    families: tuple[tuple[type[Counter] | type[Gauge], str, str, Callable[[MemorySnapshot], float]], ...] = (
        (Counter, "written", "Snapshots written.", lambda each: each.saves),
        (Counter, "failed", "Snapshots that could not be written.", lambda each: each.failures),
        (
            Gauge,
            "time_seconds",
            "When the last one was written; 0: not yet.",
            lambda each: each.saved_at / 1000,
        ),
        (Gauge, "keys", "Keys in the last one.", lambda each: each.keys),
        (Gauge, "bytes", "Size of the last one.", lambda each: each.size),
    )
    for family, name, text, value in families:
        metric = family(f"redtier_snapshot_{name}", text, labels=["backend"])
        for backend, snapshot in snapshots.items():
            metric.add_metric([backend], value(snapshot))
        yield metric


def _dictionaries(homes: Sequence[Home]) -> Iterator[Metric]:
    trainings = [home.training for home in homes if isinstance(home, ColdHome) and home.training is not None]
    families: tuple[tuple[type[Counter] | type[Gauge], str, str, Callable[[TrainedRoute], int]], ...] = (
        (Gauge, "id", "The dictionary in use; 0: none.", lambda route: route.id),
        (Counter, "trained", "Dictionaries that were trained here.", lambda route: route.trained),
        (
            Counter,
            "vain",
            "Times that none was worth having, or could not be stored.",
            lambda route: route.vain,
        ),
        (Counter, "records", "Values written.", lambda route: route.total().records),
        (Counter, "raw_bytes", "Their size, raw.", lambda route: route.total().raw_bytes),
        (Counter, "payload_bytes", "Their size, compressed.", lambda route: route.total().payload_bytes),
    )
    for family, name, text, value in families:
        metric = family(f"redtier_dictionary_{name}", text, labels=["route", "backend"])
        for training in trainings:
            for route in training.routes:
                metric.add_metric([route.prefix.decode() + "*", training.name], value(route))
        yield metric


def _mirrors(mirrors: Sequence[Mirror]) -> Iterator[Metric]:
    labels = ["route", "backend"]
    families: tuple[tuple[type[Counter] | type[Gauge], str, str], ...] = (
        (Gauge, "pending", "Keys in which the second backend may lag."),
        (Counter, "copied", "Keys put to the second backend, or removed there."),
        (Counter, "dropped", "Changes that were not mirrored, so that a copy is due."),
        (Counter, "refused", "Copies that a backend refused, of keys that it can't hold."),
        (Counter, "compared", "Keys that were compared."),
        (Counter, "differences", "Keys that differed, and were not written meanwhile."),
    )
    for family, name, text in families:
        metric = family(f"redtier_mirror_{name}", text, labels=labels)
        for mirror in mirrors:
            values = [mirror.route.prefix.decode() + "*", mirror.target.name]
            metric.add_metric(values, mirror.figures()[name])
        yield metric


def _commands(source: InfoSource) -> Iterator[Metric]:
    yield from _each(
        "command",
        # There are hundreds, of which few are ever asked for.
        {spec.title: spec for spec in every_spec(source.table) if spec.calls or spec.rejected},
        (Counter, "redtier_command_calls", "Calls of the command.", lambda s: s.calls),
        (
            Counter,
            "redtier_command_seconds",
            "Time of the command, an estimate by a sample where it is quick.",
            lambda s: s.timing.sum_us(s.calls) / 1e6,
        ),
        (Counter, "redtier_command_failures", "Calls answered with an error.", lambda s: s.failed),
        (Counter, "redtier_command_rejections", "Requests refused before a call.", lambda s: s.rejected),
    )
    yield from _each(
        "code",
        source.dispatcher.errors,
        (Counter, "redtier_errors", "Error replies, by their first word.", lambda count: count),
    )


def _each(
    label: str,
    things: Mapping[str, T],
    *metrics: tuple[type[Counter] | type[Gauge], str, str, Callable[[T], float]],
) -> Iterator[Metric]:
    """Metrics by type, name, help text and value, each with a sample of every thing."""
    for family, name, text, value in metrics:
        metric = family(name, text, labels=[label])
        for title, thing in things.items():
            metric.add_metric([title], value(thing))
        yield metric
