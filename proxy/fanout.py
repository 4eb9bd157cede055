"""Commands whose keys live on several backends: split, run at once, merged in order.

Which commands can be split, and how their replies are merged, is told by Redis' command tips
(``request_policy:multi_shard`` and ``response_policy``), which a cluster client goes by too.  ``RENAME``
and ``COPY`` move the value (``proxy.moves``), what only reads is run on copies of all values
(``proxy.gather``); every other command answers CROSSTIER.

A split command is not one step: others may see some of its parts before the rest, and when a backend fails,
the parts of the others have been done all the same.  The error says so.
"""

from __future__ import annotations

import logging
import time

from backends.base import Waiter
from proxy import errors
from proxy.clock import Clock
from proxy.commands.spec import CommandSpec
from proxy.errors import INTERNAL, CommandError
from proxy.gather import Gather, can_gather
from proxy.homes import ColdHome, UpstreamHome, parse_reply
from proxy.keyspace import check_size
from proxy.moves import MOVES, Move
from proxy.resp import OK, Argv, Reply, encode_command
from proxy.router import Home, Route, Router
from proxy.session import Deferred, Session, Slot

log = logging.getLogger("redtier.fanout")


class Part(Waiter):
    """One backend's share of a command, and whoever waits for all of them."""

    def __init__(self, split: Split, route: Route) -> None:
        super().__init__(1)
        self.split: Split = split
        self.route: Route = route
        self.argv: Argv = []
        self.home: Home = route.home  # of a cluster the server
        self.names: list[bytes] = []
        self.places: list[int] = []  # which of the command's keys are here
        self.reply: Reply = None
        self.retried: bool = False

    def retry(self) -> bytes:
        if self.retried or self.split.spec.write or self.split.session.write_count:
            return b""
        self.retried = True
        return encode_command(self.argv)

    def alone(self) -> bool:
        slot = self.split.slot
        return slot is not None and slot.alone()

    def done(self, wire: bytes, failed: int) -> None:
        self.resolve(parse_reply(wire))

    def resolve(self, reply: Reply) -> None:
        self.reply = reply
        tally = self.route.tally
        tally.add(1, (time.perf_counter_ns() - self.split.began) // 1000)
        if isinstance(reply, CommandError):
            tally.errors += 1
        self.split.part_done()


class Split:
    """A command at work on several backends."""

    def __init__(self, session: Session, spec: CommandSpec, keys: int, parts: list[Part]) -> None:
        self.session: Session = session
        self.spec: CommandSpec = spec
        self.keys: int = keys
        self.parts: list[Part] = parts
        self.missing: int = 0
        self.began: int = 0  # ns, of the performance counter
        self.slot: Slot | None = None
        self.sealing: bool = False  # parts are still to be sent: their values are being sealed

    def start(self, slot: Slot) -> None:
        """Run all parts; the slot gets the merged reply."""
        self.slot = slot
        self.began = time.perf_counter_ns()
        self.missing = len(self.parts)
        session, spec = self.session, self.spec
        for part in self.parts:
            home = part.home
            if isinstance(home, UpstreamHome):
                # The lane of the session's other commands, so that they keep their order.
                lane = home.shared(session.db, session.proto)
                if home.sealing is None:
                    lane.send(encode_command(part.argv), part)
                elif not home.sealing.send(lane, spec.name, part.argv, part):
                    self.sealing = True
                continue
            handler = spec.handler
            assert handler is not None
            if isinstance(home, ColdHome):
                home.submit(part, handler, part.argv, session.db, spec.need, part.names)
                continue
            try:
                reply = handler(part.route.keyspaces[session.db], part.argv)
            except CommandError as error:
                reply = error
            except Exception:
                log.exception("%s failed", spec.title)
                reply = CommandError(INTERNAL)
            part.resolve(reply)

    def part_done(self) -> None:
        self.missing -= 1
        if not self.missing:
            slot = self.slot
            assert slot is not None
            try:
                reply = self._merged()
            except Exception:  # no upstream of ours answers so, but the client must not wait for ever
                log.exception("%s: replies can't be merged", self.spec.title)
                reply = CommandError(INTERNAL)
            self.parts = []  # which lead back here: their values are not to wait for the collector
            slot.resolve(reply)

    def _merged(self) -> Reply:
        refused = [part.reply for part in self.parts if isinstance(part.reply, CommandError)]
        if refused:
            partly = self.spec.write and len(refused) < len(self.parts)
            return errors.partly_done(refused[0]) if partly else refused[0]
        if "response_policy:agg_sum" in self.spec.tips:
            return sum(part.reply for part in self.parts)
        if "response_policy:all_succeeded" in self.spec.tips:
            return OK
        replies: list[Reply] = [None] * self.keys
        for part in self.parts:
            for place, reply in zip(part.places, part.reply, strict=True):
                replies[place] = reply
        return replies


class Fanout:
    """Plans commands that one backend can't run as one step."""

    def __init__(self, router: Router, clock: Clock) -> None:
        self.router: Router = router
        self.clock: Clock = clock

    def plan(self, session: Session, spec: CommandSpec, argv: Argv, positions: list[int]) -> Split | Deferred:
        """How to run a command on the keys at ``positions``; raises CROSSTIER where it can't be."""
        move = MOVES.get(spec.name)
        if move is not None:
            return Deferred(Move(move, self.router, session.db, argv).run)
        names = [argv[position] for position in positions]
        if "request_policy:multi_shard" not in spec.tips or spec.handler is None:
            error = refusal(self.router, spec, names)
            if can_gather(spec):
                gather = Gather(spec, self.router, self.clock, session.db, argv, names, error)
                return Deferred(gather.run)
            raise error
        width = spec.legacy_keys[2]  # a key and the arguments that go with it, such as MSET's values
        if (len(argv) - 1) % width:
            raise errors.wrong_arity(spec.title)
        if "response_policy:agg_min" in spec.tips:  # MSETNX: all or nothing, which parts can't be
            raise refusal(self.router, spec, names)
        parts: dict[object, Part] = {}
        split = Split(session, spec, len(positions), [])
        for place, (position, name) in enumerate(zip(positions, names, strict=True)):
            route = self.router.find(name)
            home = route.home
            for value in argv[position + 1 : position + width]:
                check_size(route.policy, value)  # before any part is done
            # A store without groups of several keys gets a part for each.
            owner: object = home
            if isinstance(home, UpstreamHome):
                owner = home.step(name)
            elif isinstance(home, ColdHome) and not home.store.atomic_groups:
                owner = home, name
            part = parts.get(owner)
            if part is None:
                part = parts[owner] = Part(split, route)
                part.argv.append(argv[0])
                if isinstance(home, UpstreamHome):
                    part.home = server = home.of(name)
                    if route.reads and spec.reads and not session.watches:
                        part.home = server.replica_for(name, route.reads)
                split.parts.append(part)
            part.argv += argv[position : position + width]
            part.names.append(name)
            part.places.append(place)
        return split


def refusal(router: Router, spec: CommandSpec, names: list[bytes]) -> CommandError:
    """Why a command on these keys, which no single step can have, is not run."""
    first = router.find(names[0])
    for name in names:
        route = router.find(name)
        if route.home is not first.home:
            return errors.cross_tier(spec.title, first.prefix, route.prefix)
    if isinstance(first.home, UpstreamHome):
        return CommandError(errors.CROSS_SLOT)
    return errors.not_atomic(spec.title, first.home.name)
