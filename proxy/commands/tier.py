"""Routes, where keys live, dictionaries, and clearing by pattern.

TIER DICT, TIER HELP, TIER PURGE, TIER ROUTES, TIER WHERE.
"""

from __future__ import annotations

from proxy.commands.args import Args, parse_db
from proxy.commands.help import help_lines
from proxy.commands.spec import session_command
from proxy.errors import SYNTAX, CommandError
from proxy.resp import Argv, Reply
from proxy.session import Deferred, Session


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
