"""One row a command: every fact that arity checks, routing, ACL, MULTI and COMMAND derive from.

The rows come from ``table.json`` and, for what only documentation needs, from ``docs.json``; both are
written by ``generate.py`` and read lazily.  Handlers register under a command's name with
``keys_command`` or ``session_command``, and ``bind`` puts them into the rows.  What does not fit
together fails at load or at bind, with a ``SpecError`` that names the command.

Words and meanings are those of redis.io/commands/command, redis.io/docs/reference/command-tips and
redis.io/docs/reference/command-arguments.  This module is compiled by mypyc.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Final, TypedDict, TypeVar, cast

from backends.base import Want
from proxy.commands.keyspecs import FINDERS, PATTERNS, VARIABLE_FLAGS, Finder, KeyFlags, KeySpec, SpecError
from proxy.errors import INVALID_ARGUMENTS, CommandError
from proxy.timing import Timing

# Bits of CommandSpec.flags.
WRITE: Final = 1 << 0
READONLY: Final = 1 << 1
DENYOOM: Final = 1 << 2
ADMIN: Final = 1 << 3
PUBSUB: Final = 1 << 4
NOSCRIPT: Final = 1 << 5
BLOCKING: Final = 1 << 6
LOADING: Final = 1 << 7
STALE: Final = 1 << 8
SKIP_MONITOR: Final = 1 << 9
SKIP_SLOWLOG: Final = 1 << 10
ASKING: Final = 1 << 11
FAST: Final = 1 << 12
NO_AUTH: Final = 1 << 13
NO_ASYNC_LOADING: Final = 1 << 14
NO_MULTI: Final = 1 << 15
ALLOW_BUSY: Final = 1 << 16
NO_MANDATORY_KEYS: Final = 1 << 17
MOVABLEKEYS: Final = 1 << 18

FLAGS: Final[dict[str, int]] = {  # in the order in which Redis lists them
    "write": WRITE,
    "readonly": READONLY,
    "denyoom": DENYOOM,
    "admin": ADMIN,
    "pubsub": PUBSUB,
    "noscript": NOSCRIPT,
    "blocking": BLOCKING,
    "loading": LOADING,
    "stale": STALE,
    "skip_monitor": SKIP_MONITOR,
    "skip_slowlog": SKIP_SLOWLOG,
    "asking": ASKING,
    "fast": FAST,
    "no_auth": NO_AUTH,
    "no_async_loading": NO_ASYNC_LOADING,
    "no_multi": NO_MULTI,
    "allow_busy": ALLOW_BUSY,
    "no_mandatory_keys": NO_MANDATORY_KEYS,
    "movablekeys": MOVABLEKEYS,
}

CATEGORIES: Final = (  # in the order in which ACL CAT lists them
    "keyspace",
    "read",
    "write",
    "set",
    "sortedset",
    "list",
    "hash",
    "string",
    "bitmap",
    "hyperloglog",
    "geo",
    "stream",
    "pubsub",
    "admin",
    "fast",
    "slow",
    "blocking",
    "dangerous",
    "connection",
    "transaction",
    "scripting",
)

COMPLETE_GROUPS: Final = frozenset(
    {
        "bitmap",
        "geo",
        "hash",
        "hyperloglog",
        "list",
        "pubsub",
        "scripting",
        "set",
        "sorted-set",
        "stream",
        "string",
        "transactions",
    }
)
"""Families whose every command must have a handler, or be in FORWARD_ONLY."""

_FUNCTIONS: Final = "functions are kept by a Redis beside its keys; EVAL serves every tier"
FORWARD_ONLY: Final[dict[bytes, str]] = {
    b"fcall": _FUNCTIONS,
    b"fcall_ro": _FUNCTIONS,
}
"""Commands of complete families that only an upstream serves, with the reason."""

NOT_SHARED: Final[dict[bytes, str]] = {
    b"migrate": "it holds up everyone on the connection for as long as the other server takes",
    b"tier|url": "it speaks of blobs, which no upstream knows",
    b"tier|verify": "it speaks of seals, which no upstream knows",
    b"tier|where": "it speaks of routes, which no upstream knows",
    b"watch": "it leaves state on the connection, which other clients' writes and EXECs would meet",
}
"""Commands with keys that no flag keeps from a shared connection, with the reason why they must be kept."""

SWIFT: Final = (b"set", b"setex", b"psetex")
"""As quick as what Redis flags "fast": an old value that is large is freed at leisure here."""

KEPT: Final = frozenset(
    b"bitcount bitpos geodist geohash geopos geosearch get getbit getrange hexists hget hgetall hkeys "
    b"hlen hmget hstrlen hvals lindex llen lpos lrange scard sismember smembers smismember strlen "
    b"substr xlen xrange xrevrange zcard zcount zlexcount zmscore zrange zrangebylex zrangebyscore "
    b"zrank zrevrange zrevrangebylex zrevrangebyscore zrevrank zscore".split()
)
"""Reads of one key, the first argument, whose reply is the same until the key changes."""

# Values of CommandSpec.scope: what a handler gets as its first argument.
KEYS: Final = 0  # a keyspace that holds the request's keys
SESSION: Final = 1  # the client's session

# A handler's first argument is a Keyspace or a Session, which this module can't name without turning
# the layers round; its result is a reply value.
Handler = Callable[..., object]
Patterns = Callable[[Sequence[bytes]], list[bytes]]
H = TypeVar("H", bound=Handler)


class KeySpecRow(TypedDict):
    """A key spec in ``table.json``: the arguments of KeySpec."""

    flags: str
    begin: list[str | int]
    find: list[str | int]


class Row(TypedDict, total=False):
    """A command in ``table.json``.  What is empty is left out; ``flags`` and ``acl`` are joined by blanks."""

    arity: int
    flags: str
    keys: list[int]  # first, last and step, as Redis had them before there were key specs
    specs: list[KeySpecRow]
    acl: str
    tips: list[str]
    group: str
    since: str


class Argument(TypedDict, total=False):
    """An argument in ``docs.json``, as ``COMMAND DOCS`` describes it."""

    name: str
    type: str
    key_spec_index: int
    token: str
    since: str
    deprecated_since: str
    flags: list[str]
    arguments: list[Argument]


class Docs(TypedDict, total=False):
    """A command in ``docs.json``.  Every one has a summary; the rest is left out where it is empty."""

    summary: str
    doc_flags: list[str]
    deprecated_since: str
    replaced_by: list[str]  # names of commands
    arguments: list[Argument]


class InvalidKeys(CommandError):
    """The request is malformed so that its keys can't be told.

    A handler that runs all the same, on no keys, finds what is wrong and answers as Redis does.
    """

    def __init__(self) -> None:
        super().__init__(INVALID_ARGUMENTS)


class CommandSpec:
    """All facts of one command or subcommand, its handler, and how often it was called.

    ``upstream`` is the Redis backend that told of a command which the table has not.

    Raises SpecError for a row that says what this module does not know.
    """

    def __init__(self, name: bytes, row: Row, parent: CommandSpec | None = None, upstream: str = "") -> None:
        self.name: bytes = name  # lower-case; b"client|id" for a subcommand
        self.parent: CommandSpec | None = parent
        self.subcommands: dict[bytes, CommandSpec] = {}  # by their own names, b"id"
        self.arity: int = row["arity"]  # of argv with the name in it; negative: at least so many
        self.flags: int = _bits(name, row.get("flags", ""))
        self.legacy_keys: list[int] = row.get("keys", [0, 0, 0])  # first, last, step
        self.key_specs: list[KeySpec] = _key_specs(name, row)
        self.finder: Finder | None = FINDERS.get(name)
        self.patterns: Patterns | None = PATTERNS.get(name)  # of keys that it reads beside those it names
        self.categories: list[str] = row["acl"].split(" ")
        self.tips: list[str] = row.get("tips", [])
        self.group: str = row["group"]
        self.since: str = row.get("since", "")  # of Redis; empty for what no Redis release has

        self.has_keys: bool = any(key_spec.is_key for key_spec in self.key_specs)
        # Whether it may change keys: a script may, though it has no flag that says so.
        self.write: bool = self.flags & WRITE != 0 or (
            self.group == "scripting" and self.has_keys and not self.flags & READONLY
        )
        # The position of the only key, where it is fixed, else 0: the hot path need look no further.
        self.first_key: int = 0
        if len(self.key_specs) == 1 and self.finder is None:
            self.first_key = self.key_specs[0].fixed
        if upstream and self.first_key >= abs(self.arity):
            self.first_key = 0  # a module's command looks at its arity by itself
        # Whether a request that names at least one key may go to an upstream on a connection that
        # clients share.
        self.forwardable: bool = (
            self.has_keys and not self.flags & (BLOCKING | PUBSUB | ADMIN | ASKING) and name not in NOT_SHARED
        )

        self.upstream: str = upstream
        self.asks: bool = False  # where a request's keys stand, only that Redis can say
        self.kept: bool = name in KEPT
        # Whether it may be answered by a replica.
        self.reads: bool = self.forwardable and bool(self.flags & READONLY) and self.group != "scripting"
        self.handler: Handler | None = None
        # The handler, once the command is timed by samples (see ``Dispatcher``); None: each call by itself.
        self.swift: Handler | None = None
        self.scope: int = KEYS
        self.need: int = Want.VALUE  # what a cold tier loads before the handler's first run

        self.calls: int = 0  # of the handler
        self.failed: int = 0  # calls that were answered by an error
        self.rejected: int = 0  # requests that were answered by an error before any call
        fast = self.flags & FAST != 0
        self.timing: Timing = Timing(
            self.title, fast, fast or name in SWIFT, logged=self.flags & SKIP_SLOWLOG == 0
        )

        if self.first_key >= abs(self.arity):
            raise SpecError(f"{self.title}: its key may be missing, which the hot path does not expect")
        for category in self.categories:
            if category not in CATEGORIES:
                raise SpecError(f"{self.title}: unknown ACL category '{category}'")

    @property
    def title(self) -> str:
        """The name as error texts and COMMAND show it."""
        return self.name.decode()

    def arity_fits(self, size: int) -> bool:
        """Whether a request of so many arguments, the name among them, may be this command."""
        return size == self.arity if self.arity > 0 else size >= -self.arity

    def flag_names(self) -> list[str]:
        """The flags in Redis' order."""
        return [flag for flag, bit in FLAGS.items() if self.flags & bit]

    def forget_calls(self) -> None:
        """Count anew."""
        self.calls = self.failed = self.rejected = 0
        self.timing.clear()

    def docs(self) -> Docs:
        """What only documentation needs; the first call for any command reads the file."""
        if self.upstream:
            return {"summary": f"A command of a module, of the backend '{self.upstream}'"}
        return _all_docs()[self.title]


