"""Transactions: DISCARD EXEC MULTI UNWATCH WATCH.

EXEC and WATCH are the dispatcher's, which knows where keys live; see ``proxy.transactions``.
"""

from __future__ import annotations

from proxy import errors
from proxy.commands.spec import session_command
from proxy.errors import CommandError
from proxy.resp import OK, Argv, Reply
from proxy.session import Deferred, Queue, Session


@session_command("multi")
def multi(session: Session, argv: Argv) -> Reply:
    if session.multi is not None:
        raise CommandError(errors.NESTED_MULTI)
    session.multi = Queue()
    session.regate()
    return OK


@session_command("discard")
def discard(session: Session, argv: Argv) -> Reply:
    if session.multi is None:
        raise CommandError(errors.DISCARD_WITHOUT_MULTI)
    session.leave_multi()
    session.server.unwatch(session)
    return OK


@session_command("exec")
def exec_(session: Session, argv: Argv) -> Reply:
    if session.multi is None:
        raise CommandError(errors.EXEC_WITHOUT_MULTI)
    return session.server.execute(session)


@session_command("watch")
def watch(session: Session, argv: Argv) -> Reply:
    if session.multi is not None:
        raise CommandError(errors.WATCH_IN_MULTI)
    return Deferred(lambda: session.server.watch(session, argv[1:]))


@session_command("unwatch")
def unwatch(session: Session, argv: Argv) -> Reply:
    session.server.unwatch(session)
    return OK
