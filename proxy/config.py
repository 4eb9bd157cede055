"""TOML → frozen dataclasses, checked whole at load.

Each table of the file is a dataclass here, each option a field: the field's name is the option's, its
value the default, and its annotation says how the TOML value is checked and converted (``Size``,
``Duration`` ... of ``proxy.values``, ``Literal[...]``, ``bool``).  Nothing else states an option; what
joins several of them stands in a table's ``mistakes``.  ``config.example.toml`` explains each to users.

Units: sizes are bytes, durations milliseconds.
"""

# ruff: noqa: RUF009  the calls among the defaults, such as size("1gb"), give immutable values

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Final, Literal
from urllib.parse import urlsplit

from proxy.options import (
    SENTINEL_SCHEMES,
    Address,
    Count,
    CountOrZero,
    DictionarySize,
    Duration,
    File,
    HttpUrl,
    Lanes,
    Level,
    Limit,
    ListenAddress,
    ListenAddresses,
    Mistake,
    Name,
    Password,
    Percent,
    PostgresUrl,
    PostgresUrlOrNone,
    Prefix,
    Reader,
    RedisUrl,
    Samples,
    ScriptMemory,
    Secret,
    Size,
    SqlName,
    Table,
    Text,
    Timeout,
    choice,
    duration,
    either,
    options,
    or_known,
    quoted,
    show_duration,
    show_size,
    shown,
    size,
)

DEFAULT: Final = """
[backends.memory]
type = "memory"
[backends.local]
type = "sqlite"
[[routes]]
prefix = ""
backend = "memory"
[[routes]]
prefix = "short:"
backend = "memory"
[[routes]]
prefix = "working:"
backend = "memory"
[[routes]]
prefix = "long:"
backend = "local"
"""
"""Backends and routes of a file that names neither, and of no file at all."""


class ConfigError(Exception):
    """``mistakes`` has a line for each: file, table, option, and what would be right."""

    def __init__(self, mistakes: Sequence[str]) -> None:
        super().__init__("\n".join(mistakes))
        self.mistakes = tuple(mistakes)


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsConfig(Table):
    listen: ListenAddresses = ()
    cert: File = ""
    key: File = ""
    ca: File = ""
    client_auth: Literal["no", "optional", "yes"] = "no"

    def mistakes(self) -> Iterator[Mistake]:
        for option in ("cert", "key"):
            if self.listen and not getattr(self, option):
                yield option, "must be given, since listen is"
            if getattr(self, option) and not self.listen:
                yield option, 'has no effect without listen, such as ["127.0.0.1:6381"]'
        if self.client_auth != "no" and not self.ca:
            yield "ca", f"must be given, since client_auth is {shown(self.client_auth)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig(Table):
    listen: ListenAddresses = (Address("127.0.0.1", 6380),)
    password: Password = Secret()
    max_clients: Count = 10_000
    idle_timeout: Duration = 0
    query_buffer_max: Limit = size("1gb")
    output_buffer_max: Limit = size("64mb")
    key_max: Limit = size("512mb")
    pipeline_max: Count = 256
    cursors_max: Count = 10_000
    drain_timeout: Duration = duration("10s")
    tcp_backlog: Count = 511
    tcp_keepalive: Duration = duration("300s")
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    slowlog_slower_than: Duration = duration("10ms")
    slowlog_max_len: CountOrZero = 128
    tracking_table_max_keys: CountOrZero = 1_000_000
    latency_threshold: Duration = 0
    debug_commands: Literal["no", "local", "yes"] = "no"
    tls: TlsConfig = TlsConfig()

    def mistakes(self) -> Iterator[Mistake]:
        if not self.listen and not self.tls.listen:
            yield "listen", "must have an address, here or in [server.tls]"


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpConfig(Table):
    listen: ListenAddress = Address("127.0.0.1", 9380)


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheConfig(Table):
    max_bytes: Size = size("256mb")


