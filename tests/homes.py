"""One redtier with a home of each kind, as users run it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from tests.rawclient import RawClient
from tests.servers import wait_until

PREFIXES: Final = {
    "memory": "short:",
    "redis": "working:",
    "postgres": "long:",
    "s3": "blob:",
    "sqlite": "note:",
}
"""Where keys of each kind of backend live; the backend has the name of its kind."""

Place = Mapping[str, Any]
Options = Mapping[str, Mapping[str, Any]]


def config(redis: str, postgres: str, s3: Place, options: Options | None = None) -> str:
    """TOML for the backends at two URLs and a place in S3 (see ``tests.s3``), a route to each, and the
    catch-all in memory; ``options`` are more settings, by table."""
    tables: dict[str, dict[str, Any]] = {
        "backends.memory": {"type": "memory", "max_bytes": "256mb"},
        "backends.redis": {"type": "redis", "url": redis, "backoff_max": "100ms"},
        "backends.postgres": {"type": "postgres", "url": postgres},
        "backends.s3": {"type": "s3", **s3},
        "backends.sqlite": {"type": "sqlite", "path": "redtier.db"},
    }
    for table, settings in (options or {}).items():
        tables.setdefault(table, {}).update(settings)
    return toml(tables, {**{prefix: kind for kind, prefix in PREFIXES.items()}, "": "memory"})


def toml(tables: Options, routes: Mapping[str, str], options: Options | None = None) -> str:
    """Settings by table, and a backend's name by prefix; ``options`` are more of routes, by prefix."""
    lines = []
    for title, settings in [
        *((f"[{title}]", settings) for title, settings in tables.items()),
        *(
            ("[[routes]]", {"prefix": prefix, "backend": name, **(options or {}).get(prefix, {})})
            for prefix, name in routes.items()
        ),
    ]:
        lines.append(title)
        # A JSON string, number or boolean is one of TOML too.
        lines += [f"{name} = {json.dumps(value)}" for name, value in settings.items()]
    return "\n".join(lines) + "\n"


def wait_for_homes(port: int, prefixes: Iterable[str] = PREFIXES.values()) -> None:
    """Return once the backends of all prefixes serve: a server does not wait for them for long."""
    with RawClient(port) as client:
        wait_until(lambda: all(client.ask(f"EXISTS {prefix}a").startswith(b":") for prefix in prefixes))
