"""EXEC: the queued commands run as one step where their keys live.

Commands on keys in memory, and those without keys, run at once, one after the other; nothing can come in
between.  Those on a cold home are one job: one transaction of the database, which also asserts that watched
keys are as they were.  Those on a Redis go to it as a MULTI … EXEC of its own, one run on the lane.

Keys of several homes can't be one step.  That is refused before anything is done, unless the configuration
opts in to executing each home's part by itself (``[transactions] across = "split"``).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Final

from backends.base import Key, Token, Want
from backends.clusterlanes import REDIRECTS_MAX, TRY_AGAIN_PAUSE, redirect_in
from backends.frames import ReplyFramer
from proxy import errors
from proxy.answers import Answer
from proxy.cells import Handler, WorkingSet
from proxy.clock import Clock
from proxy.commands.args import parse_db
from proxy.commands.scripting import to_upstream
from proxy.commands.spec import (
    ADMIN,
    FORWARD_ONLY,
    KEYS,
    NOT_SHARED,
    PUBSUB,
    CommandSpec,
    InvalidKeys,
    key_positions,
    lookup,
)
from proxy.errors import CommandError, NeedKeys
from proxy.events import Events, Watch
from proxy.homes import ColdHome, MemoryHome, UpstreamHome
from proxy.keyspace import Block, Keyspace, check_size
from proxy.moves import MOVES
from proxy.resp import NULL_ARRAY, OK, Argv, Raw, Reply, encode_command
from proxy.router import Home, Route, Router
from proxy.sealing import LARGE, VALUES, keys_shown
from proxy.session import HELD_CLOSING, Deferred, Session, Told

SCRIPTS: Final = (b"eval", b"eval_ro", b"evalsha", b"evalsha_ro")
PUBLISH: Final = (b"publish", b"spublish")
OF_ALL_KEYS: Final = (*SCRIPTS, b"dbsize", b"keys", b"randomkey", b"wait")
"""Commands without keys that the only Redis there is can run among the others."""
FLUSHES: Final = (b"flushall", b"flushdb")
"""And those that it may only be sent where it is flushable."""
REPLY_MAX: Final = 1 << 40  # bytes; an upstream's replies were bounded when they came in


def _unasked(session: Session, spec: CommandSpec, argv: Argv) -> None:
    pass


class Command:
    """One queued command: in which database it runs, and the place of its reply."""

    def __init__(self, place: int, spec: CommandSpec, argv: Argv, db: int, names: list[bytes]) -> None:
        self.place: int = place
        self.spec: CommandSpec = spec
        self.argv: Argv = argv
        self.db: int = db
        self.names: list[bytes] = names


class Piece:
    """What one home does of a transaction; ``home`` is None for all that memory, or nobody, holds."""

    def __init__(self, home: Home | None) -> None:
        self.home: Home | None = home
        self.commands: list[Command] = []


class Transactions:
    """Queues, plans and runs the transactions of all sessions."""

    def __init__(
        self,
        table: dict[bytes, CommandSpec],
        router: Router,
        clock: Clock,
        events: Events,
        split: bool,
        key_max: int,
    ) -> None:
        self._table: dict[bytes, CommandSpec] = table
        self._router: Router = router
        self._clock: Clock = clock
        self._events: Events = events
        self._split: bool = split
        self._key_max: int = key_max
        self._telling: set[asyncio.Future[Reply]] = set()  # what EXEC has not waited for
        # Told of each command that is run, or about to be, for a client that tracks what it reads.
        self.ran: Callable[[Session, CommandSpec, Argv], object] = _unasked

    # Queueing

    def check(self, spec: CommandSpec, argv: Argv) -> None:
        """Refuse, when it is queued, a command that could not be run."""
        if spec.scope != KEYS:
            if spec.handler is None:
                raise errors.not_served_yet(spec.title)
            return
        if spec.asks:
            raise errors.not_in_exec(spec.title)
        names = self._names(spec, argv)
        if not names and spec.name in FORWARD_ONLY:
            self._router.of_functions(spec.title)
        if not names and spec.upstream and spec.flags & (ADMIN | PUBSUB):
            raise errors.not_shared(spec.title)
        if self._router.seals:
            self._router.check_sealed(spec, argv, names)
            self._check_moved(spec, names)
        for name in names:
            if len(name) > self._key_max:
                raise errors.too_large(len(name), self._key_max, "key_max")
            route = self._router.find(name)
            if not isinstance(route.home, UpstreamHome):
                if spec.handler is None:
                    raise errors.not_served(spec.title, route.home.type)
            elif spec.flags & (ADMIN | PUBSUB) or spec.name in NOT_SHARED:
                raise errors.not_shared(spec.title)
            elif route.limited:
                for arg in argv:
                    check_size(route.policy, arg)

    def _check_moved(self, spec: CommandSpec, names: list[bytes]) -> None:
        """Refuse to have a Redis move a value between routes of which it would be unsealed on one only."""
        if spec.name in MOVES and len(names) > 1:
            first, second = self._router.find(names[0]), self._router.find(names[1])
            if first.home is second.home and first.sealed != second.sealed:
                raise errors.sealed_and_not(spec.title, first.prefix, second.prefix)

    def _names(self, spec: CommandSpec, argv: Argv) -> list[bytes]:
        try:
            return [argv[position] for position in key_positions(spec, argv)]
        except InvalidKeys:  # its handler says what is wrong
            return []

    # EXEC

    def execute(self, session: Session) -> Reply:
        """EXEC's reply, or a Deferred where homes must be waited for.  The transaction is over then."""
        queue = session.multi
        assert queue is not None
        try:
            if queue.aborted:
                raise CommandError(errors.EXEC_ABORTED)
            pieces = self._plan(session, queue.requests)
        except CommandError:
            self._leave(session)
            raise
        watched = any(not isinstance(watch.home, MemoryHome) for watch in session.watches)
        if not watched and not session.write_count and all(piece.home is None for piece in pieces):
            watches, session.watches = session.watches, []
            session.leave_multi()
            if not self._untouched(watches):
                return NULL_ARRAY
            replies: list[Reply] = [None] * len(queue.requests)
            for piece in pieces:
                self._run_here(session, piece, replies)
            return replies
        if session.tracking is not None:
            for piece in pieces:
                for command in piece.commands:
                    self.ran(session, command.spec, command.argv)
        return Deferred(lambda: self._execute(session, pieces, len(queue.requests)))

    def _plan(self, session: Session, requests: list[Argv]) -> list[Piece]:
        """Each command to its home's piece; raises CROSSTIER where there would be several.

        A cluster is as many homes as it has slots; what names no key may run wherever the rest does.
        """
        pieces: dict[object, Piece] = {}  # by what one step can change
        steps: dict[object, Route] = {}  # the same, with a route that leads there
        db = session.db
        loads = False
        for place, argv in enumerate(requests):
            spec = lookup(self._table, argv)
            assert spec is not None
            names = self._names(spec, argv) if spec.scope == KEYS else []
            alone = None if names else self._alone(spec, loads)
            loads = loads or spec.name == b"script|load"
            if not names and spec.name in SCRIPTS and alone is None:
                names = self._unnamed(spec, argv, db)
            routes = [self._router.find(name) for name in names]
            if spec.name in PUBLISH and isinstance(self._router.find(argv[1]).home, UpstreamHome):
                routes = [self._router.find(argv[1])]  # the channel is that Redis' own
            elif not names and spec.name in FORWARD_ONLY:
                routes = [self._router.of_functions(spec.title)]
            elif not names and spec.upstream:
                routes = [self._router.of_backend(spec.upstream)]
            elif alone is not None:
                routes = [alone]
            step: object = None
            owner: Home | None = None
            for at, route in enumerate(routes):
                owner = route.home
                key = names[at] if names else self._any_key(owner, requests)
                mine = owner.step(key)
                if isinstance(owner, UpstreamHome):
                    owner = owner.of(key)
                if steps and mine not in steps and not self._split:
                    raise _apart(next(iter(steps.values())), route, "")
                steps.setdefault(mine, route)
                if step is not None and mine != step:
                    raise _apart(steps[step], route, spec.title)
                if step is None and spec.patterns is not None:
                    self._router.check_patterns(spec.title, route, spec.patterns(argv))
                step = mine
            if isinstance(owner, MemoryHome):
                step = owner = None
            piece = pieces.setdefault(step, Piece(owner))
            piece.commands.append(Command(place, spec, argv, db, names))
            if spec.name == b"select":
                with suppress(CommandError):  # its handler says so
                    db = parse_db(argv[1])
        return list(pieces.values())

    def _alone(self, spec: CommandSpec, loads: bool) -> Route | None:
        """A route to the only Redis there is, where it can run what speaks of all keys among the others.

        ``loads``: the transaction has loaded a script, which is known here alone until it is done.
        """
        alone = self._router.alone
        if alone is None or (loads and spec.name in SCRIPTS):
            return None
        flush = spec.name in FLUSHES and alone.home.flushable
        return alone if flush or spec.name in OF_ALL_KEYS else None

    def _any_key(self, home: Home, requests: list[Argv]) -> bytes:
        """A key by which what names none goes where the rest of the transaction at this home does."""
        for argv in requests:
            spec = lookup(self._table, argv)
            assert spec is not None
            for name in self._names(spec, argv) if spec.scope == KEYS else ():
                if self._router.find(name).home is home:
                    return name
        return b""

    def _unnamed(self, spec: CommandSpec, argv: Argv, db: int) -> list[bytes]:
        """The key that a script which names none uses first: where that one is, the script is to run.

        It is found by running the script with nothing there, which changes nothing.
        """
        handler = spec.handler
        assert handler is not None
        try:
            handler(WorkingSet(self._clock, db, []), argv)
        except NeedKeys as need:
            if isinstance(self._router.find(need.names[0]).home, UpstreamHome):
                raise errors.unnamed_key(need.names[0]) from None
            return [need.names[0]]
        except CommandError:
            pass  # it will be the answer
        return []

    async def _execute(self, session: Session, pieces: list[Piece], count: int) -> Reply:
        watches, session.watches = session.watches, []
        session.leave_multi()
        replies: list[Reply] = [None] * count
        here = [watch for watch in watches if isinstance(watch.home, MemoryHome)]
        if not self._untouched(here) or self._have_moved(watches):
            self._release(session)
            return NULL_ARRAY
        watched = {watch.home for watch in watches}
        if len(pieces) > 1 or not watched.issubset({piece.home for piece in pieces}):
            # It can't be one step: what is watched is looked at before anything is done.
            for home in watched:
                mine = [watch for watch in watches if watch.home is home]
                if isinstance(home, ColdHome):
                    untouched = await self._run_cold(session, home, Piece(home), mine, replies)
                elif isinstance(home, UpstreamHome):
                    untouched = await self._run_upstream(session, home, Piece(home), replies)
                else:
                    continue
                if not untouched:
                    self._release(session)
                    return NULL_ARRAY
            watches = []
        running = []
        for piece in pieces:
            home = piece.home
            if isinstance(home, ColdHome):
                mine = [watch for watch in watches if watch.home is home]
                running.append(self._run_cold(session, home, piece, mine, replies))
            elif isinstance(home, UpstreamHome):
                running.append(self._run_upstream(session, home, piece, replies))
        outcomes = await asyncio.gather(*running, return_exceptions=True)
        self._release(session)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
        if False in outcomes:
            return NULL_ARRAY
        for piece in pieces:  # last, since it may tell others of the rest
            if piece.home is None:
                self._run_here(session, piece, replies)
        return replies

    def _leave(self, session: Session) -> None:
        session.leave_multi()
        self.unwatch(session)

    # The pieces

    def _run_here(self, session: Session, piece: Piece, replies: list[Reply]) -> None:
        for command in piece.commands:
            replies[command.place] = self._run_one(session, command)

    def _run_one(self, session: Session, command: Command) -> Reply:
        spec = command.spec
        handler = spec.handler
        assert handler is not None
        spec.calls += 1
        began = time.perf_counter_ns()
        try:
            if spec.scope != KEYS:
                reply = handler(session, command.argv)
                if isinstance(reply, Told):
                    telling = asyncio.ensure_future(reply.run())
                    self._telling.add(telling)
                    telling.add_done_callback(self._telling.discard)
                    return reply.reply
                if isinstance(reply, Deferred):
                    return _without_waiting(spec, reply.run())
                return reply
            if not command.names:
                nothing = WorkingSet(self._clock, command.db, [])
                reply = handler(nothing, command.argv)
                for db, name, key in nothing.effects:  # a script's messages
                    self._events.event(db, name, key)
                return reply
            reply = handler(self._router.find(command.names[0]).keyspaces[command.db], command.argv)
            if session.tracking is not None:
                self.ran(session, spec, command.argv)
            return reply.empty if isinstance(reply, Block) else reply
        except NeedKeys:
            return InvalidKeys()
        except CommandError as error:
            spec.failed += 1
            session.count_error(error.code, 1)
            return error
        finally:
            _measure(session, [command], began)

    async def _run_cold(
        self, session: Session, home: ColdHome, piece: Piece, watches: list[Watch], replies: list[Reply]
    ) -> bool:
        """Whether it was done: false if a watched key was touched."""
        commands = piece.commands
        began = time.perf_counter_ns()
        keys = [Key(command.db, name) for command in commands for name in command.names]
        keys += [Key(watch.where[0], watch.where[1]) for watch in watches]
        need = max([Want.META if watches else Want.NOTHING, *(command.spec.need for command in commands)])
        waiter = Answer(owner=session)
        step = _one_step(commands, watches)
        home.submit_keys(waiter, step, [b"EXEC"], session.db, need, list(dict.fromkeys(keys)))
        reply = await waiter.future
        if isinstance(reply, CommandError):
            raise reply
        if reply is NULL_ARRAY:
            return False
        for command, each in zip(commands, reply, strict=True):
            command.spec.calls += 1
            if isinstance(each, CommandError):
                command.spec.failed += 1
                session.count_error(each.code, 1)
            replies[command.place] = each
        _measure(session, commands, began)
        return True

    async def _run_upstream(
        self, session: Session, home: UpstreamHome, piece: Piece, replies: list[Reply]
    ) -> bool:
        """As ``_run_cold``; keys that are watched there are so on a connection of the session's own."""
        began = time.perf_counter_ns()
        lane_db = db = piece.commands[0].db if piece.commands else session.db
        own = session.dedicated.pop(home, None)  # first: whoever ends the session gives back what it finds
        try:
            sent = await _all_as_sent(home, piece.commands)
        except BaseException:
            if own is not None:
                own.release(False)
            raise
        requests: list[Argv] = [] if own is None else [[b"SELECT", b"%d" % db]]
        requests.append([b"MULTI"])
        places: list[int] = []  # of each reply within EXEC's; -1 for what we have added
        for command, argv in zip(piece.commands, sent, strict=True):
            if command.db != db:
                db = command.db
                requests.append([b"SELECT", b"%d" % db])
                places.append(-1)
            requests.append(argv)
            places.append(command.place)
            command.spec.calls += 1
        if db != lane_db:
            requests.append([b"SELECT", b"%d" % lane_db])
            places.append(-1)
        requests.append([b"EXEC"])
        before = len(requests) - 1  # replies that go before EXEC's
        if own is None:
            lane = home.shared(lane_db, session.proto)
        else:
            lane = own
            requests.append([b"SELECT", b"%d" % own.db])
        waiter = Answer(len(requests))
        waiter.step = own is None
        lane.send(b"".join(map(encode_command, requests)), waiter)
        wire = await waiter.future
        if own is not None:
            own.release(wire.endswith(b"+OK\r\n"))
        framer = ReplyFramer(REPLY_MAX)
        framer.feed(wire)
        framer.take(before)
        last = framer.take(1)
        assert last is not None
        if own is not None and redirect_in(wire, True):
            return False  # a watched key has gone to another server of the cluster
        if last.startswith(b"-"):
            raise CommandError(last[1:-2].decode("utf-8", "replace"))
        if last.startswith((b"*-1", b"_")):
            return False
        frames: dict[int, bytes] = {}  # by the places of their commands
        framer = ReplyFramer(REPLY_MAX)
        framer.feed(last[last.index(b"\r\n") + 2 :])
        for place in places:
            frame = framer.take(1)
            assert frame is not None
            if place >= 0:
                frames[place] = frame
        size = unsealed = 0
        for command in piece.commands:
            frame = await _as_set(home, command, frames.pop(command.place))
            size += len(frame)
            unsealed += len(frame)
            if home.sealing is not None:
                home.sealing.check_reply(size)
                if unsealed >= LARGE:
                    unsealed = 0
                    await asyncio.sleep(0)  # many small ones are to hold up nobody either
            replies[command.place] = Raw(frame)
            if frame.startswith(b"-"):
                session.count_error(frame[1:-2].split(b" ")[0].decode("utf-8", "replace"), 1)
        _measure(session, piece.commands, began)
        return True

    # WATCH

    async def watch(self, session: Session, names: list[bytes]) -> Reply:
        for name in names:
            if any(watch.where == (session.db, name) for watch in session.watches):
                continue
            route = self._router.find(name)
            home = route.home
            watch = Watch((session.db, name), home)
            if isinstance(home, MemoryHome):
                watch.existed = route.keyspaces[session.db].peek(name) is not None
                self._events.watch(watch)
            elif isinstance(home, ColdHome):
                waiter = Answer()
                home.submit(waiter, _token, [name], session.db, Want.META, [name])
                reply = await waiter.future
                if isinstance(reply, CommandError):
                    raise reply
                watch.token = reply
            elif isinstance(home, UpstreamHome):
                watch.home = await self._watch_upstream(session, home, name)
            session.watches.append(watch)
        return OK

    async def _watch_upstream(self, session: Session, home: UpstreamHome, name: bytes) -> UpstreamHome:
        """The server on which it is watched."""
        server = home.of(name)
        redirects = 0
        until = asyncio.get_running_loop().time() + home.patience
        while True:
            own = session.dedicated.get(server)
            if own is None:
                own = await server.dedicated(session.db, session.proto, False)
                if session.held & HELD_CLOSING:  # it has left in the meantime
                    own.release(True)
                    raise CommandError(errors.INTERNAL)
                session.dedicated[server] = own
            requests = [[b"SELECT", b"%d" % session.db], [b"WATCH", name]]
            waiter = Answer(len(requests))
            own.send(b"".join(map(encode_command, requests)), waiter)
            wire = await waiter.future
            if wire.endswith(b"+OK\r\n"):
                return server
            error = wire[:-2].rpartition(b"\r\n-")[2]
            refused = b"-" + error + b"\r\n"
            if not home.sharded or not redirect_in(refused, False):
                raise CommandError(error.decode("utf-8", "replace"))
            redirect = home.redirect(server, refused)
            if redirect is not None and not redirect[1] and redirects < REDIRECTS_MAX:
                server = redirect[0]
                redirects += 1
            elif asyncio.get_running_loop().time() < until:  # where its slot is moving, it can't be watched
                await asyncio.sleep(TRY_AGAIN_PAUSE / 1000)
                server, redirects = home.of(name), 0
            else:
                raise errors.unsettled(home.name)

    def unwatch(self, session: Session) -> None:
        watches, session.watches = session.watches, []
        for watch in watches:
            if isinstance(watch.home, MemoryHome):
                self._events.unwatch(watch)
        self._release(session)

    def _release(self, session: Session) -> None:
        for own in session.dedicated.values():
            own.release(False)
        session.dedicated.clear()

    def _have_moved(self, watches: list[Watch]) -> bool:
        """Whether one of the keys is at another server of a cluster than where it is watched."""
        for watch in watches:
            name = watch.where[1]
            home = self._router.find(name).home
            if isinstance(home, UpstreamHome) and home.of(name) is not watch.home:
                return True
        return False

    def _untouched(self, watches: list[Watch]) -> bool:
        """Whether these keys, all in memory, are as they were; they are not watched any more."""
        untouched = True
        for watch in watches:
            self._events.unwatch(watch)
            db, name = watch.where
            exists = self._router.find(name).keyspaces[db].peek(name) is not None
            if watch.touched or (watch.existed and not exists):
                untouched = False
        return untouched