@dataclass(frozen=True, slots=True, kw_only=True)
class TransactionsConfig(Table):
    across: Literal["refuse", "split"] = "refuse"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptsConfig(Table):
    timeout: Timeout = duration("5s")
    max_memory: ScriptMemory = size("64mb")
    cache_max: Count = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendConfig(Table):
    type: ClassVar[str]
    cold: ClassVar[bool] = False
    name: str  # from the table's header, so not an option
    flushable: bool = False
    in_flight_max: Count = 10_000
    in_flight_bytes_max: Limit = size("256mb")

    @classmethod
    def misplaced(cls, option: str) -> str | None:
        owners = [owner.type for owner in BACKENDS.values() if option in options(owner)]
        return f"does not apply to a {cls.type} backend, only to {' and '.join(owners)}" if owners else None


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryBackend(BackendConfig):
    type: ClassVar[str] = "memory"
    flushable: bool = True
    max_bytes: Limit = size("512mb")
    policy: Literal["allkeys-lru", "volatile-lru", "volatile-ttl", "noeviction"] = "allkeys-lru"
    snapshot: Text = ""
    snapshot_interval: Duration = duration("5m")


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisBackend(BackendConfig):
    type: ClassVar[str] = "redis"
    url: RedisUrl = Secret("redis://127.0.0.1:6379")
    password: Password = Secret()
    sentinel_user: Text = ""
    sentinel_password: Password = Secret()
    tls_ca: File = ""
    tls_cert: File = ""
    tls_key: File = ""
    connect_timeout: Timeout = duration("2s")
    timeout: Timeout = duration("5s")
    backoff_max: Timeout = duration("2s")
    breaker_failures: Count = 5
    retry_reads: bool = True
    lanes: Lanes = 2
    overload: Literal["wait", "refuse"] = "wait"
    dedicated_max: Count = 1_000
    cache_heartbeat: Timeout = duration("1s")
    replica_lag_max: Timeout = duration("10s")

    def mistakes(self) -> Iterator[Mistake]:
        url = urlsplit(self.url)
        if self.password and url.password:
            yield "password", "must not be given, since url has one"
        for option in ("tls_ca", "tls_cert", "tls_key"):
            if getattr(self, option) and not url.scheme.startswith("rediss"):
                yield option, "has no effect unless url is rediss://"
        for option in ("sentinel_user", "sentinel_password"):
            if getattr(self, option) and not self.url.startswith(SENTINEL_SCHEMES):
                yield option, "has no effect unless url is redis+sentinel://"
        if self.sentinel_user and not self.sentinel_password:
            yield "sentinel_password", "must be given, since sentinel_user is"
        if bool(self.tls_cert) != bool(self.tls_key):
            yield ("tls_key", "tls_cert")[not self.tls_cert], "must be given, since its counterpart is"


@dataclass(frozen=True, slots=True, kw_only=True)
class ColdBackend(BackendConfig):
    cold: ClassVar[bool] = True
    sweep_interval: Duration = duration("10s")
    sweep_interval_max: Duration = duration("5m")
    scrub: Size = 0  # bytes a second
    scrub_interval: Duration = duration("1d")
    dictionaries_max: Count = 64
    journal: Text = ""
    journal_max: Limit = size("256mb")
    lease: Timeout = duration("1h")


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresBackend(ColdBackend):
    type: ClassVar[str] = "postgres"
    url: PostgresUrl = Secret("postgresql://localhost/redtier")
    listen_url: PostgresUrlOrNone = Secret()
    table: SqlName = "redtier"
    pool: Count = 4
    connect_timeout: Timeout = duration("5s")
    timeout: Timeout = duration("10s")
    statement_cache_size: CountOrZero = 1024
    notify: bool = True
    listen_heartbeat: Timeout = duration("2s")
    single_writer: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Backend(ColdBackend):
    type: ClassVar[str] = "s3"
    bucket: Name  # no default: bucket names are global, and any other name would be somebody else's bucket
    prefix: Text = ""
    endpoint_url: HttpUrl = ""
    region: Text = ""
    access_key: Password = Secret()
    secret_key: Password = Secret()
    ca_bundle: File = ""
    single_writer: bool = False
    connections: Count = 64
    connect_timeout: Timeout = duration("5s")
    timeout: Timeout = duration("30s")
    cdn_url: HttpUrl = ""

    def mistakes(self) -> Iterator[Mistake]:
        if bool(self.access_key) != bool(self.secret_key):
            yield ("secret_key", "access_key")[not self.access_key], "must be given, since its counterpart is"


