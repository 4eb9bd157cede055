"""What memory is used for: MEMORY."""

from __future__ import annotations

from proxy.commands.args import Args, parse_int
from proxy.commands.help import help_lines
from proxy.commands.spec import session_command
from proxy.errors import SYNTAX, CommandError
from proxy.resp import Argv, Reply, Verbatim
from proxy.session import Deferred, Session


@session_command("memory|usage")
def memory_usage(session: Session, argv: Argv) -> Reply:
    args = Args(argv, 3)
    while args.more():
        # Nothing is sampled here: sizes are known.
        if not args.match(b"SAMPLES") or parse_int(args.next()) < 0:
            raise CommandError(SYNTAX)
    return Deferred(lambda: session.server.memory_usage(session.db, argv[2]))


@session_command("memory|stats")
def memory_stats(session: Session, argv: Argv) -> Reply:
    return session.server.memory_stats()


@session_command("memory|doctor")
def memory_doctor(session: Session, argv: Argv) -> Reply:
    return Verbatim(session.server.memory_advice().encode())


@session_command("memory|malloc-stats")
def memory_malloc_stats(session: Session, argv: Argv) -> Reply:
    return b"Stats not supported for the current allocator"


@session_command("memory|purge")
def memory_purge(session: Session, argv: Argv) -> Reply:
    return Deferred(session.server.trim_memory)


@session_command("memory|help")
def memory_help(session: Session, argv: Argv) -> Reply:
    return help_lines(b"memory")
