"""What ``redtier copy`` starts: two backends of a configuration, a copy between them, and how it ended.

Exit codes: 0 both sides are equal; 1 they are not, or a backend is away; 2 what was asked for makes no sense;
130 and 143 stopped by SIGINT and SIGTERM.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Final

import uvloop

from backends.base import StoreError
from proxy.build import build_home
from proxy.clock import Clock
from proxy.config import Config, MemoryBackend, RouteConfig, in_backend, reading
from proxy.copying.passes import Copy
from proxy.copying.state import BadState, State, StateFile
from proxy.copying.views import View, view
from proxy.glob import Glob
from proxy.homes import ColdHome, UpstreamHome
from proxy.options import or_known, shown
from proxy.prefixes import PrefixMap
from proxy.sides import Away, Side, side_of

# How long connections are given to close in good order when the copy is told to stop.
CLOSE_PATIENCE: Final = 0.3  # seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is to be copied, as the command line has it."""

    source: str  # a backend's name
    target: str
    match: bytes
    db: int
    remove: bool  # what the source has not
    rate: int  # keys a second, 0: any
    passes: int
    state: str  # a file; empty: one beside the configuration


class Refused(Exception):
    """What was asked for makes no sense; the message is one line."""


def main(config: Config, order: Order) -> int:
    """Copy; the exit code."""
    try:
        check(config, order)
        file = state_file(config, order)
        state = file.load()
        return uvloop.run(_copy(config, order, file, state))
    except Refused as error:
        _say(str(error))
        return 2
    except (BadState, StoreError) as error:
        _say(str(error))
        return 1


def check(config: Config, order: Order) -> None:
    """Raises Refused for backends between which nothing can be copied."""
    for option, name in (("--from", order.source), ("--to", order.target)):
        backend = config.backends.get(name)
        if backend is None:
            raise Refused(f"{option}: unknown backend {shown(name)}{or_known(name, config.backends)}")
        if isinstance(backend, MemoryBackend):
            raise Refused(
                f"{option}: {shown(name)} is a memory backend: its keys are in the server's own "
                "process and can't be reached from here"
            )
    source, target = config.backends[order.source], config.backends[order.target]
    if replace(source, name="") == replace(target, name=""):
        raise Refused("--from and --to are the same place")


def state_file(config: Config, order: Order) -> StateFile:
    """Where the state of this copy is kept: each copy of a configuration has a file of its own."""
    copy: dict[str, object] = {
        "from": order.source,
        "to": order.target,
        "match": order.match.decode("utf-8", "backslashreplace"),
        "db": order.db,
        "delete": order.remove,
    }
    if order.state:
        return StateFile(Path(order.state), copy)
    digest = sha256(repr(copy).encode()).hexdigest()[:8]
    beside = Path(config.source)
    return StateFile(beside.with_name(f"{beside.stem}.copy-{digest}.json"), copy)


async def _copy(config: Config, order: Order, file: StateFile, state: State | None) -> int:
    """Copy until it is done or told to stop; the exit code."""
    shows = view(f"{order.source} to {order.target}")
    clock = Clock()
    source = _side(reading(config, order.source), order.db, clock)
    target = _side(in_backend(config, order.target), order.db, clock)
    copy = Copy(
        source,
        target,
        Glob(order.match),
        state or State(),
        file,
        shows,
        clock,
        mirrored(config, order),
        order.rate,
        order.remove,
    )
    loop = asyncio.get_running_loop()
    stopped: asyncio.Future[int] = loop.create_future()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, _stop, stopped, number)
    work = loop.create_task(_work(copy, (source, target), order, file, shows))
    await asyncio.wait((work, stopped), return_when=asyncio.FIRST_COMPLETED)
    shows.close()
    if work.done():
        await asyncio.gather(source.close(), target.close(), return_exceptions=True)
        return work.result()
    work.cancel()
    file.flush()
    _say(f"stopped{_hint(file)}")
    closing = asyncio.gather(work, source.close(), target.close(), return_exceptions=True)
    await asyncio.wait([closing], timeout=CLOSE_PATIENCE)
    # As if it were killed, which a copy is made for: what is under way may take longer than anyone waits.
    sys.stdout.flush()
    os._exit(128 + stopped.result())


def _stop(stopped: asyncio.Future[int], number: int) -> None:
    if not stopped.done():
        stopped.set_result(number)


async def _work(copy: Copy, sides: Sequence[Side], order: Order, file: StateFile, shows: View) -> int:
    began = copy.state.begun or copy.state.number > 1
    try:
        for side in sides:
            await side.open()
        if began:
            shows.note(f"goes on from pass {copy.state.number}, {copy.state.compared:,} keys compared")
        equal = await copy.run(order.passes)
    except Away as error:
        file.flush()
        shows.close()
        _say(f"{error}{_hint(file)}")
        return 1
    file.remove()
    shows.close()
    return report(copy.state, order, equal)


def report(state: State, order: Order, equal: bool) -> int:
    """Tell how a copy ended; the exit code."""
    if equal and not state.refused:
        print(f"{state.compared - state.moving:,} keys of {order.source} are the same in {order.target}")
        if state.moving:
            print(f"{state.moving:,} more are being written all the time, and are mirrored")
    if state.refused:
        _say(f"{state.refused:,} keys could not be copied, among them:")
        for line in state.refusals:
            _say(f"  {line}")
    if not equal and state.copied + state.removed:
        _say(
            f"{state.copied + state.removed:,} keys still differed in pass {state.number}, among them "
            f"{', '.join(state.differing)}; they were copied again and not compared since: pause the "
            "writers, or mirror their writes, and run it once more"
        )
    elif not equal:
        _say(f"pass {state.number} was not made in one go; run it once more")
    if state.extra and order.remove:
        _say(f"{order.source} has no such key at all; the {state.extra:,} of {order.target} were not removed")
        return 1
    if state.extra:
        print(f"{state.extra:,} keys of {order.target} are not in {order.source}; --delete would remove them")
    return 0 if equal and not state.refused else 1


def mirrored(config: Config, order: Order) -> Callable[[bytes], bool]:
    """Tells of a key whether its route mirrors its writes from the one backend to the other."""
    routes = PrefixMap((route.prefix, _mirrors(route, order)) for route in config.routes)
    return routes.find


def _mirrors(route: RouteConfig, order: Order) -> bool:
    mirror = route.mirror
    if mirror is None or mirror.percent < 100:
        return False
    return (route.backend, mirror.backend) == (order.source, order.target)


def _side(config: Config, db: int, clock: Clock) -> Side:
    """The one backend of a configuration's routes."""
    home = build_home(config, clock)
    assert isinstance(home, (ColdHome, UpstreamHome))
    return side_of(home, db)


def _hint(file: StateFile) -> str:
    return f"; the same command goes on from there (state: {file.path})" if file.path.exists() else ""


def _say(line: str) -> None:
    print(f"redtier: {line}", file=sys.stderr, flush=True)
