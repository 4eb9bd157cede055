"""Commands that wait for an element: who waits for which keys, and who is served when one is written.

A blocking command's handler answers ``Block`` where there is nothing for it.  The command then waits in the
queues of all its keys, and its handler runs again whenever one of them was written, in the order in which
the clients came.  On a cold home each run is a job like any other.  A client that waits holds its session:
what it sends meanwhile is run afterwards.

On a Redis a blocking command has a connection of its own for as long as it takes.  They are sent in the order
in which they came, however long a connection takes to be had.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from backends.base import Dedicated, Waiter
from backends.clusterlanes import REDIRECTS_MAX, TRY_AGAIN_PAUSE, divide, redirect_in
from proxy import errors
from proxy.answers import Answer
from proxy.clock import Clock
from proxy.commands.spec import CommandSpec
from proxy.errors import CommandError
from proxy.events import Awaited, Events, Where
from proxy.homes import ColdHome, UpstreamHome
from proxy.keyspace import Block
from proxy.resp import NULL_ARRAY, Argv, Raw, Reply, encode_command
from proxy.router import Route
from proxy.session import HELD_BLOCKED, HELD_CLOSING, Session, Slot

log = logging.getLogger("redtier.blocking")

WRONG_TYPE: Final = "WRONGTYPE"


class Blocked(Awaited):
    """One command that waits."""

    def __init__(
        self, session: Session, slot: Slot, spec: CommandSpec, route: Route, names: list[bytes], block: Block
    ) -> None:
        super().__init__([(session.db, name) for name in dict.fromkeys(names)])
        self.session: Session = session
        self.slot: Slot = slot
        self.spec: CommandSpec = spec
        self.route: Route = route
        self.names: list[bytes] = names
        self.argv: Argv = block.argv
        self.timer: asyncio.TimerHandle | None = None
        self.running: bool = False  # a job of it is under way
        self.again: bool = False  # one of its keys was written since
        self.timed_out: bool = False


class Elsewhere:
    """One command that waits at a Redis."""

    def __init__(self, home: UpstreamHome, before: Elsewhere | None) -> None:
        self.home: UpstreamHome = home
        self.before: Elsewhere | None = before  # the one before it, until that has been sent
        self.sent: bool = False
        self.settled: asyncio.Event = asyncio.Event()  # set once it has been sent, or never will be
        self.work: asyncio.Task[None] | None = None
        self.id: int = 0  # of its client there, once it waits there
        self.unblock: bytes = b""  # how it is to end, where that was asked for before

    async def turn(self) -> None:
        """Return once all before it have been sent, or never will be."""
        while self.before is not None:
            await self.before.settled.wait()
            self._pass_over()

    def settle(self) -> None:
        self._pass_over()
        self.settled.set()

    def _pass_over(self) -> None:
        """Forget those before it that hold up nothing any more."""
        while self.before is not None and self.before.settled.is_set():
            self.before = None if self.before.sent else self.before.before


class First(Waiter):
    """Takes the reply of a blocking command's first run on a cold home."""

    def __init__(
        self,
        blocking: Blocking,
        session: Session,
        slot: Slot,
        spec: CommandSpec,
        route: Route,
        names: list[bytes],
    ) -> None:
        super().__init__(1)
        self._blocking = blocking
        self.session = session
        self._slot = slot
        self._spec = spec
        self._route = route
        self._names = names

    def done(self, wire: bytes, failed: int) -> None:
        raise TypeError("a tier answers with a value")

    def resolve(self, reply: Reply) -> None:
        if isinstance(reply, Block):
            self._blocking.wait(self.session, self._slot, self._spec, self._route, self._names, reply)
        else:
            self._blocking.release(self.session)
            self._slot.resolve(reply)


