"""For tests of clients, off unless ``debug_commands`` is set: DEBUG.

SLEEP holds its own client only.  In Redis it holds everybody: there it stands for a server that hangs, here
the others are not the caller's to stop.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from proxy import errors
from proxy.commands.spec import session_command
from proxy.errors import CommandError
from proxy.resp import OK, Argv, Reply, Simple
from proxy.session import Deferred, Session

log = logging.getLogger("redtier.debug")

SLEEP_MAX: Final = 86400.0  # seconds

HELP: Final = (
    "DEBUG <subcommand> [<argument> ...], where the subcommand is one of:",
    "ERROR <message>",
    "    Answers with this error.",
    "LOG <message>",
    "    Writes a message to the server's log.",
    "OBJECT <key>",
    "    Tells how a value is kept.",
    "SET-ACTIVE-EXPIRE <0|1>",
    "    Whether keys that have expired are removed before anyone asks for them.",
    "SLEEP <seconds>",
    "    Answers after a while; other clients are served in the meantime.",
    "HELP",
    "    Shows this text.",
)


@session_command("debug")
def debug(session: Session, argv: Argv) -> Reply:
    if not _allowed(session):
        raise CommandError(errors.DEBUG_NOT_ALLOWED)
    name = argv[1].upper()
    if name not in SUBCOMMANDS or len(argv) != SUBCOMMANDS[name][0]:
        raise errors.subcommand_syntax(argv[1], "debug")
    return SUBCOMMANDS[name][1](session, argv)


def _allowed(session: Session) -> bool:
    who = session.server.debug_commands
    peer = session.link.peer
    local = peer.startswith(("127.", "[::1]")) or peer.endswith(":0")  # no TCP port: a Unix socket
    return who == "yes" or (who == "local" and local)


def _error(session: Session, argv: Argv) -> Reply:
    text = argv[2].decode("utf-8", "replace")
    raise CommandError(" ".join(text.split("\r\n")).replace("\n", " ").replace("\r", " "))


def _log(session: Session, argv: Argv) -> Reply:
    log.warning("DEBUG LOG: %s", argv[2].decode("utf-8", "replace"))
    return OK


def _object(session: Session, argv: Argv) -> Reply:
    return Deferred(lambda: session.server.describe_value(session.db, argv[2]))


def _set_active_expire(session: Session, argv: Argv) -> Reply:
    session.server.set_active_expire(argv[2] != b"0")
    return OK


def _sleep(session: Session, argv: Argv) -> Reply:
    try:
        seconds = float(argv[2])
    except ValueError:
        seconds = 0.0  # as Redis takes it
    if not 0 <= seconds <= SLEEP_MAX:
        seconds = 0.0
    return Deferred(lambda: session.server.sleep(seconds))


def _help(session: Session, argv: Argv) -> Reply:
    return [Simple(line.encode()) for line in HELP]


# The number of arguments, the command's name among them, and what it does.
SUBCOMMANDS: Final[dict[bytes, tuple[int, Callable[[Session, Argv], Reply]]]] = {
    b"ERROR": (3, _error),
    b"LOG": (3, _log),
    b"OBJECT": (3, _object),
    b"SET-ACTIVE-EXPIRE": (3, _set_active_expire),
    b"SLEEP": (3, _sleep),
    b"HELP": (2, _help),
}