@dataclass(frozen=True, slots=True, kw_only=True)
class SqliteBackend(ColdBackend):
    type: ClassVar[str] = "sqlite"
    path: Name = "redtier.db"  # relative to the working directory
    timeout: Timeout = duration("5s")


BACKENDS: Final[dict[str, type[BackendConfig]]] = {
    cls.type: cls for cls in (MemoryBackend, RedisBackend, PostgresBackend, S3Backend, SqliteBackend)
}


@dataclass(frozen=True, slots=True, kw_only=True)
class MirrorConfig(Table):
    backend: Text
    percent: Percent = 100
    compare: bool = True
    compare_rate: Count = 100
    queue_max: Count = 100_000
    queue_bytes_max: Limit = size("64mb")


DICTIONARY_MAX: Final = size("1mb")  # a larger one is worth no more, and is held in every process


@dataclass(frozen=True, slots=True, kw_only=True)
class OffloadConfig(Table):
    backend: Text
    over: Limit = size("256kb")
    encoding: Literal["none", "gzip", "zstd"] = "gzip"
    grace: Timeout = duration("1h")
    transfers: Count = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteConfig(Table):
    """The defaults are those of a cold backend's routes; ``HOT_ROUTE`` has what differs elsewhere."""

    prefix: Prefix
    backend: Text
    cache: bool = True
    cache_ttl: Duration = 0
    write: Literal["through", "back"] = "through"
    ttl: Duration = 0
    max_value: Limit = size("64mb")
    compression: Literal["none", "zstd"] = "zstd"
    compression_level: Level = 3
    compress_min: Size = 64
    integrity: Literal["none", "sha256"] = "sha256"
    dictionary: Literal["none", "auto"] = "none"
    dictionary_size: DictionarySize = size("64kb")
    dictionary_samples: Samples = 2000
    dictionary_samples_bytes: Limit = size("4mb")
    chunk_over: Size = size("64kb")
    chunk_size: Limit = size("4kb")
    read_policy: Literal["primary", "prefer_replica", "replica", "any"] = "primary"

    @property
    def seals(self) -> bool:
        """Whether values are stored in another form than their own."""
        return self.compression != "none" or self.integrity != "none"

    mirror: MirrorConfig | None = None
    offload: OffloadConfig | None = None

    def mistakes(self) -> Iterator[Mistake]:
        if self.dictionary_size > DICTIONARY_MAX:
            yield "dictionary_size", f"must be at most {shown(show_size(DICTIONARY_MAX))}"


