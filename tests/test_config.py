"""What a configuration may say, and what is said to one that is wrong."""

from __future__ import annotations

import tomllib
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config import (
    BACKENDS,
    HOT_ROUTE,
    BackendConfig,
    CacheConfig,
    Config,
    ConfigError,
    HttpConfig,
    MemoryBackend,
    MirrorConfig,
    OffloadConfig,
    RedisBackend,
    RouteConfig,
    S3Backend,
    ScriptsConfig,
    ServerConfig,
    SqliteBackend,
    TlsConfig,
    default_config,
    describe,
    in_backend,
    load,
    parse,
    reading,
)
from proxy.options import (
    Address,
    Secret,
    Table,
    address,
    duration,
    options,
    secret,
    show_duration,
    show_size,
    size,
)

pytestmark = pytest.mark.once  # nothing of it is compiled

EXAMPLE = Path(__file__).parent.parent / "config.example.toml"

BASE = """
[backends.hot]
type = "memory"
[backends.up]
type = "redis"
[backends.cold]
type = "sqlite"
[[routes]]
prefix = ""
backend = "hot"
"""


TABLES = (
    ServerConfig,
    TlsConfig,
    HttpConfig,
    CacheConfig,
    ScriptsConfig,
    RouteConfig,
    MirrorConfig,
    OffloadConfig,
    *BACKENDS.values(),
)


def mistakes(text: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        parse(text, "r.toml")
    return caught.value.mistakes


# The defaults


def test_without_a_file_long_is_in_sqlite_and_all_else_in_memory() -> None:
    config = default_config()
    homes = {route.prefix: config.backends[route.backend].type for route in config.routes}
    assert homes == {b"": "memory", b"short:": "memory", b"working:": "memory", b"long:": "sqlite"}
    assert config.server == ServerConfig()
    assert config.backends["local"] == SqliteBackend(name="local", path="redtier.db")


def test_a_file_without_backends_and_routes_gets_the_default_ones() -> None:
    config = parse("[server]\nmax_clients = 5\n", "r.toml")
    assert config.server.max_clients == 5
    assert config.routes == default_config().routes


def test_a_route_takes_its_defaults_from_the_type_of_its_backend() -> None:
    config = parse(BASE + '[[routes]]\nprefix = "long:"\nbackend = "cold"\n', "r.toml")
    hot, cold = config.routes
    assert (hot.cache, hot.max_value, hot.compression, hot.integrity) == (False, 512 << 20, "none", "none")
    assert (cold.cache, cold.max_value, cold.compression, cold.integrity) == (
        True,
        64 << 20,
        "zstd",
        "sha256",
    )


def test_a_hot_route_may_say_what_holds_anyway() -> None:
    text = BASE + '[[routes]]\nprefix = "a:"\nbackend = "up"\ncache = false\ncompression = "none"\n'
    assert parse(text, "r.toml").routes[1] == RouteConfig(prefix=b"a:", backend="up", **HOT_ROUTE)


def test_prefixes_are_utf_8() -> None:
    assert (
        parse(BASE + '[[routes]]\nprefix = "é:"\nbackend = "hot"\n', "r.toml").routes[1].prefix
        == b"\xc3\xa9:"
    )


# The example


def example_tables() -> list[tuple[type[Table], dict[str, object], Table, Table]]:
    """Each table of the example: its class, as written, as loaded, and with nothing but defaults."""
    raw, config = tomllib.loads(EXAMPLE.read_text()), load(str(EXAMPLE))
    tables: list[tuple[type[Table], dict[str, object], Table, Table]] = [
        (ServerConfig, raw["server"], config.server, ServerConfig()),
        (TlsConfig, raw["server"]["tls"], config.server.tls, TlsConfig()),
        (HttpConfig, raw["http"], config.http, HttpConfig()),
        (CacheConfig, raw["cache"], config.cache, CacheConfig()),
        (ScriptsConfig, raw["scripts"], config.scripts, ScriptsConfig()),
        (
            RouteConfig,
            raw["routes"][0],
            config.routes[0],
            RouteConfig(
                prefix=b"long:",
                backend="archive",
                mirror=MirrorConfig(backend="blobs"),
                offload=OffloadConfig(backend="blobs"),
            ),
        ),
        (
            MirrorConfig,
            raw["routes"][0]["mirror"],
            config.routes[0].mirror or pytest.fail("no mirror"),
            MirrorConfig(backend="blobs"),
        ),
        (
            OffloadConfig,
            raw["routes"][0]["offload"],
            config.routes[0].offload or pytest.fail("no offload"),
            OffloadConfig(backend="blobs"),
        ),
    ]
    for name, backend in config.backends.items():
        cls = BACKENDS[raw["backends"][name].pop("type")]
        default = S3Backend(name=name, bucket="redtier") if cls is S3Backend else cls(name=name)
        tables.append((cls, raw["backends"][name], backend, default))
    return tables


def test_the_example_shows_every_option_of_every_table() -> None:
    tables = example_tables()
    assert {cls for cls, *_ in tables} == {
        ServerConfig,
        TlsConfig,
        HttpConfig,
        CacheConfig,
        ScriptsConfig,
        RouteConfig,
        MirrorConfig,
        OffloadConfig,
    } | set(BACKENDS.values())
    for cls, written, _, _ in tables:
        assert set(written) == set(options(cls)), cls


def test_the_example_shows_the_defaults() -> None:
    for _, _, loaded, default in example_tables():
        assert loaded == default


def test_the_example_explains_every_option() -> None:
    seen: set[str] = set()
    for line in EXAMPLE.read_text().splitlines():
        option, sign, _ = line.partition(" = ")
        if sign and not line.startswith("#") and option not in {"type", "prefix", "backend"}:
            assert " # " in line, line
            seen.add(option)
    assert {"listen", "max_value", "statement_cache_size"} <= seen


@pytest.mark.parametrize(
    "cls", [ServerConfig, TlsConfig, HttpConfig, CacheConfig, ScriptsConfig, RouteConfig, *BACKENDS.values()]
)
def test_every_field_is_an_option(cls: type[Table]) -> None:
    """A field whose annotation nobody can check would silently not be one."""
    assert {field.name for field in fields(cls)} - {"name"} == set(options(cls))  # type: ignore[arg-type]


# Values


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (4096, 4096),
        ("4096", 4096),
        ("10b", 10),
        ("1k", 1000),
        ("1kb", 1024),
        ("1m", 10**6),
        ("64MB", 64 << 20),
        ("2g", 2 * 10**9),
        ("1gb", 1 << 30),
        (0, 0),
    ],
)
def test_sizes(written: object, expected: int) -> None:
    assert size(written) == expected


