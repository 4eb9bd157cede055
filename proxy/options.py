"""How a table of options is declared, read and checked; ``proxy.config`` declares redtier's.

A table is a dataclass, an option a field of it: the field's name is the option's, its value the default,
and its annotation says how the TOML value is checked and converted (``Size``, ``Duration`` ..., a
``Literal``, ``bool``, another table).  A check returns the converted value or raises ``ValueError`` with
what would be right.  A ``Reader`` builds tables from parsed TOML and gathers every mistake.

Units: sizes are bytes, durations milliseconds.  A secret is written as it is, or as ``env:NAME`` or
``file:PATH``; its value appears in no error and no ``repr``.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, fields
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Final, Literal, NamedTuple, TypeVar, get_args, get_origin, get_type_hints
from urllib.parse import urlsplit

from backends.base import LANES

Check = Callable[[object], object]

_SIZES: Final = {
    "": 1,
    "b": 1,
    "k": 1000,
    "kb": 1 << 10,
    "m": 10**6,
    "mb": 1 << 20,
    "g": 10**9,
    "gb": 1 << 30,
}
_DURATIONS: Final = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
SENTINEL_SCHEMES: Final = ("redis+sentinel://", "rediss+sentinel://")
CLUSTER_SCHEMES: Final = ("redis+cluster://", "rediss+cluster://")
_HOST: Final = r"(\[[0-9A-Fa-f:.]+\]|[^\s:/?#@,\[\]]+)(:[1-9][0-9]{0,4})?"
_HOSTS_URL: Final = re.compile(
    rf"rediss?\+(sentinel|cluster)://([^\s/?#@]*@)?(?P<hosts>{_HOST}(,{_HOST})*)(?P<service>/[^\s/?#]+)?"
)
_LIMIT: Final = 2**53  # so that sums with a time or another size stay well inside 64 bits


class Secret(str):
    """Text that ``repr`` keeps to itself."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'" if self else "''"


class Address(NamedTuple):
    """Where to listen: ``host`` (a name or IP address, IPv6 without brackets) and ``port``, or ``path``."""

    host: str
    port: int
    path: str = ""  # of a Unix socket; host and port are then "" and 0

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def shown(value: object) -> str:
    """A TOML value as an error may show it: on one line, and nothing of what is inside tables and lists."""
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return "a list"
    return json.dumps(value, ensure_ascii=False, default=str)


def _did_you_mean(name: object, known: Iterable[str]) -> str:
    near = get_close_matches(name, known, n=1) if isinstance(name, str) else []
    return f"; did you mean {shown(near[0])}?" if near else ""


def or_known(name: str, known: Collection[str]) -> str:
    return _did_you_mean(name, known) or f"; known are {', '.join(known) or 'none'}"


def either(choices: Iterable[str]) -> str:
    return " or ".join(map(shown, choices))


def size(value: object, minimum: int = 0) -> int:
    """Bytes from ``"256mb"`` or a plain integer; as in Redis, k is 1,000 and kb is 1,024."""
    right = 'a size such as 4096, "64kb", "256mb" or "1gb"' + (f", at least {minimum}" if minimum else "")
    return _quantity(value, _SIZES, minimum, right)


def duration(value: object, minimum: int = 0) -> int:
    """Milliseconds from ``"500ms"``, ``"2s"``, ``"5m"``, ``"1h"``, ``"7d"``; only zero needs no unit."""
    right = 'a duration such as "500ms", "2s", "5m", "1h" or "7d"' + (
        ", more than 0" if minimum else ', or "0"'
    )
    return _quantity(value, _DURATIONS, minimum, right)


def _quantity(value: object, units: Mapping[str, int], minimum: int, right: str) -> int:
    match = re.fullmatch(r"([0-9]{1,18})([a-z]*)", str(value).lower()) if type(value) in (int, str) else None
    if match and (match[2] in units or (match[2] == "" and int(match[1]) == 0)):
        result = int(match[1]) * units.get(match[2], 0)
        if minimum <= result < _LIMIT:
            return result
    raise ValueError(f"must be {right}, not {shown(value)}")


def _in_units(value: int, units: Mapping[str, int]) -> str:
    unit = max((name for name in units if value % units[name] == 0), key=units.__getitem__)
    return f"{value // units[unit]}{unit}" if value else "0"


show_size: Final = partial(_in_units, units=_SIZES)
show_duration: Final = partial(_in_units, units=_DURATIONS)


def address(value: object) -> Address:
    if isinstance(value, str):
        if value.startswith("unix:") and len(value) > 5:
            return Address("", 0, value[5:])
        match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+(?:%\w+)?)\]|([^\s:/\[\]]+)):([0-9]{1,5})", value)
        if match and int(match[3]) < 65536:
            return Address(match[1] or match[2], int(match[3]))
    raise ValueError(f'must be "host:port", "[::1]:port" or "unix:/path", not {shown(value)}')


def _addresses(value: object) -> tuple[Address, ...]:
    if not isinstance(value, list):
        raise ValueError(f'must be a list such as ["127.0.0.1:6380"], not {shown(value)}')
    return tuple(address(item) for item in value)