# Any: what the fields hold, whose types differ.
HOT_ROUTE: Final[dict[str, Any]] = {
    "cache": False,
    "max_value": size("512mb"),
    "compression": "none",
    "integrity": "none",
}
_HOT_DEFAULTS: Final = RouteConfig(prefix=b"", backend="", **HOT_ROUTE)
_SEALED_ONLY: Final = ("compression", "compression_level", "compress_min", "integrity")
_CHUNKED: Final = ("chunk_over", "chunk_size")
_TRAINED: Final = ("dictionary", "dictionary_size", "dictionary_samples", "dictionary_samples_bytes")
# Options of a redis route which say how it seals, and what is said where it doesn't.
_SEALED_BY: Final = ("compression_level", "compress_min")
_UNSEALED: Final = 'has no effect on a redis backend without compression = "zstd" or integrity = "sha256"'
_ABSENT: Final[Mapping[str, tuple[tuple[str, ...], str]]] = {
    "memory": (
        ("cache", "cache_ttl", "write", *_SEALED_ONLY, *_TRAINED, *_CHUNKED),
        "does not apply to a memory backend; leave it out",
    ),
    "redis": (
        ("ttl", "write", *_TRAINED, *_CHUNKED),
        "is not available on a redis backend in this version; leave it out",
    ),
}
"""By type of backend: the options of a route that must stay as they are, and what is said if they don't."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Table):
    server: ServerConfig = ServerConfig()
    http: HttpConfig = HttpConfig()
    cache: CacheConfig = CacheConfig()
    transactions: TransactionsConfig = TransactionsConfig()
    scripts: ScriptsConfig = ScriptsConfig()
    backends: dict[str, BackendConfig]
    routes: tuple[RouteConfig, ...]  # as the file orders them, with the defaults of their backend's type
    source: str  # the file's name


def load(path: str) -> Config:
    """The configuration in the file; raises ``ConfigError`` with every mistake in it."""
    try:
        text = Path(path).read_text("utf-8")
    except OSError as error:
        raise ConfigError([f"{path}: can't be read: {error.strerror}"]) from None
    except UnicodeDecodeError:
        raise ConfigError([f"{path}: is not TOML: not UTF-8 text"]) from None
    return parse(text, path)


def default_config() -> Config:
    """What holds where there is no file."""
    return parse("", "built-in defaults")


def parse(text: str, source: str) -> Config:
    """The configuration in ``text``; errors call it ``source``.  Raises ``ConfigError``."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([f"{source}: is not TOML: {error}"]) from None
    if not raw.keys() & {"backends", "routes"}:
        raw.update(tomllib.loads(DEFAULT))
    reader = Reader(source)
    tables = raw.pop("backends", {})
    types = _types(reader, tables)
    backends = _backends(reader, tables, types)
    routes = _routes(reader, raw.pop("routes", []), types, backends)
    given = {"backends": backends, "routes": routes, "source": source}
    config = reader.table(Config, raw, "", given, also=("backends", "routes"))
    if config is None or reader.lines:
        raise ConfigError(reader.lines)
    return config


def in_backend(config: Config, name: str) -> Config:
    """The configuration with all routes in one backend, as keys are copied to it or mirrored there.

    Their values are sealed as their route says, or as a route's defaults say where one of its two backends
    seals by default and the other does not.  What is copied is no new write: a key without an expiry
    stays so.
    """
    cold = config.backends[name].cold
    other = {"cache": False} if cold else HOT_ROUTE
    offload = _offload_in(config, name)
    routes = [
        replace(
            route,
            backend=name,
            cache=False,
            write="through",
            ttl=0,
            mirror=None,
            offload=route.offload if route.backend == name else offload,
            read_policy="primary",
        )
        if config.backends[route.backend].cold == cold
        else RouteConfig(prefix=route.prefix, backend=name, offload=offload, **other)
        for route in config.routes
    ]
    return replace(config, routes=tuple(routes))


def reading(config: Config, name: str) -> Config:
    """The configuration with one backend alone, as it is read to copy or repair from it: values of any size,
    unsealed wherever their routes lead by now."""
    options = HOT_ROUTE | {"integrity": "sha256"}
    if config.backends[name].cold:
        options = {"cache": False, "max_value": HOT_ROUTE["max_value"]}
    offload = _offload_in(config, name)
    return replace(config, routes=(RouteConfig(prefix=b"", backend=name, offload=offload, **options),))


def _offload_in(config: Config, name: str) -> OffloadConfig | None:
    """Where a backend's large values lie: whoever reads it must know, whatever route a key has."""
    offloads = (route.offload for route in config.routes if route.backend == name)
    return next(filter(None, offloads), None)


_OPTIONAL: Final = ("mirror", "offload")
"""Columns that are shown only where a route has one."""