def _bits(name: bytes, flags: str) -> int:
    bits = 0
    for flag in flags.split():
        if flag not in FLAGS:
            raise SpecError(f"{name.decode()}: unknown flag '{flag}'")
        bits |= FLAGS[flag]
    return bits


def _key_specs(name: bytes, row: Row) -> list[KeySpec]:
    try:
        key_specs = [KeySpec(each["flags"], each["begin"], each["find"]) for each in row.get("specs", [])]
    except SpecError as error:
        raise SpecError(f"{name.decode()}: {error}") from error
    for key_spec in key_specs:
        if not key_spec.computable and name not in FINDERS:
            raise SpecError(f"{name.decode()}: a key spec that says nothing needs a finder")
        if "variable_flags" in key_spec.flags and name not in VARIABLE_FLAGS:
            raise SpecError(f"{name.decode()}: variable flags need a function that tells them")
    return key_specs


def key_positions(spec: CommandSpec, argv: Sequence[bytes]) -> list[int]:
    """The positions of all keys in ``argv``, whose arity must be right; the command's name is at 0.

    Raises InvalidKeys where a command that must have keys has none that can be told.
    """
    if spec.first_key:
        return [spec.first_key]
    if spec.finder is None and len(spec.key_specs) == 1:
        found = spec.key_specs[0].positions(argv) if spec.has_keys else None
        if found:
            return list(found)
    return [position for position, _ in key_flags(spec, argv)]


