"""What a script may call: commands on the keyspace that it runs on, and a few that name no key.

``KEYS``, ``SCAN``, ``DBSIZE`` and ``RANDOMKEY`` speak of all keys, as outside of scripts, and see what the
script has changed so far.  They are answered where memory holds all that they ask for: a script can't wait.
``PUBLISH`` tells how many will get the message, which leaves once the script's changes are there.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Final

from proxy import errors
from proxy.commands.args import parse_db
from proxy.commands.server import parse_scan
from proxy.commands.spec import KEYS, NOSCRIPT, WRITE, CommandSpec, load_table, lookup
from proxy.errors import CommandError
from proxy.glob import Glob
from proxy.keyspace import KIND_NAMES, Block
from proxy.overlay import Overlay
from proxy.resp import OK, PONG, Argv, Reply
from proxy.scripting import Calls

# By name: where their options begin.
STREAM_READS: Final[dict[bytes, int]] = {b"xread": 1, b"xreadgroup": 4}

# Refused to scripts that only read, as writes are: Redis' replicas would be told of them too.
TOLD_TO_REPLICAS: Final = (b"pfcount", b"publish", b"spublish")


class Surroundings:
    """What there is beside a script's keys; here, nothing: what runs handlers alone."""

    def receivers(self, command: bytes, channel: bytes) -> int:
        """How many clients of ours a message would reach; raises CommandError for a Redis' channel."""
        return 0

    def size(self, db: int) -> int:
        """How many keys there are; as the others, raises CommandError where memory can't tell."""
        raise errors.not_in_scripts("dbsize")

    def names(self, title: str, db: int, pattern: Glob) -> dict[bytes, int]:
        """All keys that fit, with their kinds; ``title`` is the command that asks."""
        raise errors.not_in_scripts(title)

    def random_key(self, db: int) -> bytes | None:
        raise errors.not_in_scripts("randomkey")


class Run(Calls):
    """One script at work on its keyspace."""

    def __init__(self, ks: Overlay, writes: bool, around: Surroundings) -> None:
        self.ks: Overlay = ks
        self.writes: bool = writes
        self.around: Surroundings = around
        self.table: dict[bytes, CommandSpec] = load_table()
        self.now_ns: int = 0

    def call(self, argv: Argv) -> Reply:
        spec = lookup(self.table, argv)
        if spec is None:
            raise CommandError(errors.SCRIPT_UNKNOWN_COMMAND)
        if not spec.arity_fits(len(argv)):
            raise CommandError(errors.SCRIPT_ARITY)
        if spec.flags & NOSCRIPT:
            raise CommandError(errors.SCRIPT_NOT_ALLOWED)
        if not self.writes and (spec.flags & WRITE or spec.name in TOLD_TO_REPLICAS):
            raise CommandError(errors.SCRIPT_READ_ONLY)
        if spec.name in STREAM_READS and _blocks(argv):
            raise CommandError(errors.SCRIPT_BLOCKS % spec.title)
        own = IN_SCRIPTS.get(spec.name)
        if own is not None:
            return own(self, argv)
        if spec.handler is None:
            raise errors.not_served_yet(spec.title)
        if spec.scope != KEYS:
            raise errors.not_in_scripts(spec.title)
        spec.calls += 1
        reply = spec.handler(self.ks, argv)
        return reply.empty if isinstance(reply, Block) else reply

    def is_command(self, argv: Argv) -> bool:
        return lookup(self.table, argv) is not None


def _blocks(argv: Argv) -> bool:
    """Whether a command that reads streams would wait for more."""
    for word in argv[STREAM_READS[argv[0].lower()] :]:
        if word.upper() in (b"BLOCK", b"STREAMS"):
            return word.upper() == b"BLOCK"
    return False


def _ping(run: Run, argv: Argv) -> Reply:
    if len(argv) > 2:
        raise errors.wrong_arity("ping")
    return argv[1] if len(argv) == 2 else PONG


def _echo(run: Run, argv: Argv) -> Reply:
    return argv[1]


def _select(run: Run, argv: Argv) -> Reply:
    run.ks = run.ks.at(parse_db(argv[1]))  # for the script alone
    return OK


def _time(run: Run, argv: Argv) -> Reply:
    if run.now_ns == 0:  # it stands still while a script runs
        run.now_ns = time.time_ns()
    seconds, ns = divmod(run.now_ns, 1_000_000_000)
    return [b"%d" % seconds, b"%d" % (ns // 1000)]


def _publish(run: Run, argv: Argv) -> Reply:
    command = argv[0].lower()
    count = run.around.receivers(command, argv[1])
    run.ks.publish(command == b"spublish", argv[1], argv[2])
    return count


def _dbsize(run: Run, argv: Argv) -> Reply:
    count = run.around.size(run.ks.db)
    for name, entry in run.ks.edited():
        count += (entry is not None) - (run.ks.base.peek(name) is not None)
    return count


def _names(run: Run, title: str, pattern: bytes) -> dict[bytes, int]:
    glob = Glob(pattern)
    names = run.around.names(title, run.ks.db, glob)
    for name, entry in run.ks.edited():
        if entry is None:
            names.pop(name, None)
        elif glob.matches(name):
            names[name] = entry.kind
    return names


def _keys(run: Run, argv: Argv) -> Reply:
    return list(_names(run, "keys", argv[1]))


def _scan(run: Run, argv: Argv) -> Reply:
    """All at once, whatever COUNT says: a walk over several calls would not see the script's own changes."""
    cursor, pattern, _, type = parse_scan(argv)
    if cursor:
        raise errors.unknown_cursor(cursor)
    names = _names(run, "scan", pattern)
    return [b"0", [name for name, kind in names.items() if not type or KIND_NAMES.get(kind) == type]]


def _randomkey(run: Run, argv: Argv) -> Reply:
    if not run.ks.edited():
        return run.around.random_key(run.ks.db)
    names = _names(run, "randomkey", b"*")
    return random.choice(list(names)) if names else None


IN_SCRIPTS: Final[dict[bytes, Callable[[Run, Argv], Reply]]] = {
    b"dbsize": _dbsize,
    b"echo": _echo,
    b"keys": _keys,
    b"ping": _ping,
    b"publish": _publish,
    b"randomkey": _randomkey,
    b"scan": _scan,
    b"select": _select,
    b"spublish": _publish,
    b"time": _time,
}