def _address_or_none(value: object) -> Address | None:
    return None if value == "" else address(value)


def _integer(value: object, minimum: int, maximum: int = _LIMIT) -> int:
    if type(value) is int and minimum <= value <= maximum:  # not isinstance: a bool is an int
        return value
    right = f"of {minimum} to {maximum}" if maximum < _LIMIT else f"of at least {minimum}"
    raise ValueError(f"must be an integer {right}, not {shown(value)}")


def choice(value: object, choices: tuple[str, ...]) -> str:
    if isinstance(value, str) and value in choices:
        return value
    raise ValueError(f"must be {either(choices)}, not {shown(value)}{_did_you_mean(value, choices)}")


def _flag(value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise ValueError(f"must be true or false, not {shown(value)}")


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    raise ValueError(f"must be text, not {shown(value)}")


def _name(value: object) -> str:
    if isinstance(value, str) and value:
        return value
    raise ValueError(f"must be text that is not empty, not {shown(value)}")


def _prefix(value: object) -> bytes:
    return _text(value).encode()


def _file(value: object) -> str:
    if isinstance(value, str) and (not value or os.path.isfile(value)):
        return value
    raise ValueError(f"must be the path of a file that exists, not {shown(value)}")


def _sql_name(value: object) -> str:
    # 48: Postgres cuts names at 63 bytes, and the names of indexes and side tables are made from this one.
    if isinstance(value, str) and re.fullmatch(r"([a-z_][a-z0-9_]{0,62}\.)?[a-z_][a-z0-9_]{0,47}", value):
        return value
    right = "a table's name, or schema.table, of a-z, 0-9 and _, at most 48 long"
    raise ValueError(f"must be {right}, not {shown(value)}")


def secret(value: object) -> Secret:
    """The value itself, that of ``env:NAME``, or the content of ``file:PATH`` without its last line ends.

    Empty only where it is written so: ``password = "env:X"`` must never turn out to mean no password
    because the variable or file is empty.
    """
    if not isinstance(value, str):
        raise ValueError("must be text, env:NAME or file:PATH")
    kind, _, name = value.partition(":")
    if kind == "env":
        what, found = "environment variable", os.environ.get(name)
        if found is None:
            raise ValueError(f"the environment variable {shown(name)} is not set")
    elif kind == "file":
        what = "file"
        try:
            found = Path(name).read_text("utf-8").rstrip("\r\n")
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
            raise ValueError(f"the file {shown(name)} can't be read: {reason}") from None
    else:
        return Secret(value)
    if not found:
        raise ValueError(f"the {what} {shown(name)} is empty")
    return Secret(found)


def _postgres_url(value: object) -> Secret:
    url = secret(value)
    if url.startswith(("postgresql://", "postgres://")):
        return url
    raise ValueError("must be a URL such as postgresql://user:password@host:5432/database")


def _postgres_url_or_none(value: object) -> Secret:
    return Secret() if value == "" else _postgres_url(value)


def _redis_url(value: object) -> Secret:
    # No error names a part of it: where the password has an unquoted "/" or "#", any part may be of it.
    url = secret(value)
    if url.startswith((*SENTINEL_SCHEMES, *CLUSTER_SCHEMES)):
        match = _HOSTS_URL.fullmatch(url)
        of_cluster = url.startswith(CLUSTER_SCHEMES)
        if (
            match
            and bool(match["service"]) != of_cluster
            and all(int(port) < 65536 for port in re.findall(r":([0-9]+)(?:,|$)", match["hosts"]))
        ):
            return url
        right = "redis+sentinel://user:password@host:26379,host:26379/service"
        if of_cluster:
            right = "redis+cluster://user:password@host:6379,host:6379"
        raise ValueError(f"must be a URL such as {right}, special characters written as %XX")
    try:
        parts = urlsplit(url)
        tcp = parts.scheme in ("redis", "rediss") and parts.hostname and parts.port != 0
    except ValueError:  # brackets that don't close, a port that is no number
        parts, tcp = urlsplit(""), False
    unix = parts.scheme == "unix" and len(parts.path) > 1
    if not (tcp or unix) or parts.query or parts.fragment:
        right = "redis://user:password@host:6379, rediss://host or unix:///path"
        raise ValueError(f"must be a URL such as {right}, special characters written as %XX")
    if tcp and parts.path not in ("", "/", "/0"):
        raise ValueError("must not name a database: each client chooses its own by SELECT")
    return url


def _http_url(value: object) -> str:
    # The scheme is never guessed: it decides whether values go over the net in clear.
    if isinstance(value, str) and re.fullmatch(r"(https?://[^\s/@?#]+(/[^\s@?#]*)?)?", value):
        return value
    raise ValueError('must be a URL such as "https://host:9000", without credentials or query')


Size = Annotated[int, size]
Limit = Annotated[int, partial(size, minimum=1)]
ScriptMemory = Annotated[int, partial(size, minimum=4 << 20)]  # Lua and its libraries take half a megabyte
DictionarySize = Annotated[int, partial(size, minimum=1024)]  # less than that is all zstd's own tables
Duration = Annotated[int, duration]
Timeout = Annotated[int, partial(duration, minimum=1)]
Count = Annotated[int, partial(_integer, minimum=1)]
Samples = Annotated[int, partial(_integer, minimum=100)]  # with fewer, what is held out of them says nothing
Lanes = Annotated[int, partial(_integer, minimum=1, maximum=LANES)]
CountOrZero = Annotated[int, partial(_integer, minimum=0)]
Level = Annotated[int, partial(_integer, minimum=1, maximum=22)]
Percent = Annotated[int, partial(_integer, minimum=0, maximum=100)]
Text = Annotated[str, _text]
Name = Annotated[str, _name]
Prefix = Annotated[bytes, _prefix]
File = Annotated[str, _file]
SqlName = Annotated[str, _sql_name]
HttpUrl = Annotated[str, _http_url]
Password = Annotated[Secret, secret]
RedisUrl = Annotated[Secret, _redis_url]
PostgresUrl = Annotated[Secret, _postgres_url]
PostgresUrlOrNone = Annotated[Secret, _postgres_url_or_none]
ListenAddress = Annotated[Address | None, _address_or_none]
ListenAddresses = Annotated[tuple[Address, ...], _addresses]

Mistake = tuple[str, str]  # an option's name, and what is wrong with it


class Table:
    """Base of the dataclasses, each of them frozen and ``kw_only``."""

    __slots__ = ()

    def mistakes(self) -> Iterator[Mistake]:
        """What is wrong between options that are right each by itself."""
        yield from ()

    @classmethod
    def misplaced(cls, option: str) -> str | None:
        """What to say of an option that this table does not have but another does."""
        return None


def options(table: type[Table]) -> dict[str, Check | type[Table]]:
    """Each option of a table, in order: its check, or the table that it is.  Other fields are not options."""
    hints = get_type_hints(table, include_extras=True)
    found: dict[str, Check | type[Table]] = {}
    for field in fields(table):  # type: ignore[arg-type]  # the base alone is no dataclass
        hint = hints[field.name]
        if hint is bool:
            found[field.name] = _flag
        elif get_origin(hint) is Annotated:
            found[field.name] = hint.__metadata__[0]
        elif get_origin(hint) is Literal:
            found[field.name] = partial(choice, choices=get_args(hint))
        else:
            # A table that may be left out is declared as "X | None".
            kinds = get_args(hint) if isinstance(hint, UnionType) else (hint,)
            found.update((field.name, kind) for kind in kinds if _is_table(kind))
    return found


def _is_table(hint: object) -> bool:
    return isinstance(hint, type) and issubclass(hint, Table)


def quoted(key: str) -> str:
    """A key as TOML would write it, so that an odd one can't break an error's line."""
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else shown(key)


_Table = TypeVar("_Table", bound=Table)


class Reader:
    """Turns parsed TOML into tables; ``lines`` gathers the mistakes, so that one run shows them all."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.lines: list[str] = []

    def mistake(self, where: str, option: str, text: str) -> None:
        self.lines.append(f"{self.source}: {' '.join(filter(None, (where, option)))}: {text}")

    def table(
        self,
        cls: type[_Table],
        raw: object,
        where: str,
        given: Mapping[str, object],
        also: Sequence[str] = (),
    ) -> _Table | None:
        """``raw`` as a ``cls``; None, and the mistakes gathered, if any option is wrong by itself.

        ``given`` are fields that have their value already, or another default than the declared one;
        ``also`` names options that the caller has taken out of ``raw``.
        """
        if not isinstance(raw, dict):
            self.mistake(where, "", f"must be a table, not {shown(raw)}")
            return None
        before = len(self.lines)
        checks = options(cls)
        values: dict[str, Any] = dict(given)  # Any: the fields' types differ
        for option, value in raw.items():
            check = checks.get(option)
            if check is None:
                if misplaced := cls.misplaced(option):
                    self.mistake(where, option, misplaced)
                else:
                    self._unknown(option, value, where, [*also, *checks])
            elif isinstance(check, type):
                values[option] = self.table(check, value, _inner(where, option), {})
            else:
                try:
                    values[option] = check(value)
                except ValueError as error:
                    self.mistake(where, option, str(error))
        for field in fields(cls):  # type: ignore[arg-type]
            if field.name in checks and field.default is MISSING and field.name not in raw:
                self.mistake(where, field.name, "must be given")
        if len(self.lines) > before:
            return None
        table = cls(**values)
        for option, text in table.mistakes():
            self.mistake(where, option, text)
        return table

    def _unknown(self, option: str, value: object, where: str, known: Sequence[str]) -> None:
        what = "table" if isinstance(value, dict) else "option"
        name = _inner("", option) if what == "table" and not where else quoted(option)
        self.mistake(where, name, f"unknown {what}{or_known(option, known)}")


def _inner(where: str, option: str) -> str:
    if where.startswith("[["):  # one of several tables, with its number behind it
        return f"{where} {quoted(option)}"
    return f"{where[:-1]}.{quoted(option)}]" if where else f"[{quoted(option)}]"