def _apart(first: Route, second: Route, title: str) -> CommandError:
    """Keys of two routes can't be one step; ``title`` is the command that would have both, if one would."""
    if first.home is second.home:
        return CommandError(errors.CROSS_SLOT)
    if title:
        return errors.cross_tier(title, first.prefix, second.prefix)
    return errors.cross_tier_exec(first.prefix, second.prefix)


async def _all_as_sent(home: UpstreamHome, commands: list[Command]) -> list[Argv]:
    sent: list[Argv] = []
    size = 0
    for command in commands:
        sent.append(await _as_sent(home, command))
        size += sum(map(len, command.argv))
        if home.sealing is not None and size >= LARGE:
            size = 0
            await asyncio.sleep(0)  # many small ones are to hold up nobody either
    return sent


async def _as_sent(home: UpstreamHome, command: Command) -> Argv:
    """A command as it goes to its Redis, its values sealed; raises CommandError."""
    if home.sealing is not None and command.spec.name in VALUES:
        return await home.sealing.seal(command.spec.name, command.argv)
    return to_upstream(command.argv)


async def _as_set(home: UpstreamHome, command: Command, frame: bytes) -> bytes:
    """The reply to a command with its values as their clients have set them, or an error."""
    keys = keys_shown(command.spec.name, command.argv)
    if home.sealing is None or not keys:
        return frame
    try:
        return await home.sealing.unseal(keys, frame)
    except CommandError as error:
        return error.wire