def key_flags(spec: CommandSpec, argv: Sequence[bytes]) -> list[tuple[int, KeyFlags]]:
    """The positions of all keys, as ``key_positions`` gives them, each with what is done with that key."""
    keys: list[tuple[int, KeyFlags]] = []
    if spec.finder is not None:
        keys = spec.finder(argv)
    else:
        for key_spec in spec.key_specs:
            if key_spec.is_key:
                found = key_spec.positions(argv)
                if found is None:
                    keys = []
                    break
                flags = key_spec.flags
                if "variable_flags" in flags:
                    flags = VARIABLE_FLAGS[spec.name](argv)
                keys += [(position, flags) for position in found]
    if not keys and spec.has_keys and not spec.flags & NO_MANDATORY_KEYS:
        raise InvalidKeys
    return keys


def build_table(rows: Mapping[str, Row]) -> dict[bytes, CommandSpec]:
    """Specs by lower-case name, subcommands inside their containers.

    A container's row comes before those of its subcommands.  Raises SpecError.
    """
    table: dict[bytes, CommandSpec] = {}
    for title, row in rows.items():
        container, bar, own = title.encode().partition(b"|")
        if not bar:
            table[container] = CommandSpec(container, row)
        elif container in table:
            parent = table[container]
            parent.subcommands[own] = CommandSpec(title.encode(), row, parent)
        else:
            raise SpecError(f"{title}: a subcommand without its container")
    return table


