"""What a store has for the keys that were loaded from it or flushed to it last, as far as it is remembered.

Sound only while nobody else writes to the store.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from backends.base import ABSENT, Key, Loaded, Record, Token

KNOWN_MAX: Final = 65_536  # keys


class Known(NamedTuple):
    write_id: Token  # our token; ABSENT: the store has nothing
    expire_at: int  # ms since the epoch, 0: never
    token: Token  # the store's own
    flush: int  # the number of its last flush; 0: it was loaded alone

    def local(self, now: int) -> Token:
        return ABSENT if 0 < self.expire_at <= now else self.write_id


class Knowledge:
    """Bounded by ``KNOWN_MAX``: those that were learned first are forgotten first."""

    def __init__(self) -> None:
        self.flushes = 0  # so far; forgetting counts as one
        self._forgotten = 0  # the last flush of a key of which nothing is known any more
        self._known: dict[Key, Known] = {}

    def get(self, key: Key) -> Known | None:
        return self._known.get(key)

    def token(self, key: Key) -> Token | None:
        """The store's; None: it is not known."""
        known = self._known.get(key)
        return None if known is None else known.token

    def loaded(self, key: Key, loaded: Loaded) -> Loaded:
        """Remember what the store has; the same with our token."""
        record, token = loaded
        self._know(key, record, token, 0)
        return loaded if record is None else Loaded(record, record.write_id)

    def flushed(self, key: Key, record: Record | None, token: Token) -> None:
        self._know(key, None if token == ABSENT else record, token, self.flushes)

    def changed_since(self, key: Key, flushes: int) -> bool:
        """Whether the key may have been flushed after so many flushes."""
        known = self._known.get(key)
        return (self._forgotten if known is None else known.flush) > flushes

    def forget(self) -> None:
        self._known.clear()
        self.flushes += 1
        self._forgotten = self.flushes

    def _know(self, key: Key, record: Record | None, token: Token, flush: int) -> None:
        old = self._known.pop(key, None)
        if old is not None:
            flush = max(flush, old.flush)
        if record is None:
            self._known[key] = Known(ABSENT, 0, ABSENT, flush)
        else:
            self._known[key] = Known(record.write_id, record.expire_at, token, flush)
        if len(self._known) > KNOWN_MAX:
            oldest = self._known.pop(next(iter(self._known)))
            self._forgotten = max(self._forgotten, oldest.flush)