def _measure(session: Session, commands: list[Command], began: int) -> None:
    """Commands that ran together have taken until now, from ``began`` on, ns of the performance counter."""
    ns = time.perf_counter_ns() - began
    for command in commands:
        command.spec.timing.exact.add(1, ns)
    if commands and ns // 1000 >= session.hub.slow_us:
        first = commands[0]
        session.hub.took_long(session, first.spec.timing, first.argv, ns // 1000, len(commands) - 1)


def _one_step(commands: list[Command], watches: list[Watch]) -> Handler:
    """All commands as one handler; NULL_ARRAY if a watched key is not as it was."""

    def run(ks: Keyspace, argv: Argv) -> Reply:
        for watch in watches:
            db, name = watch.where
            if _token(ks.at(db), [name]) != watch.token:
                return NULL_ARRAY
        replies: list[Reply] = []
        for command in commands:
            handler = command.spec.handler
            assert handler is not None
            try:
                reply = handler(ks if command.db == ks.db else ks.at(command.db), command.argv)
                replies.append(reply.empty if isinstance(reply, Block) else reply)
            except CommandError as error:
                replies.append(error)
        return replies

    return run


def _token(ks: Keyspace, argv: Argv) -> Token:
    assert isinstance(ks, WorkingSet)
    return ks.token(argv[0])


def _without_waiting(spec: CommandSpec, work: Awaitable[Reply]) -> Reply:
    """The reply of what speaks for all backends, where none of them must be waited for."""
    assert isinstance(work, Coroutine)
    try:
        work.send(None)
    except StopIteration as done:
        return done.value
    work.close()
    raise errors.not_in_exec(spec.title)
