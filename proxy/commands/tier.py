"""Routes, where keys live, whether they are sound, dictionaries, and clearing by pattern.

TIER DICT, TIER HELP, TIER PURGE, TIER QUARANTINE, TIER ROUTES, TIER URL, TIER VERIFY,
TIER WHERE.
"""

from __future__ import annotations

from typing import Final

from proxy.commands.args import Args, parse_db
from proxy.commands.help import help_lines
from proxy.commands.spec import session_command
from proxy.errors import COUNT_OUT_OF_RANGE, SYNTAX, URL_LIFE_OUT_OF_RANGE, CommandError
from proxy.resp import Argv, Reply
from proxy.session import Deferred, Session

QUARANTINE_PAGE: Final = 100  # records that TIER QUARANTINE LIST shows, unless COUNT says otherwise
QUARANTINE_PAGE_MAX: Final = 1000
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


@session_command("tier|verify")
def tier_verify(session: Session, argv: Argv) -> Reply:
    return Deferred(lambda: session.server.verify(session.db, argv[2]))


@session_command("tier|quarantine")
def tier_quarantine(session: Session, argv: Argv) -> Reply:
    args = Args(argv, 2)
    if args.match(b"DROP"):
        backend = args.next().decode("utf-8", "backslashreplace")
        ids = [args.next()]
        while args.more():
            ids.append(args.next())
        return Deferred(lambda: session.server.release(backend, ids))
    backend, after, count = "", b"", QUARANTINE_PAGE
    if args.more() and args.option() != b"LIST":
        raise CommandError(SYNTAX)
    while args.more():
        option = args.option()
        if option == b"BACKEND":
            backend = args.next().decode("utf-8", "backslashreplace")
        elif option == b"AFTER":
            after = args.next()
        elif option == b"COUNT":
            count = args.next_int()
        else:
            raise CommandError(SYNTAX)
    if after and not backend:
        raise CommandError(SYNTAX)
    if not 0 < count <= QUARANTINE_PAGE_MAX:
        raise CommandError(COUNT_OUT_OF_RANGE)
    return Deferred(lambda: session.server.quarantined(backend, after, count))


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


@session_command("tier|dict")
def tier_dict(session: Session, argv: Argv) -> Reply:
    args = Args(argv, 2)
    if not args.more():
        return Deferred(session.server.dictionaries)
    if args.option() != b"TRAIN":
        raise CommandError(SYNTAX)
    prefix = args.next()
    args.finish()
    return Deferred(lambda: session.server.train_dictionary(prefix))


@session_command("tier|help")
def tier_help(session: Session, argv: Argv) -> Reply:
    return help_lines(b"tier")