@pytest.mark.parametrize(
    "written",
    [-1, True, 1.5, "1.5mb", "1 mb", "mb", "", "1tb", "-1kb", "9" * 18, "\N{ARABIC-INDIC DIGIT ONE}kb"],
)
def test_what_is_no_size(written: object) -> None:
    with pytest.raises(ValueError, match="must be a size such as"):
        size(written)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("0", 0),
        (0, 0),
        ("0s", 0),
        ("500ms", 500),
        ("2s", 2000),
        ("5m", 300_000),
        ("1h", 3_600_000),
        ("7d", 604_800_000),
    ],
)
def test_durations(written: object, expected: int) -> None:
    assert duration(written) == expected


@pytest.mark.parametrize("written", [5, "5", "1.5s", "s", "", True, "1w", "-1s", "999999999999d"])
def test_what_is_no_duration(written: object) -> None:
    with pytest.raises(ValueError, match="must be a duration such as"):
        duration(written)


@given(st.integers(0, 2**53 - 1))
def test_shown_quantities_read_back_the_same(value: int) -> None:
    assert size(show_size(value)) == value
    assert duration(show_duration(value)) == value


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("127.0.0.1:6380", Address("127.0.0.1", 6380)),
        ("localhost:0", Address("localhost", 0)),
        ("[::1]:6380", Address("::1", 6380)),
        ("unix:/run/redtier.sock", Address("", 0, "/run/redtier.sock")),
    ],
)
def test_addresses(written: str, expected: Address) -> None:
    assert address(written) == expected
    assert str(expected) == written


@pytest.mark.parametrize(
    "written", [":6380", "6380", 6380, "::1:6380", "host:65536", "host:", "unix:", "h:1 ", ""]
)
def test_what_is_no_address(written: object) -> None:
    with pytest.raises(ValueError, match=r'must be "host:port", "\[::1\]:port" or "unix:/path"'):
        address(written)


