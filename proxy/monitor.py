"""MONITOR: every command, as it is run, to whoever wants to see them.

While somebody does, no command takes the quick way: the others pay nothing for this.
"""

from __future__ import annotations

import time

from proxy.commands.spec import ADMIN, SKIP_MONITOR, CommandSpec
from proxy.resp import Argv
from proxy.session import Session
from proxy.slowlog import redacted


class Monitors:
    """The sessions that see every command."""

    def __init__(self) -> None:
        self.sessions: dict[Session, None] = {}

    def show(self, session: Session, spec: CommandSpec, argv: Argv) -> None:
        """A session runs a command."""
        # Redis skips scripts, too, and then shows them all the same, before what they call.
        if spec.flags & ADMIN or (spec.flags & SKIP_MONITOR and spec.group != "scripting"):
            return
        seconds, ns = divmod(time.time_ns(), 1_000_000_000)
        where = session.link.peer or f"unix:{session.link.local}"
        words = b" ".join(b'"%b"' % _escaped(arg) for arg in redacted(argv))
        line = b"+%d.%06d [%d %b] %b\r\n" % (seconds, ns // 1000, session.db, where.encode(), words)
        for monitor in list(self.sessions):
            monitor.push_behind(line)  # else, in RESP2, it would be taken for a reply that is due


_ESCAPES = {
    **{byte: b"\\x%02x" % byte for byte in range(256) if not 32 <= byte < 127},
    7: b"\\a",
    8: b"\\b",
    9: b"\\t",
    10: b"\\n",
    13: b"\\r",
    34: b'\\"',
    92: b"\\\\",
}
"""What stands for a byte that is not shown as it is."""


def _escaped(arg: bytes) -> bytes:
    if arg.isalnum():  # as most are
        return arg
    return b"".join([_ESCAPES.get(byte) or bytes((byte,)) for byte in arg])
