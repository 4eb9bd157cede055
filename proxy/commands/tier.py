"""Routes, where keys live, and clearing them by pattern: TIER HELP, PURGE, ROUTES, URL, WHERE."""

from __future__ import annotations

from typing import Final

from proxy.commands.args import Args, parse_db
from proxy.commands.help import help_lines
from proxy.commands.spec import session_command
from proxy.errors import SYNTAX, URL_LIFE_OUT_OF_RANGE, CommandError
from proxy.resp import Argv, Reply
from proxy.session import Deferred, Session

URL_LIFE: Final = 3600  # seconds, unless EX says otherwise
URL_LIFE_MAX: Final = 7 * 24 * 3600  # that a signed URL can be valid


@session_command("tier|url")
def tier_url(session: Session, argv: Argv) -> Reply:
    seconds = URL_LIFE
    args = Args(argv, 3)
    while args.more():
        if args.option() != b"EX":
            raise CommandError(SYNTAX)
        seconds = args.next_int()
        if not 1 <= seconds <= URL_LIFE_MAX:
            raise CommandError(URL_LIFE_OUT_OF_RANGE)
    return Deferred(lambda: session.server.url(session.db, argv[2], seconds))


@session_command("tier|where")
def tier_where(session: Session, argv: Argv) -> Reply:
    return Deferred(lambda: session.server.where(session.db, argv[2]))


@session_command("tier|routes")
def tier_routes(session: Session, argv: Argv) -> Reply:
    return session.server.routes()


@session_command("tier|purge")
def tier_purge(session: Session, argv: Argv) -> Reply:
    db = session.db
    force = False
    args = Args(argv, 3)
    while args.more():
        option = args.option()
        if option == b"DB":
            db = parse_db(args.next())
        elif option == b"FORCE":
            force = True
        else:
            raise CommandError(SYNTAX)
    return Deferred(lambda: session.server.purge(db, argv[2], force))


@session_command("tier|help")
def tier_help(session: Session, argv: Argv) -> Reply:
    return help_lines(b"tier")