# Secrets


def test_a_secret_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDTIER_TEST_SECRET", "hunter2")
    assert secret("env:REDTIER_TEST_SECRET") == "hunter2"


def test_a_secret_from_a_file_loses_its_line_end(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("hunter2\n")
    assert secret(f"file:{tmp_path}/secret") == "hunter2"


def test_an_empty_variable_or_file_does_not_mean_no_password(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("REDTIER_TEST_SECRET", "")
    (tmp_path / "secret").write_text("\n")
    with pytest.raises(ValueError, match=r'^the environment variable "REDTIER_TEST_SECRET" is empty$'):
        secret("env:REDTIER_TEST_SECRET")
    with pytest.raises(ValueError, match=r'^the file ".*/secret" is empty$'):
        secret(f"file:{tmp_path}/secret")


def test_a_secret_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("REDTIER_TEST_SECRET", raising=False)
    server = '[server]\npassword = "env:REDTIER_TEST_SECRET"\n'
    backend = f'[backends.a]\ntype = "redis"\nurl = "file:{tmp_path}/no"\n'
    assert mistakes(BASE + server + backend) == (
        f'r.toml: [backends.a] url: the file "{tmp_path}/no" can\'t be read: No such file or directory',
        'r.toml: [server] password: the environment variable "REDTIER_TEST_SECRET" is not set',
    )


def test_no_repr_shows_a_secret() -> None:
    text = """
    [server]
    password = "hunter2"
    [backends.up]
    type = "redis"
    url = "redis://:hunter2@127.0.0.1:6379"
    [backends.pg]
    type = "postgres"
    url = "postgresql://u:hunter2@localhost/x"
    listen_url = "postgresql://u:hunter2@localhost/x"
    [backends.s3]
    type = "s3"
    bucket = "b"
    access_key = "hunter2"
    secret_key = "hunter2"
    [[routes]]
    prefix = ""
    backend = "up"
    """
    config = parse(text, "r.toml")
    assert config.server.password == "hunter2"
    assert "hunter2" not in repr(config)
    assert repr(Secret()) == "''"


@pytest.mark.parametrize(
    "text",
    [
        '[backends.hot]\ntype = "redis"\nurl = "redis://:hunter2/x@127.0.0.1:6379"',
        '[backends.hot]\ntype = "redis"\nurl = "redis://:x/hunter2@127.0.0.1"',
        '[backends.hot]\ntype = "redis"\nurl = "hunter2://x"',
        '[backends.hot]\ntype = "redis"\nurl = "redis://u:[hunter2@x"',
        '[backends.hot]\ntype = "redis"\nurl = "redis://:a#hunter2@x"',
        '[backends.hot]\ntype = "redis"\nurl = "redis+cluster://:hunter2@x/s"',
        '[backends.hot]\ntype = "redis"\nurl = "redis+sentinel://:hunter2@x"',
        '[backends.hot]\ntype = "redis"\nurl = "redis+sentinel://:x/hunter2@x/s"',
        '[backends.hot]\ntype = "redis"\nurl = "redis://:hunter2@x"\npassword = "hunter2"',
        '[backends.hot]\ntype = "postgres"\nurl = "mysql://u:hunter2@x"',
        '[backends.hot]\ntype = "postgres"\nlisten_url = "u:hunter2@x"',
        '[backends.hot]\ntype = "s3"\nbucket = "b"\naccess_key = "hunter2"',
        '[backends.hot]\ntype = "s3"\nbucket = "b"\nendpoint_url = "http://u:hunter2@x"',
        '[backends.hot]\ntype = "memory"\n[server]\npassword = ["hunter2"]',
        '[backends.hot]\ntype = "memory"\n[server]\npasword = "hunter2"',
        '[backends.hot]\ntype = "memory"\n[server]\npassword = "hunter2',
    ],
)
def test_no_mistake_shows_a_secret(text: str) -> None:
    found = mistakes(text + '\n[[routes]]\nprefix = ""\nbackend = "hot"\n')
    assert len(found) == 1
    assert "hunter2" not in found[0]


# Mistakes: what is added to BASE, and the one line that it brings

MISTAKES = """
[sever]
=> [sever]: unknown table; did you mean "server"?

[zzz]
=> [zzz]: unknown table; known are backends, routes, server, http, cache, transactions, scripts

[server.tsl]
=> [server] tsl: unknown table; did you mean "tls"?

[server]
max_client = 1
=> [server] max_client: unknown option; did you mean "max_clients"?

[http]
zzz = 1
=> [http] zzz: unknown option; known are listen

[http]
"a\\nb" = 1
=> [http] "a\\nb": unknown option; known are listen

[backends."a b"]
type = "memory"
max_byte = 1
=> [backends."a b"] max_byte: unknown option; did you mean "max_bytes"?

[backends.a]
typ = "memory"
=> [backends.a] type: must be given: "memory" or "redis" or "postgres" or "s3" or "sqlite"

[backends.a]
type = "postgre"
=> [backends.a] type: must be "memory" or "redis" or "postgres" or "s3" or "sqlite", not "postgre"; did you mean "postgres"?

[backends.a]
type = "s3"
=> [backends.a] bucket: must be given

[backends.a]
type = "memory"
pool = 4
=> [backends.a] pool: does not apply to a memory backend, only to postgres

[backends.a]
type = "sqlite"
url = "x"
=> [backends.a] url: does not apply to a sqlite backend, only to redis and postgres

[[server]]
=> [server]: must be a table, not a list

[backends]
a = 1
=> [backends.a]: must be a table, not 1

[server]
max_clients = 0
=> [server] max_clients: must be an integer of at least 1, not 0

[server]
max_clients = true
=> [server] max_clients: must be an integer of at least 1, not true

[server]
listen = "h:1"
=> [server] listen: must be a list such as ["127.0.0.1:6380"], not "h:1"

[server]
listen = [":6380"]
=> [server] listen: must be "host:port", "[::1]:port" or "unix:/path", not ":6380"

[http]
listen = 9380
=> [http] listen: must be "host:port", "[::1]:port" or "unix:/path", not 9380

[server]
password = 1
=> [server] password: must be text, env:NAME or file:PATH

[server]
idle_timeout = "5"
=> [server] idle_timeout: must be a duration such as "500ms", "2s", "5m", "1h" or "7d", or "0", not "5"

[server]
key_max = "0"
=> [server] key_max: must be a size such as 4096, "64kb", "256mb" or "1gb", at least 1, not "0"

[cache]
max_bytes = 1979-05-27
=> [cache] max_bytes: must be a size such as 4096, "64kb", "256mb" or "1gb", not "1979-05-27"

[server]
log_level = "warn"
=> [server] log_level: must be "debug" or "info" or "warning" or "error", not "warn"; did you mean "warning"?

[backends.a]
type = "memory"
flushable = "yes"
=> [backends.a] flushable: must be true or false, not "yes"

[backends.a]
type = "redis"
timeout = "0"
=> [backends.a] timeout: must be a duration such as "500ms", "2s", "5m", "1h" or "7d", more than 0, not "0"

[backends.a]
type = "sqlite"
path = ""
=> [backends.a] path: must be text that is not empty, not ""

[backends.a]
type = "s3"
bucket = "b"
region = 1
=> [backends.a] region: must be text, not 1

[backends.a]
type = "postgres"
table = "Red tier"
=> [backends.a] table: must be a table's name, or schema.table, of a-z, 0-9 and _, at most 48 long, not "Red tier"

[backends.a]
type = "postgres"
url = "redis://x"
=> [backends.a] url: must be a URL such as postgresql://user:password@host:5432/database

[backends.a]
type = "s3"
bucket = "b"
endpoint_url = "minio:9000"
=> [backends.a] endpoint_url: must be a URL such as "https://host:9000", without credentials or query

[backends.a]
type = "redis"
url = "redis://"
=> [backends.a] url: must be a URL such as redis://user:password@host:6379, rediss://host or unix:///path, special characters written as %XX

[backends.a]
type = "redis"
url = "redis://h/3"
=> [backends.a] url: must not name a database: each client chooses its own by SELECT

[backends.a]
type = "redis"
url = "redis+cluster://h/service"
=> [backends.a] url: must be a URL such as redis+cluster://user:password@host:6379,host:6379, special characters written as %XX

[backends.a]
type = "redis"
url = "redis+sentinel://h"
=> [backends.a] url: must be a URL such as redis+sentinel://user:password@host:26379,host:26379/service, special characters written as %XX

[backends.a]
type = "redis"
url = "redis+sentinel://h:1,:2/mymaster"
=> [backends.a] url: must be a URL such as redis+sentinel://user:password@host:26379,host:26379/service, special characters written as %XX

[backends.a]
type = "redis"
url = "redis+sentinel://h:65536/mymaster"
=> [backends.a] url: must be a URL such as redis+sentinel://user:password@host:26379,host:26379/service, special characters written as %XX

[backends.a]
type = "redis"
url = "redis+sentinel://u:p@h:1,[::1]:2/mymaster?db=1"
=> [backends.a] url: must be a URL such as redis+sentinel://user:password@host:26379,host:26379/service, special characters written as %XX

[backends.a]
type = "redis"
url = "redis+sentinel://:x@h/mymaster"
password = "y"
=> [backends.a] password: must not be given, since url has one

[backends.a]
type = "redis"
sentinel_password = "y"
=> [backends.a] sentinel_password: has no effect unless url is redis+sentinel://

[backends.a]
type = "redis"
url = "redis+sentinel://h/mymaster"
sentinel_user = "u"
=> [backends.a] sentinel_password: must be given, since sentinel_user is

[backends.a]
type = "redis"
tls_ca = "/no/such/file"
=> [backends.a] tls_ca: must be the path of a file that exists, not "/no/such/file"

[server]
listen = []
=> [server] listen: must have an address, here or in [server.tls]

[server.tls]
listen = ["h:1"]
key = "FILE"
=> [server.tls] cert: must be given, since listen is

[server.tls]
cert = "FILE"
=> [server.tls] cert: has no effect without listen, such as ["127.0.0.1:6381"]

[server.tls]
client_auth = "yes"
=> [server.tls] ca: must be given, since client_auth is "yes"

[backends.a]
type = "redis"
url = "redis://:x@h"
password = "y"
=> [backends.a] password: must not be given, since url has one

[backends.a]
type = "redis"
tls_ca = "FILE"
=> [backends.a] tls_ca: has no effect unless url is rediss://

[backends.a]
type = "redis"
url = "rediss://h"
tls_key = "FILE"
=> [backends.a] tls_cert: must be given, since its counterpart is

[backends.a]
type = "s3"
bucket = "b"
access_key = "x"
=> [backends.a] secret_key: must be given, since its counterpart is

[[routes]]
backend = "hot"
=> [[routes]] #2 prefix: must be given

[[routes]]
prefix = "a:"
=> [[routes]] #2 (prefix "a:") backend: must be given

[[routes]]
prefix = ["a:"]
backend = "hot"
=> [[routes]] #2 prefix: must be text, not a list

[[routes]]
prefix = ""
backend = "cold"
=> [[routes]] #2 (prefix "") prefix: is already that of #1

[[routes]]
prefix = "a:"
backend = "clod"
=> [[routes]] #2 (prefix "a:") backend: unknown backend "clod"; did you mean "cold"?

[[routes]]
prefix = "a:"
backend = "xyz"
=> [[routes]] #2 (prefix "a:") backend: unknown backend "xyz"; known are hot, up, cold

[[routes]]
prefix = "a:"
backend = "cold"
compresion = "zstd"
=> [[routes]] #2 (prefix "a:") compresion: unknown option; did you mean "compression"?

[[routes]]
prefix = "a:"
backend = "cold"
[routes.cach]
=> [[routes]] #2 (prefix "a:") cach: unknown table; did you mean "cache"?

[[routes]]
prefix = "a:"
backend = "cold"
compression = "lz4"
=> [[routes]] #2 (prefix "a:") compression: must be "none" or "zstd", not "lz4"

[[routes]]
prefix = "a:"
backend = "cold"
compression_level = 23
=> [[routes]] #2 (prefix "a:") compression_level: must be an integer of 1 to 22, not 23

[[routes]]
prefix = "a:"
backend = "cold"
write = "back"
=> [backends.cold] journal: must be given, since a route to it has write = "back": a directory on a local disk

[backends.kept]
type = "sqlite"
journal = "kept"
[[routes]]
prefix = "a:"
backend = "kept"
=> [backends.kept] journal: has no effect unless write = "back" on the routes to it

[backends.kept]
type = "sqlite"
journal = "kept"
[[routes]]
prefix = "a:"
backend = "kept"
write = "back"
[[routes]]
prefix = "b:"
backend = "kept"
=> [backends.kept] write: must be "back" on all routes to this backend, or on none; name a second backend

[backends.kept]
type = "sqlite"
path = "kept.db"
journal = "kept"
[backends.other]
type = "sqlite"
path = "other.db"
journal = "./kept"
[[routes]]
prefix = "a:"
backend = "kept"
write = "back"
[[routes]]
prefix = "b:"
backend = "other"
write = "back"
=> [backends.other] journal: is that of backend "kept": each has its own

[backends.kept]
type = "sqlite"
path = "kept.db"
journal = "kept"
[[routes]]
prefix = "a:"
backend = "kept"
write = "back"
[[routes]]
prefix = "b:"
backend = "cold"
mirror = { backend = "kept" }
=> [backends.kept] write: can't be "back" where mirrors write past the journal: mirror to another backend

[[routes]]
prefix = "a:"
backend = "hot"
write = "back"
=> [[routes]] #2 (prefix "a:") write: does not apply to a memory backend; leave it out

[[routes]]
prefix = "a:"
backend = "hot"
compression = "zstd"
=> [[routes]] #2 (prefix "a:") compression: does not apply to a memory backend; leave it out

[[routes]]
prefix = "a:"
backend = "hot"
cache_ttl = "1m"
=> [[routes]] #2 (prefix "a:") cache_ttl: does not apply to a memory backend; leave it out

[[routes]]
prefix = "a:"
backend = "up"
compression_level = 5
=> [[routes]] #2 (prefix "a:") compression_level: has no effect on a redis backend without compression = "zstd" or integrity = "sha256"

[[routes]]
prefix = "a:"
backend = "up"
compress_min = 10
=> [[routes]] #2 (prefix "a:") compress_min: has no effect on a redis backend without compression = "zstd" or integrity = "sha256"

[[routes]]
prefix = "a:"
backend = "cold"
compression = "none"
dictionary = "auto"
=> [[routes]] #2 (prefix "a:") dictionary: has no effect without compression = "zstd"

[[routes]]
prefix = "a:"
backend = "hot"
dictionary = "auto"
=> [[routes]] #2 (prefix "a:") dictionary: does not apply to a memory backend; leave it out

[[routes]]
prefix = "a:"
backend = "up"
compression = "zstd"
dictionary = "auto"
=> [[routes]] #2 (prefix "a:") dictionary: is not available on a redis backend in this version; leave it out

[[routes]]
prefix = "a:"
backend = "cold"
dictionary = "always"
=> [[routes]] #2 (prefix "a:") dictionary: must be "none" or "auto", not "always"

[[routes]]
prefix = "a:"
backend = "cold"
dictionary_size = "2mb"
=> [[routes]] #2 (prefix "a:") dictionary_size: must be at most "1mb"

[[routes]]
prefix = "a:"
backend = "cold"
dictionary_samples = 99
=> [[routes]] #2 (prefix "a:") dictionary_samples: must be an integer of at least 100, not 99

[[routes]]
prefix = "a:"
backend = "up"
ttl = "1h"
=> [[routes]] #2 (prefix "a:") ttl: is not available on a redis backend in this version; leave it out

[[routes]]
prefix = "a:"
backend = "up"
mirror = { backend = "clod" }
=> [[routes]] #2 (prefix "a:") mirror backend: unknown backend "clod"; did you mean "cold"?

[[routes]]
prefix = "a:"
backend = "up"
mirror = { percent = 50 }
=> [[routes]] #2 (prefix "a:") mirror backend: must be given

[[routes]]
prefix = "a:"
backend = "up"
mirror = { backend = "cold", percent = 101 }
=> [[routes]] #2 (prefix "a:") mirror percent: must be an integer of 0 to 100, not 101

[[routes]]
prefix = "a:"
backend = "up"
mirror = { backend = "cold", queue = 5 }
=> [[routes]] #2 (prefix "a:") mirror queue: unknown option; did you mean "queue_max"?

[[routes]]
prefix = "a:"
backend = "up"
mirror = "cold"
=> [[routes]] #2 (prefix "a:") mirror: must be a table, not "cold"

[[routes]]
prefix = "a:"
backend = "cold"
mirror = { backend = "hot" }
=> [[routes]] #2 (prefix "a:") mirror backend: "hot" is a memory backend, which would be empty after the restart that switches to it

[[routes]]
prefix = "a:"
backend = "up"
mirror = { backend = "up" }
=> [[routes]] #2 (prefix "a:") mirror backend: "up" is the same place as the route's own backend

[[routes]]
prefix = "a:"
backend = "cold"
offload = { backend = "cold" }
=> [[routes]] #2 (prefix "a:") offload: is for postgres backends, not for sqlite; leave it out

[backends.pg]
type = "postgres"
[[routes]]
prefix = "a:"
backend = "pg"
offload = { backend = "clod" }
=> [[routes]] #2 (prefix "a:") offload backend: unknown backend "clod"; did you mean "cold"?

[backends.pg]
type = "postgres"
[[routes]]
prefix = "a:"
backend = "pg"
offload = { backend = "cold" }
=> [[routes]] #2 (prefix "a:") offload backend: must be an s3 backend, which "cold" is not

[backends.pg]
type = "postgres"
[backends.s3]
type = "s3"
bucket = "b"
[[routes]]
prefix = "a:"
backend = "pg"
offload = { backend = "s3" }
[[routes]]
prefix = "b:"
backend = "pg"
offload = { backend = "s3", over = "1mb", grace = "2h" }
=> [[routes]] #3 (prefix "b:") offload grace: must be as for prefix "a:", which is in the same backend
"""  # noqa: E501


@pytest.mark.parametrize("case", MISTAKES.strip().split("\n\n"))
def test_a_mistake_is_one_line_that_says_where_and_what_would_be_right(case: str) -> None:
    text, line = case.replace("FILE", str(EXAMPLE)).split("\n=> ")
    assert mistakes(BASE + text) == (f"r.toml: {line}",)


@pytest.mark.parametrize(
    "url", ["redis://h:99999", "redis://h:x", "redis://h?db=1", "unix://", "http://h", "h:6379"]
)
def test_what_is_no_redis_url(url: str) -> None:
    (line,) = mistakes(f'{BASE}[backends.a]\ntype = "redis"\nurl = "{url}"')
    assert line.startswith("r.toml: [backends.a] url: must be a URL such as redis://")


@pytest.mark.parametrize(
    "url", ["redis://h", "redis://u:p%40@[::1]:6379/0", "rediss://h/", "unix:///run/redis.sock"]
)
def test_what_is_a_redis_url(url: str) -> None:
    backend = parse(f'{BASE}[backends.a]\ntype = "redis"\nurl = "{url}"', "r.toml").backends["a"]
    assert isinstance(backend, RedisBackend)
    assert backend.url == url


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "listen = 1\n" + BASE,
            "listen: unknown option; known are backends, routes, server, http, cache, transactions, scripts",
        ),
        ("server = 1\n" + BASE, "[server]: must be a table, not 1"),
        ("routes = 1\n", "[[routes]]: must be a table for each route, headed by [[routes]]"),
        ("routes = [1]\n", "[[routes]] #1: must be a table, not 1"),
        ("backends = 1\n", "[backends]: must hold a table for each backend: [backends.NAME]"),
        (BASE.replace('""', '"a:"'), '[[routes]]: no catch-all route; add one with prefix = ""'),
        ("x = \n", "is not TOML: Invalid value (at line 1, column 5)"),
    ],
)
def test_a_mistake_of_the_whole_file(text: str, line: str) -> None:
    assert f"r.toml: {line}" in mistakes(text)


