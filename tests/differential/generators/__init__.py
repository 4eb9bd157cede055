"""What sequences of commands are made up of: a module a family, whose ``COMMANDS`` makes one command of the
family, or one that shares keys with it, and whose ``START`` is a sequence that others may begin with.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from proxy.resp import Argv
from tests.differential import making

KEYS = making.sampled_from([b"a", b"b", b"c", b""])
EDGES = [-(2**63), -(2**63) + 1, -(2**31), 2**31, 2**53, 2**63 - 1, 2**63]
INTEGERS = making.one_of(making.integers(-20, 20), making.sampled_from(EDGES)).map(b"%d".__mod__)
NUMBERS = making.one_of(
    INTEGERS,
    making.floats(allow_nan=False, allow_infinity=False).map(lambda number: repr(number).encode()),
    making.decimals(-1000, 1000, places=5).map(lambda number: str(number).encode()),
)
VALUES = making.one_of(
    NUMBERS,
    making.text("ab", max_size=12).map(str.encode),
    making.binary(max_size=60),
    making.sampled_from([b"", b" 1", b"01", b"-0", b"+1", b"nan", b"inf", b"1e3", b"0x1p3"]),
)
# Far off or long past, so that no reply hangs on the millisecond in which a command runs.
SECONDS = making.sampled_from([b"1000", b"50000", b"0", b"-1", b"x", b"9223372036854775807"])
MOMENTS = making.sampled_from([b"33177117420", b"33177117421", b"1", b"0", b"-5", b"9223372036854775"])
UNITS = {b"EX": SECONDS, b"PX": SECONDS.map(lambda s: s + b"000"), b"EXAT": MOMENTS, b"PXAT": MOMENTS}
DATABASES = making.sampled_from([b"0", b"1", b"15", b"16", b"-1", b"x"])


def command(name: str, *arguments: making.Made[bytes]) -> making.Made[Argv]:
    return making.tuples(*arguments).map(lambda words: [name.encode(), *words])


def with_options(
    base: making.Made[Argv], *words: bytes, times: dict[bytes, making.Made[bytes]] | None = None
) -> making.Made[Argv]:
    """A command followed by up to three options, each a word alone or one with an argument."""
    choices: list[making.Made[Argv]] = [making.lists(making.sampled_from(words), min_size=1, max_size=1)]
    choices += [
        making.tuples(making.just(word), argument).map(list) for word, argument in (times or {}).items()
    ]
    options = making.lists(making.one_of(choices), max_size=3)
    return making.tuples(base, options).map(
        lambda both: both[0] + [word for option in both[1] for word in option]
    )


def any_case(*commands: making.Made[Argv]) -> making.Made[Argv]:
    """One of the commands, its name in capitals or not."""
    return making.tuples(making.booleans(), making.one_of(commands)).map(
        lambda both: [both[1][0].lower(), *both[1][1:]] if both[0] else both[1]
    )


# What any family's keys may meet.
ANY_TYPE = making.one_of(
    command("DEL", KEYS),
    command("EXISTS", KEYS),
    command("TYPE", KEYS),
    command("EXPIRE", KEYS, SECONDS),
    command("PERSIST", KEYS),
    command("RENAME", KEYS, KEYS),
    command("COPY", KEYS, KEYS),
    command("SET", KEYS, VALUES),
    command("GET", KEYS),
    command("OBJECT", making.just(b"ENCODING"), KEYS),
)


def families() -> dict[str, tuple[making.Made[Argv], list[Argv]]]:
    """Each family's commands and start, by its module's name."""
    modules = {info.name: import_module(f"{__name__}.{info.name}") for info in iter_modules(__path__)}
    return {name: (module.COMMANDS, module.START) for name, module in modules.items()}
