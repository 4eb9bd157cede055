"""What ``redtier copy`` starts: two backends of a configuration, a copy between them, and how it ended.

Exit codes: 0 both sides are equal; 1 they are not, or a backend is away; 2 what was asked for makes no sense;
130 and 143 stopped by SIGINT and SIGTERM.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import uvloop

from backends.base import StoreError
from proxy.clock import Clock
from proxy.config import Config, RouteConfig, in_backend, reading
from proxy.copying.passes import Copy
from proxy.copying.state import State
from proxy.glob import Glob
from proxy.offline import (
    Refused,
    check_reachable,
    check_writable,
    default_state,
    has_journal,
    say,
    the_home,
    unseen,
    until_told,
)
from proxy.prefixes import PrefixMap
from proxy.sides import Away, Side, side_of, together
from proxy.statefile import BadState, StateFile
from proxy.views import View, view


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


def main(config: Config, order: Order) -> int:
    """Copy; the exit code."""
    try:
        check(config, order)
        file = state_file(config, order)
        state = file.load()
        return uvloop.run(_copy(config, order, file, state))
    except Refused as error:
        say(str(error))
        return 2
    except (BadState, StoreError) as error:
        say(str(error))
        return 1


def check(config: Config, order: Order) -> None:
    """Raises Refused for backends between which nothing can be copied."""
    check_reachable(config, "--from", order.source)
    check_writable(config, "--to", order.target)
    source, target = config.backends[order.source], config.backends[order.target]
    if replace(source, name="") == replace(target, name=""):
        raise Refused("--from and --to are the same place")


def state_file(config: Config, order: Order) -> StateFile[State]:
    """Where the state of this copy is kept: each copy of a configuration has a file of its own."""
    copy: dict[str, object] = {
        "from": order.source,
        "to": order.target,
        "match": order.match.decode("utf-8", "backslashreplace"),
        "db": order.db,
        "delete": order.remove,
    }
    path = Path(order.state) if order.state else default_state(config, "copy", copy)
    return StateFile(path, State, "copy", copy)


async def _copy(config: Config, order: Order, file: StateFile[State], state: State | None) -> int:
    """Copy until it is done or told to stop; the exit code."""
    shows = view(f"{order.source} to {order.target}")
    clock = Clock()
    source = side_of(the_home(reading(config, order.source), clock), order.db)
    target = side_of(the_home(in_backend(config, order.target), clock), order.db)
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

    def stop() -> None:
        shows.close()
        file.flush()
        say(f"stopped{_hint(file)}")

    async def close() -> None:
        shows.close()
        await together((source.close(), target.close()))

    behind = has_journal(config, order.source)
    return await until_told(_work(copy, (source, target), order, file, shows, behind), stop, close)


async def _work(
    copy: Copy, sides: Sequence[Side], order: Order, file: StateFile[State], shows: View, behind: bool
) -> int:
    """``behind``: what the source has may not be the last of what its server has acknowledged."""
    began = copy.state.begun or copy.state.number > 1
    try:
        for side in sides:
            await side.open()
        if behind:
            shows.note(unseen(order.source, "copy"))
        if began:
            shows.note(f"goes on from pass {copy.state.number}, {copy.state.compared:,} keys compared")
        equal = await copy.run(order.passes)
    except Away as error:
        file.flush()
        shows.close()
        say(f"{error}{_hint(file)}")
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
        say(f"{state.refused:,} keys could not be copied, among them:")
        for line in state.refusals:
            say(f"  {line}")
    if not equal and state.copied + state.removed:
        say(
            f"{state.copied + state.removed:,} keys still differed in pass {state.number}, among them "
            f"{', '.join(state.differing)}; they were copied again and not compared since: pause the "
            "writers, or mirror their writes, and run it once more"
        )
    elif not equal:
        say(f"pass {state.number} was not made in one go; run it once more")
    if state.extra and order.remove:
        say(f"{order.source} has no such key at all; the {state.extra:,} of {order.target} were not removed")
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


def _hint(file: StateFile[State]) -> str:
    return f"; the same command goes on from there (state: {file.path})" if file.path.exists() else ""
