"""The server, and all keys together: BGREWRITEAOF, BGSAVE, CONFIG, DBSIZE, FLUSHALL, FLUSHDB, INFO, KEYS,
LASTSAVE, LOLWUT, MODULE LIST, MONITOR, RANDOMKEY, ROLE, SAVE, SCAN, SWAPDB, TIME.
"""

from __future__ import annotations

import random
import time

from proxy import errors
from proxy.commands.args import (
    INT32_MAX,
    INT32_MIN,
    SCAN_COUNT,
    Args,
    parse_cursor,
    parse_int,
    parse_int_or,
)
from proxy.commands.connection import REDIS_VERSION
from proxy.commands.help import help_lines
from proxy.commands.spec import session_command
from proxy.errors import SYNTAX, CommandError
from proxy.keyspace import DATABASES
from proxy.resp import OK, Argv, Reply, Simple, Verbatim
from proxy.session import Deferred, Session


@session_command("info")
def info(session: Session, argv: Argv) -> Reply:
    sections = [section.lower().decode("utf-8", "replace") for section in argv[1:]]
    return Verbatim(session.server.info(sections).encode("utf-8", "surrogateescape"))


@session_command("config|get")
def config_get(session: Session, argv: Argv) -> Reply:
    return session.server.config_get(argv[2:])


@session_command("config|set")
def config_set(session: Session, argv: Argv) -> Reply:
    if len(argv) % 2:
        raise CommandError(SYNTAX)
    values: dict[bytes, bytes] = {}
    for name, value in zip(argv[2::2], argv[3::2], strict=True):
        if name.lower() in map(bytes.lower, values):
            raise errors.config_set_failed(name, "duplicate parameter")
        values[name] = value
    session.server.config_set(values)
    return OK


@session_command("config|rewrite")
def config_rewrite(session: Session, argv: Argv) -> Reply:
    session.server.config_rewrite()
    return OK


@session_command("config|resetstat")
def config_resetstat(session: Session, argv: Argv) -> Reply:
    session.server.reset_stats()
    return OK


@session_command("config|help")
def config_help(session: Session, argv: Argv) -> Reply:
    return help_lines(b"config")


@session_command("monitor")
def monitor(session: Session, argv: Argv) -> Reply:
    session.server.monitor(session)
    return OK


@session_command("time")
def time_(session: Session, argv: Argv) -> Reply:
    seconds, ns = divmod(time.time_ns(), 1_000_000_000)  # the clock's milliseconds are too coarse
    return [b"%d" % seconds, b"%d" % (ns // 1000)]


@session_command("module|list")
def module_list(session: Session, argv: Argv) -> Reply:
    return session.server.modules(session)


@session_command("role")
def role(session: Session, argv: Argv) -> Reply:
    return ["master", 0, []]


@session_command("lastsave")
def lastsave(session: Session, argv: Argv) -> Reply:
    """The start of the server, as in a Redis, where no snapshot has been written since."""
    return session.server.saved_at // 1000


@session_command("save")
def save(session: Session, argv: Argv) -> Reply:
    """Its client alone waits."""
    if not session.server.keeps_snapshots:
        raise CommandError(errors.NO_SNAPSHOTS)
    if session.server.saving:
        raise CommandError(errors.SAVING)
    return Deferred(session.server.save)


@session_command("bgsave")
def bgsave(session: Session, argv: Argv) -> Reply:
    if len(argv) > 2 or (len(argv) == 2 and argv[1].upper() != b"SCHEDULE"):
        raise CommandError(SYNTAX)
    if not session.server.keeps_snapshots:
        raise CommandError(errors.NO_SNAPSHOTS)
    if not session.server.saving:
        session.server.save_soon()
        return Simple(b"Background saving started")
    if len(argv) == 1:
        raise CommandError(errors.SAVING)
    session.server.save_soon()
    return Simple(b"Background saving scheduled")


@session_command("bgrewriteaof")
def bgrewriteaof(session: Session, argv: Argv) -> Reply:
    raise CommandError(errors.NO_APPEND_FILE)


@session_command("dbsize")
def dbsize(session: Session, argv: Argv) -> Reply:
    return Deferred(lambda: session.server.size(session.db))


@session_command("keys")
def keys(session: Session, argv: Argv) -> Reply:
    return Deferred(lambda: session.server.keys(session.db, argv[1]))


@session_command("randomkey")
def randomkey(session: Session, argv: Argv) -> Reply:
    return Deferred(lambda: session.server.random_key(session.db))


@session_command("scan")
def scan(session: Session, argv: Argv) -> Reply:
    cursor, pattern, count, type = parse_scan(argv)
    return Deferred(lambda: session.server.scan(session.db, cursor, pattern, count, type))


def parse_scan(argv: Argv) -> tuple[int, bytes, int, str]:
    """SCAN's cursor, pattern, count and the name of a type, which is empty for any."""
    cursor = parse_cursor(argv[1])
    pattern = b"*"
    count = SCAN_COUNT
    type = ""
    args = Args(argv, 2)
    while args.more():
        option = args.option()
        if option == b"MATCH":
            pattern = args.next()
        elif option == b"COUNT":
            count = args.next_int()
            if count < 1:
                raise CommandError(SYNTAX)
        elif option == b"TYPE":
            type = args.next().lower().decode("utf-8", "replace")
        else:
            raise CommandError(SYNTAX)
    return cursor, pattern, count, type


@session_command("flushall")
def flushall(session: Session, argv: Argv) -> Reply:
    _check_flush(argv)
    return Deferred(lambda: session.server.flush(None))


@session_command("flushdb")
def flushdb(session: Session, argv: Argv) -> Reply:
    _check_flush(argv)
    return Deferred(lambda: session.server.flush(session.db))


def _check_flush(argv: Argv) -> None:
    """ASYNC and SYNC are taken and make no difference: no flush holds up other clients."""
    if len(argv) > 2 or (len(argv) == 2 and argv[1].upper() not in (b"ASYNC", b"SYNC")):
        raise CommandError(SYNTAX)


@session_command("swapdb")
def swapdb(session: Session, argv: Argv) -> Reply:
    first = _index(argv[1], errors.INVALID_FIRST_DB)
    second = _index(argv[2], errors.INVALID_SECOND_DB)
    if not (0 <= first < DATABASES and 0 <= second < DATABASES):
        raise CommandError(errors.DB_OUT_OF_RANGE)
    return session.server.swap(first, second)


def _index(text: bytes, error: str) -> int:
    index = parse_int_or(text, error)
    if not INT32_MIN <= index <= INT32_MAX:
        raise CommandError(error)
    return index


@session_command("lolwut")
def lolwut(session: Session, argv: Argv) -> Reply:
    if len(argv) > 2 and argv[1].upper() == b"VERSION":
        parse_int(argv[2])  # there is but one picture
    return Verbatim(f"{_strata(48, 12)}Redis ver. {REDIS_VERSION}\n".encode())


def _strata(width: int, height: int) -> str:
    """A section through the ground: memory on top, Redis below it, and what lasts at the bottom."""
    columns: list[str] = []
    sky, soil = height // 3, 2 * height // 3
    for _ in range(width):
        sky = min(max(sky + random.choice((-1, 0, 0, 1)), 1), height // 2)
        soil = min(max(soil + random.choice((-1, 0, 0, 1)), sky + 1), height - 1)
        columns.append("." * sky + "o" * (soil - sky) + "#" * (height - soil))
    return "".join(f"{''.join(row)}\n" for row in zip(*columns, strict=True))