class Blocking:
    """All commands that wait."""

    def __init__(self, events: Events, clock: Clock) -> None:
        self._events = events
        self._clock = clock
        self._blocked: dict[Session, Blocked] = {}
        self._elsewhere: dict[Session, Elsewhere] = {}
        self._last: dict[UpstreamHome, Elsewhere] = {}  # that came for each

    @property
    def count(self) -> int:
        """Clients that wait, here or at a Redis."""
        return len(self._blocked) + sum(elsewhere.id != 0 for elsewhere in self._elsewhere.values())

    # Beginning to wait

    def hold(self, session: Session) -> None:
        """Run nothing more of the session's until ``release``, but notice when it leaves."""
        if not session.held:
            session.link.resume()  # it may have been held, and not be read from, until now
        session.held |= HELD_BLOCKED

    def release(self, session: Session) -> None:
        session.release(HELD_BLOCKED)

    def wait(
        self, session: Session, slot: Slot, spec: CommandSpec, route: Route, names: list[bytes], block: Block
    ) -> None:
        if session.held & HELD_CLOSING or session.finishing:  # it has left, or is about to
            slot.resolve(NULL_ARRAY)
            return
        blocked = Blocked(session, slot, spec, route, names, block)
        self._blocked[session] = blocked
        self.hold(session)
        self._events.wait(blocked)
        if block.timeout:
            loop = asyncio.get_running_loop()
            blocked.timer = loop.call_later(block.timeout / 1000, self._time_out, blocked)

    def _time_out(self, blocked: Blocked) -> None:
        blocked.timer = None
        blocked.timed_out = True
        if not blocked.running:  # else its job decides
            self._end(blocked, NULL_ARRAY)

    def _end(self, blocked: Blocked, reply: Reply) -> None:
        self._leave(blocked)
        blocked.slot.resolve(reply)
        self.release(blocked.session)

    def _leave(self, blocked: Blocked) -> None:
        del self._blocked[blocked.session]
        self._events.leave(blocked)
        if blocked.timer is not None:
            blocked.timer.cancel()

    # Being served

    def serve(self) -> None:
        """Run anew what waits for keys that were written since the last call."""
        events = self._events
        while events.ready:
            where = events.ready.pop(0)
            for awaited in events.queue(where):
                assert isinstance(awaited, Blocked)
                if isinstance(awaited.route.home, ColdHome):
                    self._run_cold(awaited)
                elif not self._run_here(awaited) and self._is_gone(awaited, where):
                    break

    def _is_gone(self, blocked: Blocked, where: Where) -> bool:
        return blocked.route.keyspaces[where[0]].peek(where[1]) is None

    def _run_here(self, blocked: Blocked) -> bool:
        handler = blocked.spec.handler
        assert handler is not None
        try:
            reply = handler(blocked.route.keyspaces[blocked.session.db], blocked.argv)
        except CommandError as error:
            reply = error
        except Exception:
            log.exception("%s failed", blocked.spec.title)
            reply = CommandError(errors.INTERNAL)
        return self._took(blocked, reply)

    def _took(self, blocked: Blocked, reply: Reply) -> bool:
        """Whether that was the command's reply."""
        if isinstance(reply, Block) or (isinstance(reply, CommandError) and reply.code == WRONG_TYPE):
            return False
        self._end(blocked, reply)
        return True

    def _run_cold(self, blocked: Blocked) -> None:
        if blocked.running:
            blocked.again = True
            return
        blocked.running = True
        blocked.again = False
        handler = blocked.spec.handler
        home = blocked.route.home
        assert handler is not None
        assert isinstance(home, ColdHome)
        home.submit(
            Again(self, blocked), handler, blocked.argv, blocked.session.db, blocked.spec.need, blocked.names
        )

    def ran(self, blocked: Blocked, reply: Reply) -> None:
        """A job has run the command again."""
        blocked.running = False
        if blocked.session not in self._blocked:
            blocked.slot.resolve(reply)  # its client has left: what it was given is gone, as in Redis
        elif not self._took(blocked, reply):
            if blocked.again:
                self._run_cold(blocked)
            elif blocked.timed_out:
                self._end(blocked, NULL_ARRAY)

    # Leaving

    def forget(self, session: Session) -> None:
        """The session's connection is gone."""
        blocked = self._blocked.get(session)
        if blocked is not None:
            self._leave(blocked)
        elsewhere = self._elsewhere.pop(session, None)
        if elsewhere is not None and elsewhere.work is not None:
            elsewhere.work.cancel()

    def unblock(self, session: Session, error: bool) -> bool:
        """CLIENT UNBLOCK: end the wait, as if its time had run out or by an error; whether it waited."""
        blocked = self._blocked.get(session)
        if blocked is not None:
            if not blocked.running:
                self._end(blocked, CommandError(errors.UNBLOCKED) if error else NULL_ARRAY)
            return True
        elsewhere = self._elsewhere.get(session)
        if elsewhere is None:
            return False
        elsewhere.unblock = b"ERROR" if error else b"TIMEOUT"
        if elsewhere.id:
            self._unblock_there(elsewhere)
        return True

    def _unblock_there(self, elsewhere: Elsewhere) -> None:
        lane = elsewhere.home.shared(0, 2)
        request = [b"CLIENT", b"UNBLOCK", b"%d" % elsewhere.id, elsewhere.unblock]
        lane.send(encode_command(request), Answer())

    # At a Redis

    def wait_elsewhere(
        self, session: Session, slot: Slot, home: UpstreamHome, key: bytes, argv: Argv
    ) -> None:
        server = home.of(key)
        elsewhere = self._elsewhere[session] = Elsewhere(server, self._last.get(server))
        self._last[server] = elsewhere
        work = self._wait_elsewhere(session, slot, home, key, elsewhere, argv)
        elsewhere.work = asyncio.get_running_loop().create_task(work)
        elsewhere.work.add_done_callback(lambda _: elsewhere.settle())
        if session.finishing:  # it is about to leave
            elsewhere.unblock = b"TIMEOUT"
        self.hold(session)

    async def _wait_elsewhere(
        self, session: Session, slot: Slot, home: UpstreamHome, key: bytes, elsewhere: Elsewhere, argv: Argv
    ) -> None:
        own: Dedicated | None = None
        reply: Reply = CommandError(errors.INTERNAL)
        asking = False
        redirects = 0
        loop = asyncio.get_running_loop()
        until = loop.time() + home.patience
        first_asked = 0.0
        try:
            while True:
                own = await elsewhere.home.dedicated(session.db, session.proto, True)
                await elsewhere.turn()
                asked = loop.time()
                first_asked = first_asked or asked
                wire = await self._ask_there(elsewhere, own, left_of(argv, asked - first_asked), asking)
                if loop.time() - asked > home.patience:  # it has waited there, as it should
                    until, redirects = loop.time() + home.patience, 0
                reply = Raw(wire)
                # An UNBLOCK that comes late must not end what the next client waits for on it.
                own.release(not elsewhere.unblock and not wire.startswith((b"-UPSTREAM", b"-BACKENDDOWN")))
                own = None
                if not home.sharded or not redirect_in(wire, False):
                    break
                redirect = home.redirect(elsewhere.home, wire)
                if redirect is not None and redirects < REDIRECTS_MAX:
                    elsewhere.home, asking = redirect
                    redirects += 1
                elif loop.time() < until:
                    await asyncio.sleep(TRY_AGAIN_PAUSE / 1000)
                    elsewhere.home, asking, redirects = home.of(key), False, 0
                else:
                    reply = errors.unsettled(home.name)
                    break
        except CommandError as error:
            reply = error
        except asyncio.CancelledError:
            pass  # the client has left
        except Exception:
            log.exception("%r failed", argv[0])
        finally:
            if own is not None:
                own.release(False)
            self._elsewhere.pop(session, None)
            slot.resolve(reply)
            self.release(session)

    async def _ask_there(self, elsewhere: Elsewhere, own: Dedicated, argv: Argv, asking: bool) -> bytes:
        """The raw reply."""
        identity = Answer()
        own.send(encode_command([b"CLIENT", b"ID"]), identity)
        requests = [[b"ASKING"], argv] if asking else [argv]
        answer = Answer(len(requests))
        own.send(b"".join(map(encode_command, requests)), answer)
        elsewhere.sent = True
        elsewhere.settle()
        elsewhere.id = 0
        wire = await identity.future
        if wire.startswith(b":"):
            elsewhere.id = int(wire[1:-2])
            if elsewhere.unblock:
                self._unblock_there(elsewhere)
        wire = await answer.future
        assert isinstance(wire, bytes)
        return divide(wire, 2)[1] if asking else wire


def left_of(argv: Argv, waited: float) -> Argv:
    """The command with so many seconds less to wait."""
    if not waited:
        return argv
    name = argv[0].upper()
    place, unit = len(argv) - 1, 1.0
    if name in (b"BLMPOP", b"BZMPOP"):
        place = 1
    elif name in (b"XREAD", b"XREADGROUP"):
        place, unit = [arg.upper() for arg in argv].index(b"BLOCK") + 1, 1000.0
    whole = float(argv[place])
    if not whole:  # it waits for ever
        return argv
    left = max(whole - waited * unit, 0.001 * unit)
    rest = list(argv)
    rest[place] = b"%d" % left if unit > 1 else b"%.3f" % left
    return rest


class Again(Waiter):
    """Takes the reply of a later run on a cold home."""

    def __init__(self, blocking: Blocking, blocked: Blocked) -> None:
        super().__init__(1)
        self._blocking = blocking
        self._blocked = blocked

    def done(self, wire: bytes, failed: int) -> None:
        raise TypeError("a tier answers with a value")

    def resolve(self, reply: Reply) -> None:
        self._blocking.ran(self._blocked, reply)