def test_all_mistakes_are_told_at_once() -> None:
    text = """
    [server]
    max_clients = 0
    idle_timeout = 5
    [backends.a]
    type = "mysql"
    [backends.b]
    type = "s3"
    polcy = "x"
    [[routes]]
    prefix = "a:"
    backend = "a"
    write = "sideways"
    """
    assert [line.split(": ")[1] for line in mistakes(text)] == [
        "[backends.a] type",
        "[backends.b] polcy",
        "[backends.b] bucket",
        '[[routes]] #1 (prefix "a:") write',
        "[[routes]]",
        "[server] max_clients",
        "[server] idle_timeout",
    ]


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "latin.toml").write_bytes(b"# \xe9\n")
    for name, line in [
        ("no.toml", "can't be read: No such file or directory"),
        ("latin.toml", "is not TOML: not UTF-8 text"),
    ]:
        with pytest.raises(ConfigError) as caught:
            load(f"{tmp_path}/{name}")
        assert caught.value.mistakes == (f"{tmp_path}/{name}: {line}",)


# What becomes of it


def test_backends_know_their_type_and_name() -> None:
    config: Config = parse(BASE + '[backends.cold2]\ntype = "s3"\nbucket = "b"\n', "r.toml")
    assert {name: (type(backend), backend.name) for name, backend in config.backends.items()} == {
        "hot": (MemoryBackend, "hot"),
        "up": (RedisBackend, "up"),
        "cold": (SqliteBackend, "cold"),
        "cold2": (S3Backend, "cold2"),
    }
    assert [backend.flushable for backend in config.backends.values()] == [True, False, False, False]
    assert [backend.cold for backend in config.backends.values()] == [False, False, True, True]


