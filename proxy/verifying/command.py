"""What ``redtier verify`` starts: a walk over the records of cold backends, and what it found.

Exit codes: 0 every record is sound, or was repaired; 1 some are not, or a backend is away; 2 what was asked
for makes no sense; 130 and 143 stopped by SIGINT and SIGTERM.
"""

from __future__ import annotations

import asyncio
import signal
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
from proxy.offline import Refused, check_reachable, check_writable, say
from proxy.options import or_known, shown
from proxy.verifying.pace import Pace
from proxy.verifying.repairs import Repairs
from proxy.verifying.views import View, round_size, view
from proxy.verifying.walk import Finding, Walk

T = TypeVar("T")

BATCH: Final = 250  # records that are read at once
WIDTH: Final = 8  # requests that read them: the clients of servers want their share
# How long a backend that can't serve is waited for, and how often it is asked.
PATIENCE: Final = 30.0  # seconds
PAUSE: Final = 1.0  # seconds
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
    loop = asyncio.get_running_loop()
    shows = view()
    work = loop.create_task(_all(config, order, names, shows))
    stopped = 0

    def stop(number: int) -> None:
        nonlocal stopped
        stopped = number
        work.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop, number)
    try:
        return await work
    except asyncio.CancelledError:
        shows.close()
        say("stopped")
        return 128 + stopped
    finally:
        shows.close()


async def _all(config: Config, order: Order, names: list[str], shows: View) -> int:
    clock = Clock()
    code = 0
    for name in names:
        try:
            sound = await _one(config, order, name, shows, clock)
        except (StoreError, CommandError) as error:
            say(f"{name}: {error}")
            sound = False
        if not sound:
            code = 1
    return code


async def _one(config: Config, order: Order, name: str, shows: View, clock: Clock) -> bool:
    """Verify one backend; whether all its records are sound by now."""
    home = build_home(in_backend(config, name), clock)
    source = build_home(reading(config, order.source), clock) if order.source else None
    assert isinstance(home, ColdHome)
    shows.begin(name)
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
                self._shows.show(walk.tally, counting.result() if counting.done() else None)
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
        """The result of a step that may be repeated, once the backend can serve; raises StoreError."""
        loop = asyncio.get_running_loop()
        since: float | None = None
        while True:
            self._clock.tick()
            try:
                return await step()
            except StoreError as error:
                if since is None:
                    since = loop.time()
                    self._shows.note(f"waiting: {error}")
                elif loop.time() - since > PATIENCE:
                    raise
            await asyncio.sleep(PAUSE)