def describe(config: Config) -> Iterator[str]:
    """The routes as lines of an aligned table, for people."""
    rows: list[tuple[str, ...]] = [
        ("prefix", "backend", "type", "cache", "ttl", "max_value", "compression", "integrity", *_OPTIONAL)
    ]
    for route in config.routes:
        near = f"yes, {show_duration(route.cache_ttl)}" if route.cache_ttl else "yes"
        zstd = f"{route.compression} {route.compression_level}"
        if route.dictionary == "auto":
            zstd += ", trained"
        rows.append(
            (
                shown(route.prefix.decode()),
                route.backend,
                config.backends[route.backend].type,
                near if route.cache else "no",
                show_duration(route.ttl),
                show_size(route.max_value),
                zstd if route.compression != "none" else "none",
                route.integrity,
                _mirror_of(route),
                _offload_of(route),
            )
        )
    columns = [
        (head, *cells)
        for head, *cells in zip(*rows, strict=True)
        if head not in _OPTIONAL or any(cell != "no" for cell in cells)
    ]
    widths = [max(map(len, column)) for column in columns]
    for row in zip(*columns, strict=True):
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _offload_of(route: RouteConfig) -> str:
    return "no" if route.offload is None else f"{route.offload.backend}, over {show_size(route.offload.over)}"


def _mirror_of(route: RouteConfig) -> str:
    mirror = route.mirror
    if mirror is None:
        return "no"
    return mirror.backend + (f", {mirror.percent} %" if mirror.percent < 100 else "")


_Types = dict[str, type[BackendConfig] | None]
"""By name; None where the type is a mistake, so that a route can name the backend all the same."""


def _types(reader: Reader, raw: object) -> _Types:
    if not isinstance(raw, dict):
        reader.mistake("[backends]", "", "must hold a table for each backend: [backends.NAME]")
        return {}
    types: _Types = dict.fromkeys(raw)
    for name, table in raw.items():
        where = f"[backends.{quoted(name)}]"
        if not isinstance(table, dict):
            reader.mistake(where, "", f"must be a table, not {shown(table)}")
        elif "type" not in table:
            reader.mistake(where, "type", f"must be given: {either(BACKENDS)}")
        else:
            try:
                types[name] = BACKENDS[choice(table.pop("type"), tuple(BACKENDS))]
            except ValueError as error:
                reader.mistake(where, "type", str(error))
    return types


def _backends(reader: Reader, raw: Mapping[str, object], types: _Types) -> dict[str, BackendConfig]:
    backends: dict[str, BackendConfig] = {}
    for name, cls in types.items():
        if cls is not None:
            where = f"[backends.{quoted(name)}]"
            backend = reader.table(cls, raw[name], where, {"name": name}, also=("type",))
            if backend is not None:
                backends[name] = backend
    return backends


def _routes(
    reader: Reader, raw: object, types: _Types, backends: Mapping[str, BackendConfig]
) -> tuple[RouteConfig, ...]:
    if not isinstance(raw, list):
        reader.mistake("[[routes]]", "", "must be a table for each route, headed by [[routes]]")
        return ()
    routes: list[RouteConfig] = []
    seen: dict[str, int] = {}
    for number, table in enumerate(raw, 1):
        where = f"[[routes]] #{number}"
        fields = table if isinstance(table, dict) else {}
        prefix, name = fields.get("prefix"), fields.get("backend")
        if isinstance(prefix, str):
            where += f" (prefix {shown(prefix)})"
            if (first := seen.setdefault(prefix, number)) != number:
                reader.mistake(where, "prefix", f"is already that of #{first}")
        if isinstance(name, str) and name not in types:
            reader.mistake(where, "backend", f"unknown backend {shown(name)}{or_known(name, types)}")
        cls = types.get(name) if isinstance(name, str) else None
        route = reader.table(RouteConfig, table, where, HOT_ROUTE if cls and not cls.cold else {})
        if route is None:
            continue
        routes.append(route)
        if cls is not None and cls.type != "redis" and route.read_policy != "primary":
            why = f"does not apply to a {cls.type} backend, which has no replicas; leave it out"
            reader.mistake(where, "read_policy", why)
        elif route.cache and route.read_policy != "primary":
            why = 'must be "primary" where cache = true: a replica may answer what was true before a change'
            reader.mistake(where, "read_policy", why)
        if cls is not None and cls.cold and route.dictionary == "auto" and route.compression == "none":
            reader.mistake(where, "dictionary", 'has no effect without compression = "zstd"')
        if cls is not None and cls.cold and (cls is not PostgresBackend or route.write == "back"):
            why = (
                "has an effect on Postgres alone"
                if cls is not PostgresBackend
                else 'has no effect behind write = "back"'
            )
            for option in _CHUNKED:
                if getattr(route, option) != getattr(_HOT_DEFAULTS, option):
                    reader.mistake(where, option, why)
        if cls is not None and not cls.cold:
            absent, why = _ABSENT[cls.type]
            for option in absent:
                if getattr(route, option) != getattr(_HOT_DEFAULTS, option):
                    reader.mistake(where, option, why)
            if cls is RedisBackend and not route.seals:
                for option in _SEALED_BY:
                    if getattr(route, option) != getattr(_HOT_DEFAULTS, option):
                        reader.mistake(where, option, _UNSEALED)
        if route.mirror is not None:
            mistake = _wrong_mirror(route.backend, route.mirror.backend, types, backends)
            if mistake:
                reader.mistake(where, "mirror backend", mistake)
        if route.offload is not None:
            for option, why in _wrong_offload(route, types, routes):
                reader.mistake(where, f"offload {option}".rstrip(), why)
    _check_writes(reader, routes, backends)
    if "" not in seen:
        reader.mistake("[[routes]]", "", 'no catch-all route; add one with prefix = ""')
    return tuple(routes)


