"""The scrub: a server's walk over all records of a store, again and again, so slowly that nobody minds.

Where it stands is a document of the store (``scrub``), so that a restart goes on from there and a large
store is gone over whole.  Of several proxies on one store one scrubs: whoever is at it writes the document
every few seconds, on condition that nobody else has.  Another takes over where it has not changed for
``lease`` seconds (so no clocks are compared), or was left without an owner.  What both did in between was
done twice, no more.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import Final

import msgspec

from backends.base import ABSENT, StoreError, Token
from backends.documents import read_document, write_document
from proxy.clock import Clock
from proxy.glob import Glob
from proxy.homes import ColdHome
from proxy.verifying.pace import Pace
from proxy.verifying.walk import Finding, Position, Tally, Walk

log = logging.getLogger("redtier.scrub")

DOCUMENT: Final = "scrub"
BATCH: Final = 64  # records that are read at once, by one request where the store can
# A walk that has not been written down for so long is anybody's.
LEASE: Final = 30.0  # seconds
# A backend that can't serve is tried again after this, then more and more seldom.
PAUSE: Final = 1.0  # seconds
PAUSE_MAX: Final = 60.0
# While clients keep all of the store's connections busy, a step waits; but not for ever, or a store that is
# always busy would never be verified.
YIELD: Final = 0.05  # seconds
YIELDS: Final = 20
# How long a stopping server waits for the document to be given up.
FAREWELL: Final = 1.0  # seconds


class Progress(msgspec.Struct):
    """The document, as JSON."""

    owner: str = ""  # whoever is at it; empty: nobody
    db: int = 0
    after: bytes | None = None  # a key; None: the database's begin
    began_at: int = 0  # ms since the epoch
    finished_at: int = 0  # of the last walk that came to its end; 0: none has
    done: bool = False  # whether this walk has
    checked: int = 0  # records, by this walk so far
    damaged: int = 0
    unknown: int = 0  # that could not be read: nothing is known of them
    last_checked: int = 0  # records, by the last walk that came to its end

    @property
    def position(self) -> Position:
        return Position(self.db, self.after)

    def move(self, position: Position | None, now: int) -> None:
        """The walk has come to a position, or to its end."""
        if position is None:
            self.done = True
            self.finished_at = now
            self.last_checked = self.checked
        else:
            self.db, self.after = position


class Scrub:
    """One store's: at most ``rate`` bytes a second (see ``pace``), a walk each ``interval`` ms at most.

    ``owner`` tells this process from others; counts are since its start.
    """

    def __init__(
        self, home: ColdHome, rate: int, interval: int, clock: Clock, owner: str, lease: float = LEASE
    ) -> None:
        self.tally = Tally()
        self.progress = Progress()
        self.state = "waiting"  # "running", "idle" until the next is due, "elsewhere", or "waiting"
        self._home = home
        self._pace = Pace(rate)
        self._interval = interval
        self._clock = clock
        self._owner = owner
        self._lease = lease
        self._token: Token = ABSENT  # of the document as it was last seen, or written
        self._renew_at = 0.0  # by the loop's time

    def figures(self) -> dict[str, int]:
        """How far it is, of how many records there were the last time; times in ms since the epoch."""
        progress = self.progress
        return {
            "checked": progress.checked,
            "last_checked": progress.last_checked,
            "damaged": progress.damaged,
            "unknown": progress.unknown,
            "began_at": progress.began_at,
            "finished_at": progress.finished_at,
        }

    async def keep(self) -> None:
        """Scrub until cancelled; a store that can't serve is tried again."""
        pause = PAUSE
        try:
            while True:
                before = self.tally.passed
                try:
                    if await self._claim():
                        await self._walk()
                except Exception as error:
                    if isinstance(error, StoreError):
                        log.warning("backend '%s' could not be scrubbed: %s", self._home.name, error)
                    else:  # of ours, but no reason to verify nothing any more
                        log.exception("backend '%s' could not be scrubbed", self._home.name)
                    self.state = "waiting"
                    pause = PAUSE if self.tally.passed > before else min(2 * pause, PAUSE_MAX)
                    await asyncio.sleep(pause)
        finally:
            if self.state == "running":
                with suppress(StoreError, TimeoutError):
                    async with asyncio.timeout(FAREWELL):
                        await self._leave()

    async def _claim(self) -> bool:
        """Wait until a walk is due and nobody else is at it; whether it is ours."""
        loop = asyncio.get_running_loop()
        seen_at = loop.time()
        while True:
            token = await self._read()
            if token != self._token:
                self._token = token
                seen_at = loop.time()
            progress = self.progress
            due = progress.began_at + self._interval - self._clock.tick() if progress.done else 0
            if due > 0:
                self.state = "idle"
                await asyncio.sleep(min(due / 1000, self._lease))
            elif progress.owner not in ("", self._owner) and loop.time() - seen_at < self._lease:
                self.state = "elsewhere"
                await asyncio.sleep(self._lease / 4)
            else:
                break
        if progress.done or not progress.began_at:
            self.progress = Progress(
                began_at=self._clock.ms,
                finished_at=progress.finished_at,
                last_checked=progress.last_checked,
            )
        return await self._write(self._owner)

    async def _walk(self) -> None:
        """Go on until all is verified, or another proxy is at it."""
        self.state = "running"
        for mended in await self._home.dictionaries.mend():
            log.error("%s: %s", self._home.name, mended.line)
        walk = Walk(self._home, Glob(b"*"), self._pace.batch(BATCH), 1, self.progress.position)
        while walk.position is not None:
            await self._let_clients_go_first()
            done, findings = await walk.step()
            self.tally.add(done)
            self.progress.checked += done.checked
            self.progress.damaged += done.damaged
            self.progress.unknown += done.unknown
            self.progress.move(walk.position, self._clock.tick())
            for finding in findings:
                self._tell(finding)
            if not await self._rest(self._pace.spend(done.cost)):
                self.state = "elsewhere"
                return
        if await self._write(""):
            log.info(
                "backend '%s': %d records are scrubbed; %d are damaged, %d can't be read",
                *(self._home.name, self.progress.checked, self.progress.damaged, self.progress.unknown),
            )
        self.state = "idle"

    def _tell(self, finding: Finding) -> None:
        key, verdict = finding.key, finding.verdict
        log.error("%s: db %d: %r is %s: %s", self._home.name, key.db, key.name, *verdict)
        self._home.damaged += finding.damaged

    async def _let_clients_go_first(self) -> None:
        for _ in range(YIELDS):
            if self._home.in_flight < self._home.store.concurrency:
                return
            await asyncio.sleep(YIELD)

    async def _rest(self, seconds: float) -> bool:
        """Wait as the pace asks for, and write down where the walk stands; whether it is ours still."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while True:
            if loop.time() >= self._renew_at and not await self._write(self._owner):
                return False
            remaining = until - loop.time()
            if remaining <= 0:
                await asyncio.sleep(0)
                return True
            await asyncio.sleep(min(remaining, self._lease / 4))

    async def _leave(self) -> None:
        """Give the walk up, so that another proxy, or this one's next start, goes on at once."""
        progress = self.progress
        while not await self._write(""):  # the last one may have been cut off, and written all the same
            self._token = await self._read()
            if self.progress.owner != self._owner:
                return
            self.progress = progress

    async def _read(self) -> Token:
        """Look at the document; its token."""
        document = await read_document(self._home.store, DOCUMENT)
        if document is None:
            self.progress = Progress()
            return ABSENT
        try:
            self.progress = msgspec.json.decode(document.value, type=Progress)
        except msgspec.DecodeError:  # a later release's: it is written anew
            self.progress = Progress()
        return document.token

    async def _write(self, owner: str) -> bool:
        """Write the document down; false where somebody else has."""
        self.progress.owner = owner
        value = msgspec.json.encode(self.progress)
        token = await write_document(self._home.store, DOCUMENT, value, self._token)
        if token is None:
            return False
        self._token = token
        self._renew_at = asyncio.get_running_loop().time() + self._lease / 4
        return True