def test_a_configuration_does_not_change() -> None:
    backend: BackendConfig = default_config().backends["memory"]
    with pytest.raises(AttributeError):
        backend.flushable = False  # type: ignore[misc]


def test_routes_are_described_as_an_aligned_table() -> None:
    text = BASE + '[[routes]]\nprefix = "long:"\nbackend = "cold"\nttl = "7d"\ncache_ttl = "90s"\n'
    assert list(describe(parse(text, "r.toml"))) == [
        "prefix   backend  type    cache     ttl  max_value  compression  integrity",
        '""       hot      memory  no        0    512mb      none         none',
        '"long:"  cold     sqlite  yes, 90s  7d   64mb       zstd 3       sha256',
    ]


def test_mirrors_are_described_where_there_are_any() -> None:
    text = BASE + '[[routes]]\nprefix = "a:"\nbackend = "up"\nmirror = { backend = "cold", percent = 5 }\n'
    assert list(describe(parse(text, "r.toml"))) == [
        "prefix  backend  type    cache  ttl  max_value  compression  integrity  mirror",
        '""      hot      memory  no     0    512mb      none         none       no',
        '"a:"    up       redis   no     0    512mb      none         none       cold, 5 %',
    ]


def test_a_mirror_s_keys_are_sealed_as_their_route_says_if_that_seals() -> None:
    text = (
        BASE
        + """
    [backends.other]
    type = "sqlite"
    path = "other.db"
    [[routes]]
    prefix = "a:"
    backend = "cold"
    compression = "none"
    ttl = "1h"
    mirror = { backend = "other" }
    [[routes]]
    prefix = "b:"
    backend = "up"
    mirror = { backend = "other" }
    """
    )
    hot, sealed, forwarded = in_backend(parse(text, "r.toml"), "other").routes
    assert {route.backend for route in (hot, sealed, forwarded)} == {"other"}
    assert (sealed.compression, sealed.ttl, sealed.cache, sealed.mirror) == ("none", 0, False, None)
    assert (forwarded.compression, forwarded.max_value) == ("zstd", 64 << 20)


def test_whoever_reads_a_backend_finds_what_is_offloaded_there() -> None:
    text = """
    [backends.archive]
    type = "postgres"
    [backends.blobs]
    type = "s3"
    bucket = "b"
    [[routes]]
    prefix = "a:"
    backend = "archive"
    offload = { backend = "blobs", over = "1mb" }
    [[routes]]
    prefix = "b:"
    backend = "archive"
    [[routes]]
    prefix = ""
    backend = "blobs"
    """
    config = parse(text, "r.toml")
    offload = config.routes[0].offload
    assert offload is not None
    assert [route.offload for route in reading(config, "archive").routes] == [offload]
    assert [route.offload for route in in_backend(config, "archive").routes] == [offload, None, offload]
    assert [route.offload for route in in_backend(config, "blobs").routes] == [None, None, None]
