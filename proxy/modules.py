"""Commands that a Redis has and the table has not: what its modules bring.

They are taken from that Redis' own ``COMMAND`` (redis.io/docs/latest/commands/command), whose first, last and
step tell where the keys stand, and are forwarded to it like any other of its commands.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final

from proxy.commands.keyspecs import SpecError
from proxy.commands.spec import CATEGORIES, FLAGS, CommandSpec, Row
from proxy.errors import CommandError
from proxy.homes import UpstreamHome

log = logging.getLogger("redtier.modules")

LEARNED_MAX: Final = 2000  # commands


async def learn(home: UpstreamHome, table: Mapping[bytes, CommandSpec]) -> list[CommandSpec]:
    """The specs of the commands that only the Redis knows; none where it can't be asked."""
    try:
        reply = await home.call(0, [b"COMMAND"])
    except CommandError as error:
        log.info("backend '%s' does not tell its commands: %s", home.name, error.text)
        return []
    learned: list[CommandSpec] = []
    for info in reply if isinstance(reply, list) else []:
        name = info[0].lower()
        if name in table or len(learned) == LEARNED_MAX:
            continue
        try:
            spec = CommandSpec(name, _row(info), upstream=home.name)
        except (SpecError, ValueError, IndexError, TypeError) as error:
            log.warning("backend '%s': the command %r is not understood: %s", home.name, name, error)
            continue
        learned.append(spec)
    if learned:
        log.info("backend '%s' has %d commands of modules", home.name, len(learned))
    return learned


def _row(info: list[object]) -> Row:
    _, arity, flags, first, last, step, *more = info
    assert isinstance(arity, int)
    assert isinstance(flags, list)
    words = [flag.decode() for flag in flags]
    row: Row = {"arity": arity, "group": "module", "acl": "slow"}
    if "readonly" not in words and "write" not in words:
        words.append("write")  # it does not say: for all that is known it writes
    row["flags"] = " ".join(word for word in words if word in FLAGS)
    if isinstance(first, int) and isinstance(last, int) and isinstance(step, int) and first > 0:
        row["keys"] = [first, last, step]
        use = "RO access" if "readonly" in words else "RW access update"
        until = last - first if last >= 0 else last
        row["specs"] = [{"flags": use, "begin": ["index", first], "find": ["range", until, step, 0]}]
    if more and isinstance(more[0], list):
        categories = [category.decode().removeprefix("@") for category in more[0]]
        row["acl"] = " ".join(each for each in categories if each in CATEGORIES) or "slow"
    return row
