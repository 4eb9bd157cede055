"""What ``redtier verify`` starts: a walk over the records of cold backends, and what it found.

Exit codes: 0 every record is sound, or was repaired; 1 some are not, or a backend is away; 2 what was asked
for makes no sense; 130 and 143 stopped by SIGINT and SIGTERM.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final, TypeVar

import uvloop

from backends.base import StoreError
from proxy.build import build_home
from proxy.clock import Clock
from proxy.config import Config, in_backend, reading
from proxy.errors import CommandError, quote
from proxy.glob import Glob
from proxy.homes import ColdHome, UpstreamHome
from proxy.keyspace import DATABASES
from proxy.offline import Refused, check_reachable, check_writable, say, until_told
from proxy.options import or_known, show_size, shown
from proxy.pace import patiently
from proxy.verifying.pace import Pace
from proxy.verifying.repairs import Repairs
from proxy.verifying.walk import Finding, Tally, Walk
from proxy.views import Stage, View, view

T = TypeVar("T")

BATCH: Final = 250  # records that are read at once
WIDTH: Final = 8  # requests that read them: the clients of servers want their share
# How long connections are given to close in good order.
CLOSE_PATIENCE: Final = 2.0  # seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is to be verified, as the command line has it."""

    backend: str  # its name; empty: every cold one
    match: bytes
    rate: int  # bytes a second, as ``pace`` counts them; 0: any
    source: str  # a backend to repair from; empty: nothing is repaired


def main(config: Config, order: Order) -> int:
    """Verify; the exit code."""
    try:
        names = chosen(config, order)
    except Refused as error:
        say(str(error))
        return 2
    return uvloop.run(_run(config, order, names))


def chosen(config: Config, order: Order) -> list[str]:
    """The backends to verify; raises Refused."""
    for option, name in (("--backend", order.backend), ("--repair-from", order.source)):
        if name and name not in config.backends:
            raise Refused(f"{option}: unknown backend {shown(name)}{or_known(name, config.backends)}")
    if order.backend and not config.backends[order.backend].cold:
        raise Refused(
            f"--backend: {shown(order.backend)} is a {config.backends[order.backend].type} backend: "
            "postgres, s3 and sqlite keep records that can be verified"
        )
    names = [order.backend] if order.backend else [n for n, each in config.backends.items() if each.cold]
    if not names:
        raise Refused("no backend keeps records that can be verified: postgres, s3 and sqlite do")
    if order.source:
        _check_source(config, order)
    return names


def _check_source(config: Config, order: Order) -> None:
    if not order.backend:
        raise Refused("--repair-from: name by --backend which backend is to be repaired")
    check_writable(config, "--backend", order.backend)
    check_reachable(config, "--repair-from", order.source)
    source, target = config.backends[order.source], config.backends[order.backend]
    if replace(source, name="") == replace(target, name=""):
        raise Refused("--backend and --repair-from are the same place")


async def _run(config: Config, order: Order, names: list[str]) -> int:
    """Verify backend after backend until it is done or told to stop; the exit code."""

    async def close() -> None: ...

    return await until_told(_all(config, order, names), lambda: say("stopped"), close)


async def _all(config: Config, order: Order, names: list[str]) -> int:
    clock = Clock()
    code = 0
    for name in names:
        shows = view(name)
        try:
            sound = await _one(config, order, name, shows, clock)
        except (StoreError, CommandError) as error:
            shows.close()
            say(f"{name}: {error}")
            sound = False
        finally:
            shows.close()
        if not sound:
            code = 1
    return code


async def _one(config: Config, order: Order, name: str, shows: View, clock: Clock) -> bool:
    """Verify one backend; whether all its records are sound by now."""
    home = build_home(in_backend(config, name), clock)
    source = build_home(reading(config, order.source), clock) if order.source else None
    assert isinstance(home, ColdHome)
    try:
        await home.open()
        home.down = ""
        repairs = None
        if isinstance(source, (ColdHome, UpstreamHome)):
            await source.open()
            source.down = ""
            repairs = Repairs(home, source)
        return await Verification(home, order, repairs, shows, clock).run()
    finally:
        for each in (home, source):
            if isinstance(each, (ColdHome, UpstreamHome)):
                with suppress(TimeoutError):
                    await asyncio.wait_for(each.close(), CLOSE_PATIENCE)


class Verification:
    """One backend's."""

    def __init__(
        self, home: ColdHome, order: Order, repairs: Repairs | None, shows: View, clock: Clock
    ) -> None:
        self._home = home
        self._store = home.store
        self._order = order
        self._repairs = repairs
        self._shows = shows
        self._clock = clock

    async def run(self) -> bool:
        """Whether all records are sound by now; what is found is told as it is found."""
        pattern = Glob(self._order.match)
        pace = Pace(self._order.rate)
        walk = Walk(self._home, pattern, pace.batch(BATCH), WIDTH)
        repaired = 0
        mended = await self._patiently(self._home.dictionaries.mend)
        for each in mended:
            print(f"{self._store.name}: {each.line}", flush=True)
        counting = asyncio.create_task(self._count(pattern.prefix))  # it may take long
        try:
            while walk.position is not None:
                done, findings = await self._patiently(walk.step)
                for finding in findings:
                    repaired += await self._tell(finding)
                total = counting.result() if counting.done() else None
                self._shows.show(_stage(walk.tally, total))
                await asyncio.sleep(pace.spend(done.cost))
        finally:
            counting.cancel()
            await asyncio.gather(counting, return_exceptions=True)
        tally = walk.tally
        parts = [f"{tally.checked:,} records verified ({round_size(tally.size)})"]
        parts += [f"{tally.damaged:,} damaged"] if tally.damaged else []
        parts += [f"{repaired:,} repaired from {self._order.source}"] if repaired else []
        parts += [f"{tally.unknown:,} that this release can not read"] if tally.unknown else []
        parts += [f"{tally.unhashed:,} without a digest"] if tally.unhashed else []
        print(f"{self._store.name}: {', '.join(parts)}", flush=True)
        readable = all(each.good is not None for each in mended)
        return readable and tally.damaged == repaired and not tally.unknown

    async def _count(self, prefix: bytes) -> int | None:
        """How many keys there are; None where the store does not say it now."""
        try:
            return sum([await self._store.size(db, prefix) for db in range(DATABASES)])
        except StoreError:
            return None

    async def _tell(self, finding: Finding) -> bool:
        """A line on stdout; whether the record was repaired."""
        key, verdict = finding.key, finding.verdict
        line = f"{self._store.name}: db {key.db} {quote(key.name)!r}: {verdict.state}: {verdict.reason}"
        mended = False
        if finding.damaged and self._repairs is not None:
            why = await self._repairs.mend(finding)
            mended = not why
            line += f"; repaired from {self._order.source}" if mended else f"; not repaired: {why}"
        print(line, flush=True)
        return mended

    async def _patiently(self, step: Callable[[], Awaitable[T]]) -> T:
        return await patiently(step, self._clock, self._shows)


def _stage(tally: Tally, total: int | None) -> Stage:
    counts = f"{round_size(tally.size)} verified, {tally.damaged:,} damaged"
    return Stage("verification", "verification", tally.passed, total, "keys", counts)


def round_size(size: int) -> str:
    """To three digits or so, for people."""
    unit = 1
    while size // unit >= 10_000:
        unit <<= 10
    return show_size(size // unit * unit)
