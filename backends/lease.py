"""The lease of a store that one process writes to at a time: a document beside its records.

The document says who holds it.  Whoever holds it writes it anew every so often, on condition that it is as
it was last written: its token changes with each renewal.  Nobody compares clocks.  The holder counts itself
as such for less than ``duration`` from before its last renewal was sent.  Another takes the lease if it has
looked at the document again and again for the holder's whole ``duration``, without a look that failed, and
has found the same token; so a holder that lives, and reaches the store as well as the other does, keeps it,
however long the store was away.

``epoch`` grows with each new holder.  A holder that comes back and finds its own name in the document
has had no successor, and goes on.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import time
from contextlib import suppress
from typing import Final, NamedTuple

from backends.base import ABSENT, Change, Op, Store, StoreError, Token
from backends.documents import document_key, read_document, write_document

log = logging.getLogger("redtier.lease")

NAME: Final = "lease/writer"
RENEW_MAX: Final = 60.0  # seconds between two renewals, at most
LOOK_MAX: Final = 2.0  # seconds between two looks of who waits for it, at most
SHARE: Final = 0.9  # of its duration, during which the holder counts on it


class Terms(NamedTuple):
    """What the document says, as JSON."""

    holder: str  # the id of a journal
    who: str  # for people: host, process, directory
    epoch: int
    duration: int  # ms
    released: bool


class Lease:
    """``directory`` is the journal's, for people to see, ``duration`` in ms.

    Before ``keep``, ``holder`` must be set to the journal's id, and ``epoch`` to the last one in which it was
    held (0: never).
    """

    def __init__(self, store: Store, directory: str, duration: int) -> None:
        self.holder = ""
        self.epoch = 0
        self.token: Token = ABSENT  # of the document as we last wrote it
        self.other = ""  # who holds it instead, for people; empty: nobody that is known
        self.lock = asyncio.Lock()
        """Held while something depends on the token; a renewal changes it."""
        self._store = store
        self._who = f"{socket.gethostname()} (process {os.getpid()}, journal {directory})"
        self._duration = duration
        self._doubt = asyncio.Event()
        self._until = 0.0
        self._watched: Token = ABSENT
        self._watched_since = 0.0

    @property
    def held(self) -> bool:
        return _now() < self._until

    @property
    def pause(self) -> float:
        """Seconds until the next ``keep``."""
        quarter = self._duration / 4000
        left = self._until - _now()
        return min(quarter, RENEW_MAX, left) if left > 0 else min(quarter, LOOK_MAX)

    def condition(self) -> Change:
        """What holds a group to our still having it."""
        return Change(Op.ASSERT, document_key(NAME), self.token)

    async def confirm(self) -> bool:
        """Whether the store says that it is ours, now; call with the lock.  Raises StoreError."""
        document = await read_document(self._store, NAME)
        if document is not None and document.token == self.token:
            return True
        self.doubt()
        return False

    def doubt(self) -> None:
        """A condition did not hold: count on nothing until the document was read."""
        self._until = 0.0
        self._doubt.set()

    def put_off(self) -> None:
        """It can't be made use of now: look at it again in due course."""
        self._until = 0.0

    async def due(self) -> None:
        """Return when it is time to ``keep`` it."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self.pause):
                await self._doubt.wait()
        self._doubt.clear()

    async def keep(self) -> Terms | None:
        """Renew it, or take it if that may be done; a renewal takes no longer than the lease is held.

        Returns what the document said before it was taken, with epoch 0 if there was none; None where
        nothing has changed hands.  Raises StoreError.
        """
        if self.held:
            try:
                async with asyncio.timeout(self._until - _now()), self.lock:
                    if await self._renew():
                        return None
            except TimeoutError:
                raise StoreError("it ended before the store answered") from None
        async with self.lock:
            return await self._take()

    async def release(self) -> None:
        """Let another have it at once; nothing may be left to be flushed.  Raises StoreError."""
        async with self.lock:
            if self.held:
                self._until = 0.0
                await self._write(self.epoch, self.token, released=True)

    async def _take(self) -> Terms | None:
        try:
            document = await read_document(self._store, NAME)
        except StoreError:
            self._watched = ABSENT
            raise
        now = _now()
        if document is None:
            found, expect = Terms("", "", 0, 0, True), ABSENT
        else:
            found, expect = Terms(**json.loads(document.value)), document.token
        if found.holder not in ("", self.holder) and not found.released:
            if self._watched != expect:
                self._watched, self._watched_since = expect, now
            if now - self._watched_since < found.duration / 1000:
                self.other = found.who
                return None
            log.warning("%s: the lease of %s has lapsed, and is taken over", self._store.name, found.who)
        if document is None:
            epoch = max(self.epoch, 1)
        elif found.holder == self.holder:
            epoch = found.epoch
        else:
            epoch = max(found.epoch, self.epoch) + 1
        token = await self._write(epoch, expect)
        if token is None:
            return None
        self.epoch = epoch
        self._renewed(now, token)
        return found

    async def _renew(self) -> bool:
        sent = _now()
        token = await self._write(self.epoch, self.token)
        if token is None:
            self._until = 0.0
            return False
        self._renewed(sent, token)
        return True

    def _renewed(self, sent: float, token: Token) -> None:
        self.token = token
        self._watched = ABSENT
        self._until = sent + SHARE * self._duration / 1000

    async def _write(self, epoch: int, expect: Token, released: bool = False) -> Token | None:
        terms = Terms(self.holder, self._who, epoch, self._duration, released)
        return await write_document(self._store, NAME, json.dumps(terms._asdict()).encode(), expect)


def _now() -> float:
    """Seconds that go on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
