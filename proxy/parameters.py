"""CONFIG GET and CONFIG SET: the configuration under Redis' names, as clients and monitoring ask for it.

Only what can change while the server runs can be set; CONFIG REWRITE puts what was set into the
configuration's file.  Parameters that have no meaning here, but which tools ask for, say what holds: nothing
is saved, there are no replicas, and values are kept in the forms that Redis' defaults would give them.

Names, units and error texts are Redis' own: sizes are bytes, times are seconds.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

from backends.memory import POLICIES, MemoryBackend
from proxy import errors
from proxy.commands.args import INT32_MAX, INT64_MAX, parse_int
from proxy.config import Config
from proxy.datatypes.hash import PACKED_FIELDS, PACKED_ITEM
from proxy.datatypes.hyperloglog import SPARSE_MAX
from proxy.datatypes.set import INTEGERS_MAX
from proxy.datatypes.streamblock import BYTES_MAX, ENTRIES_MAX
from proxy.datatypes.zset import MEMBER_MAX, PACKED_MAX
from proxy.dispatch import Dispatcher
from proxy.errors import CommandError
from proxy.events import Events
from proxy.glob import Glob
from proxy.homes import MemoryHome
from proxy.keyspace import DATABASES
from proxy.notifications import Notifications, parse
from proxy.options import Address, size
from proxy.resp import BULK_MAX
from proxy.rewrite import Place, rewrite
from proxy.router import Home
from proxy.session import Session
from proxy.slowlog import LatencyMonitor, SlowLog
from proxy.tracking import Tracking

MAX_CLIENTS: Final = 2**32 - 1
# Redis' levels as those of logging, where "verbose" has none; what logging calls errors is never quiet.
LOG_LEVELS: Final = {
    "debug": logging.DEBUG,
    "verbose": logging.INFO - 5,
    "notice": logging.INFO,
    "warning": logging.WARNING,
}
LOG: Final = logging.getLogger("redtier")  # what all of our own modules log to
POLICY_NAMES: Final = {number: name for name, number in POLICIES.items()}


class Adjustable(Protocol):
    """What a server has that parameters show and change.  Times in milliseconds, sizes in bytes."""

    config: Config
    homes: dict[str, Home]
    password: str
    request_max: int
    max_clients: int
    idle_timeout: int
    tcp_keepalive: int
    slowlog: SlowLog
    latency: LatencyMonitor
    latency_tracking: bool
    latency_percentiles: tuple[float, ...]
    dispatcher: Dispatcher
    events: Events
    notifications: Notifications
    tracking: Tracking

    def clients(self) -> list[Session]: ...


# Of what Redis has and this server has not, or only as it is.
FIXED: Final[dict[str, object]] = {
    "aclfile": "",
    "activedefrag": "no",
    "appendfsync": "everysec",
    "appendonly": "no",
    "cluster-enabled": "no",
    "daemonize": "no",
    "dbfilename": "",
    "enable-module-command": "no",
    "enable-protected-configs": "no",
    "hz": 10,
    "io-threads": 1,
    "lazyfree-lazy-eviction": "yes",
    "lazyfree-lazy-expire": "yes",
    "lazyfree-lazy-server-del": "yes",
    "lazyfree-lazy-user-del": "yes",
    "lazyfree-lazy-user-flush": "yes",
    "logfile": "",
    "masterauth": "",
    "maxmemory-clients": 0,
    "min-replicas-to-write": 0,
    "protected-mode": "no",
    "replica-read-only": "yes",
    "replicaof": "",
    "save": "",
    "stop-writes-on-bgsave-error": "yes",
    # From here on what decides how values are kept, which is as Redis has it by default.
    "hash-max-listpack-entries": PACKED_FIELDS,
    "hash-max-listpack-value": PACKED_ITEM,
    "hash-max-ziplist-entries": PACKED_FIELDS,
    "hash-max-ziplist-value": PACKED_ITEM,
    "hll-sparse-max-bytes": SPARSE_MAX,
    "list-compress-depth": 0,
    "list-max-listpack-size": -2,  # Redis' code for the 8 kb of a node
    "list-max-ziplist-size": -2,
    "set-max-intset-entries": INTEGERS_MAX,
    "stream-node-max-bytes": BYTES_MAX,
    "stream-node-max-entries": ENTRIES_MAX,
    "zset-max-listpack-entries": PACKED_MAX,
    "zset-max-listpack-value": MEMBER_MAX,
    "zset-max-ziplist-entries": PACKED_MAX,
    "zset-max-ziplist-value": MEMBER_MAX,
}


Change = Callable[[], None]


class Parameter(NamedTuple):
    """A parameter's value now, and what makes a new one's text a change.

    ``prepare`` raises ValueError with Redis' reason; what it returns must not fail.
    """

    get: Callable[[], str]
    prepare: Callable[[str], Change] | None = None


def _as_it_is(value: str) -> str:
    return value


def _seconds(value: str) -> str:
    return f'"{value}s"'


def _milliseconds(value: str) -> str:
    return f'"{value}ms"'


def _from_microseconds(value: str) -> str:
    """Rounded up to what the file can say; nothing is logged (-1): what takes a year."""
    return '"365d"' if int(value) < 0 else f'"{-(-int(value) // 1000)}ms"'


def _level(value: str) -> str:
    return json.dumps("info" if value in ("notice", "verbose") else value)


# Where the configuration's file has what can be set, and how it writes it.
PLACES: Final[dict[str, tuple[str, Callable[[str], str]]]] = {
    "latency-monitor-threshold": ("latency_threshold", _milliseconds),
    "loglevel": ("log_level", _level),
    "maxclients": ("max_clients", _as_it_is),
    "maxmemory": ("max_bytes", _as_it_is),
    "maxmemory-policy": ("policy", json.dumps),
    "requirepass": ("password", json.dumps),
    "slowlog-log-slower-than": ("slowlog_slower_than", _from_microseconds),
    "slowlog-max-len": ("slowlog_max_len", _as_it_is),
    "tcp-keepalive": ("tcp_keepalive", _seconds),
    "tracking-table-max-keys": ("tracking_table_max_keys", _as_it_is),
    "timeout": ("idle_timeout", _seconds),
}


class Parameters:
    """The parameters of one server."""

    def __init__(self, server: Adjustable) -> None:
        self._server = server
        self._set: set[str] = set()  # since the start
        settings = server.config.server
        listen, tls = settings.listen, settings.tls.listen
        self._table = {
            **{name: _fixed(value) for name, value in FIXED.items()},
            "bind": _fixed(" ".join(dict.fromkeys(address.host for address in listen if address.host))),
            "client-output-buffer-limit": _fixed(f"normal {settings.output_buffer_max} 0 0"),
            "client-query-buffer-limit": _fixed(server.request_max),
            "databases": _fixed(DATABASES),
            "enable-debug-command": _fixed(settings.debug_commands),
            "latency-monitor-threshold": Parameter(
                lambda: str(server.latency.threshold), self._set_latency_threshold
            ),
            "latency-tracking": Parameter(
                lambda: _yes_or_no(server.latency_tracking), self._set_latency_tracking
            ),
            "latency-tracking-info-percentiles": Parameter(
                lambda: " ".join(f"{percent:g}" for percent in server.latency_percentiles),
                self._set_percentiles,
            ),
            "loglevel": Parameter(_log_level, _set_log_level),
            "maxclients": Parameter(lambda: str(server.max_clients), self._set_max_clients),
            "maxmemory": Parameter(self._max_memory, self._set_max_memory),
            "maxmemory-policy": Parameter(self._policy, self._set_policy),
            "notify-keyspace-events": Parameter(lambda: server.notifications.flags, self._set_notifications),
            "port": _fixed(_port(listen)),
            "proto-max-bulk-len": _fixed(BULK_MAX),
            "requirepass": Parameter(lambda: server.password, self._set_password),
            "slowlog-log-slower-than": Parameter(
                lambda: str(server.slowlog.slower_than), self._set_slower_than
            ),
            "slowlog-max-len": Parameter(lambda: str(server.slowlog.max_len), self._set_slowlog_len),
            "tcp-backlog": _fixed(settings.tcp_backlog),
            "tcp-keepalive": Parameter(lambda: str(server.tcp_keepalive // 1000), self._set_keepalive),
            "timeout": Parameter(lambda: str(server.idle_timeout // 1000), self._set_timeout),
            "tls-port": _fixed(_port(tls)),
            "tracking-table-max-keys": Parameter(
                lambda: str(server.tracking.max_keys), self._set_tracking_keys
            ),
            "unixsocket": _fixed(next((address.path for address in (*listen, *tls) if address.path), "")),
        }

    def get(self, patterns: Sequence[bytes]) -> dict[bytes, bytes]:
        """The parameters that fit any of the glob patterns; a plain name comes back as it was written."""
        found: dict[str, bytes] = {}
        for pattern in patterns:
            text = pattern.lower()
            if any(c in text for c in b"*?["):
                glob = Glob(text)
                for name in self._table:
                    if glob.matches(name.encode()):
                        found.setdefault(name, name.encode())
            elif (name := text.decode("latin-1")) in self._table:
                found.setdefault(name, pattern)
        return {called: _encode(self._table[name].get()) for name, called in found.items()}

    def rewrite(self) -> None:
        """CONFIG REWRITE: what was set since the start goes into the configuration's file."""
        changes: dict[Place, str] = {}
        for name in self._set:
            place = PLACES.get(name)
            if place is not None:
                option, written = place
                table = "server"
                if name.startswith("maxmemory"):
                    table = f"backends.{self._only_backend().name}"
                changes[table, option] = written(self._table[name].get())
        rewrite(self._server.config.source, changes)

    def set(self, values: Mapping[bytes, bytes]) -> None:
        """Change parameters, all or none.  Raises CommandError."""
        parameters = {}
        for given in values:
            name = given.lower().decode("latin-1")
            if name not in self._table:
                raise errors.unknown_parameter(given)
            parameters[given] = self._table[name]
        changes: list[Change] = []
        for given, parameter in parameters.items():
            try:
                if parameter.prepare is None:
                    raise ValueError("can't set immutable config")
                changes.append(parameter.prepare(values[given].decode("utf-8", "surrogateescape")))
            except ValueError as error:
                raise errors.config_set_failed(given.lower(), str(error)) from None
        for change in changes:
            change()
        self._set.update(given.lower().decode("latin-1") for given in values)

    def _backends(self) -> list[MemoryBackend]:
        homes = self._server.homes.values()
        return [home.backend for home in homes if isinstance(home, MemoryHome)]

    def _only_backend(self) -> MemoryBackend:
        backends = self._backends()
        if len(backends) != 1:
            names = " and ".join(f"'{backend.name}'" for backend in backends) or "none"
            raise ValueError(f"it needs one memory backend, there is {names}: set it in the configuration")
        return backends[0]

    def _max_memory(self) -> str:
        return str(sum(backend.max_bytes for backend in self._backends()))

    def _set_max_memory(self, text: str) -> Change:
        backend = self._only_backend()
        try:
            max_bytes = size(text)
        except ValueError:
            raise ValueError("argument must be a memory value") from None
        if not max_bytes:
            raise ValueError("argument must be more than 0: memory is always bounded")

        def change() -> None:
            backend.max_bytes = max_bytes

        return change

    def _policy(self) -> str:
        return policy_of(self._backends())

    def _set_policy(self, text: str) -> Change:
        backend = self._only_backend()
        policy = _choice(text, POLICIES)
        return lambda: backend.set_policy(policy)

    def _set_max_clients(self, text: str) -> Change:
        max_clients = _number(text, 1, MAX_CLIENTS)

        def change() -> None:
            self._server.max_clients = max_clients

        return change

    def _set_notifications(self, text: str) -> Change:
        parse(text)
        server = self._server

        def change() -> None:
            server.notifications.choose(text)
            server.events.listening = server.notifications.listening

        return change

    def _set_tracking_keys(self, text: str) -> Change:
        keys = _number(text, 0, INT64_MAX)

        def change() -> None:
            self._server.tracking.max_keys = keys

        return change

    def _set_timeout(self, text: str) -> Change:
        seconds = _number(text, 0, INT32_MAX)

        def change() -> None:
            self._server.idle_timeout = seconds * 1000

        return change

    def _set_keepalive(self, text: str) -> Change:
        seconds = _number(text, 0, INT32_MAX)

        def change() -> None:
            self._server.tcp_keepalive = seconds * 1000

        return change

    def _set_slower_than(self, text: str) -> Change:
        us = _number(text, -1, INT64_MAX)

        def change() -> None:
            self._server.slowlog.slower_than = us
            self._server.dispatcher.attend()

        return change

    def _set_slowlog_len(self, text: str) -> Change:
        length = _number(text, 0, INT64_MAX)

        def change() -> None:
            self._server.slowlog.set_max_len(length)
            self._server.dispatcher.attend()

        return change

    def _set_latency_threshold(self, text: str) -> Change:
        ms = _number(text, 0, INT64_MAX)

        def change() -> None:
            self._server.latency.threshold = ms
            self._server.dispatcher.attend()

        return change

    def _set_latency_tracking(self, text: str) -> Change:
        tracking = _switch(text)

        def change() -> None:
            self._server.latency_tracking = tracking

        return change

    def _set_percentiles(self, text: str) -> Change:
        try:
            percentiles = tuple(float(word) for word in text.split())
        except ValueError:
            raise ValueError("Invalid latency-tracking-info-percentiles parameters") from None
        if not all(0 <= percent <= 100 for percent in percentiles):
            raise ValueError("latency-tracking-info-percentiles parameters should sit between [0.0,100.0]")

        def change() -> None:
            self._server.latency_percentiles = percentiles

        return change

    def _set_password(self, text: str) -> Change:
        def change() -> None:
            self._server.password = text
            if not text:  # nobody needs to authenticate any more
                for client in self._server.clients():
                    client.authenticate()

        return change