def _check_writes(
    reader: Reader, routes: Sequence[RouteConfig], backends: Mapping[str, BackendConfig]
) -> None:
    """A journal stands before a whole backend, and before one alone."""
    journals: dict[str, str] = {}  # whose they are, by their place
    for name, backend in backends.items():
        where = f"[backends.{quoted(name)}]"
        writes = {route.write for route in routes if route.backend == name}
        if not isinstance(backend, ColdBackend):
            continue
        if len(writes) > 1:
            why = 'must be "back" on all routes to this backend, or on none; name a second backend'
            reader.mistake(where, "write", why)
        elif "back" in writes and not backend.journal:
            why = 'must be given, since a route to it has write = "back": a directory on a local disk'
            reader.mistake(where, "journal", why)
        elif "back" not in writes and backend.journal:
            reader.mistake(where, "journal", 'has no effect unless write = "back" on the routes to it')
        place = os.path.realpath(backend.journal)
        if backend.journal and journals.setdefault(place, name) != name:
            reader.mistake(where, "journal", f"is that of backend {shown(journals[place])}: each has its own")
        if "back" in writes and any(route.mirror and route.mirror.backend == name for route in routes):
            why = 'can\'t be "back" where mirrors write past the journal: mirror to another backend'
            reader.mistake(where, "write", why)


def _wrong_offload(route: RouteConfig, types: _Types, routes: Sequence[RouteConfig]) -> Iterator[Mistake]:
    """What is wrong with where a route offloads to, by option; ``routes`` are those up to this one."""
    offload = route.offload
    assert offload is not None
    home = types.get(route.backend)
    if home is not None and home is not PostgresBackend:
        yield "", f"is for postgres backends, not for {home.type}; leave it out"
        return
    if offload.backend not in types:
        yield "backend", f"unknown backend {shown(offload.backend)}{or_known(offload.backend, types)}"
    elif types[offload.backend] not in (S3Backend, None):
        yield "backend", f"must be an s3 backend, which {shown(offload.backend)} is not"
    for other in routes:
        if other.backend == route.backend and other.offload is not None:
            for option in ("backend", "grace", "transfers"):
                if getattr(offload, option) != getattr(other.offload, option):
                    prefix = shown(other.prefix.decode())
                    yield option, f"must be as for prefix {prefix}, which is in the same backend"
            return


def _wrong_mirror(first: str, second: str, types: _Types, backends: Mapping[str, BackendConfig]) -> str:
    """What is wrong with a mirror of one backend in another, or empty."""
    if second not in types:
        return f"unknown backend {shown(second)}{or_known(second, types)}"
    if types[second] is MemoryBackend:
        return (
            f"{shown(second)} is a memory backend, which would be empty after the restart that switches to it"
        )
    if first in backends and second in backends:
        home, mirror = backends[first], backends[second]
        if replace(home, name="") == replace(mirror, name=""):
            return f"{shown(second)} is the same place as the route's own backend"
    return ""
