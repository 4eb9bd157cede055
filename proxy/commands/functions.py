"""Functions: FUNCTION DELETE, DUMP, FLUSH, HELP, KILL, LIST, LOAD, RESTORE, STATS.

They are a Redis' own (``proxy.upstreamscripts``); FCALL and FCALL_RO go where their keys are.
"""

from __future__ import annotations

from proxy.commands.help import help_lines
from proxy.commands.spec import session_command
from proxy.resp import Argv, Reply
from proxy.session import Session


@session_command("function|delete")
@session_command("function|dump")
@session_command("function|flush")
@session_command("function|kill")
@session_command("function|list")
@session_command("function|load")
@session_command("function|restore")
@session_command("function|stats")
def function(session: Session, argv: Argv) -> Reply:
    return session.server.function(session, argv)


@session_command("function|help")
def function_help(session: Session, argv: Argv) -> Reply:
    return help_lines(b"function")