def policy_of(backends: Sequence[MemoryBackend]) -> str:
    """What memory backends do when they are full, by Redis' names: one for each way."""
    return ",".join(dict.fromkeys(POLICY_NAMES[backend.policy] for backend in backends)) or "noeviction"


def _fixed(value: object) -> Parameter:
    return Parameter(lambda: str(value))


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _port(addresses: Sequence[Address]) -> int:
    return next((address.port for address in addresses if address.port), 0)


def _number(text: str, low: int, high: int) -> int:
    try:
        number = parse_int(_encode(text))
    except CommandError:
        raise ValueError("argument couldn't be parsed into an integer") from None
    if not low <= number <= high:
        raise ValueError(f"argument must be between {low} and {high} inclusive")
    return number


def _choice(text: str, choices: Mapping[str, int]) -> str:
    if text.lower() not in choices:
        raise ValueError(f"argument(s) must be one of the following: {', '.join(choices)}")
    return text.lower()


def _switch(text: str) -> bool:
    if text.lower() not in ("yes", "no"):
        raise ValueError("argument must be 'yes' or 'no'")
    return text.lower() == "yes"


def _yes_or_no(value: bool) -> str:
    return "yes" if value else "no"


def _log_level() -> str:
    level = LOG.getEffectiveLevel()
    return [name for name, number in LOG_LEVELS.items() if number <= max(level, logging.DEBUG)][-1]


def _set_log_level(text: str) -> Change:
    level = LOG_LEVELS[_choice(text, LOG_LEVELS)]
    return lambda: LOG.setLevel(level)