@cache
def load_table() -> dict[bytes, CommandSpec]:
    """The commands of ``table.json``, as ``build_table`` gives them; read once, the same ones every time."""
    return build_table(cast(dict[str, Row], _read("table.json")))


@cache
def _all_docs() -> dict[str, Docs]:
    return cast(dict[str, Docs], _read("docs.json"))


def _read(file: str) -> object:
    return json.loads(resources.files("proxy.commands").joinpath(file).read_bytes())


def lookup(table: Mapping[bytes, CommandSpec], argv: Sequence[bytes]) -> CommandSpec | None:
    """The command, or the subcommand, that a request means.

    A container's name alone gives the container; None: there is no such command or subcommand.
    """
    spec = table.get(argv[0].lower())
    if spec is None or not spec.subcommands or len(argv) == 1:
        return spec
    return spec.subcommands.get(argv[1].lower())


def by_name(table: Mapping[bytes, CommandSpec], name: bytes) -> CommandSpec | None:
    """The spec of a name as ``COMMAND INFO`` and ACL rules write it: ``client`` or ``client|id``."""
    container, bar, own = name.lower().partition(b"|")
    spec = table.get(container)
    if spec is None or not bar:
        return spec
    return spec.subcommands.get(own)


def every_spec(table: Mapping[bytes, CommandSpec]) -> Iterator[CommandSpec]:
    """All commands, each followed by its subcommands."""
    for spec in table.values():
        yield spec
        yield from spec.subcommands.values()


class Registered:
    """A handler that waits to be bound."""

    def __init__(self, handler: Handler, scope: int, need: int) -> None:
        self.handler: Handler = handler
        self.scope: int = scope
        self.need: int = need


_registry: Final[dict[bytes, Registered]] = {}


def _register(name: str, scope: int, need: int) -> Callable[[H], H]:
    def decorate(handler: H) -> H:
        if name.encode() in _registry:
            raise SpecError(f"{name}: a second handler is registered")
        _registry[name.encode()] = Registered(handler, scope, need)
        return handler

    return decorate


def keys_command(name: str, need: Want = Want.VALUE) -> Callable[[H], H]:
    """Registers ``handler(keyspace, argv) -> reply`` for a command or, as ``client|id``, a subcommand.

    ``need`` is what a cold tier loads of the keys before the handler's first run.
    """
    return _register(name, KEYS, need)


def session_command(name: str) -> Callable[[H], H]:
    """Registers ``handler(session, argv) -> reply`` for a command or, as ``client|id``, a subcommand."""
    return _register(name, SESSION, Want.NOTHING)


def bind(table: Mapping[bytes, CommandSpec], handlers: Mapping[bytes, Registered] = _registry) -> None:
    """Put the registered handlers into their rows; call it once the modules of all families are imported.

    Raises SpecError for a handler without a row, and for a row of a complete family without a handler.
    """
    for name, registered in handlers.items():
        spec = by_name(table, name)
        if spec is None:
            raise SpecError(f"{name.decode()}: a handler without a row in table.json")
        spec.handler = registered.handler
        spec.scope = registered.scope
        spec.need = registered.need
    for spec in every_spec(table):
        required = spec.group in COMPLETE_GROUPS and not spec.subcommands and spec.name not in FORWARD_ONLY
        if required and spec.handler is None:
            raise SpecError(f"{spec.title}: no handler, though the group '{spec.group}' is complete")
