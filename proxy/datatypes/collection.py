"""What every value that is not a string has in common.

A collection keeps its own size in memory as it changes, so that bounding memory never walks it, and is
taken down in slices, since freeing a million objects at once would hold the loop.

A handler changes a collection in place, between ``Keyspace.edit`` and ``Keyspace.update``; what is shared
with another key is a ``copy``.  Whatever changes one logs it first, while a script runs (``undo``).  ``pack``
gives the form that a store keeps: its bytes are for ever, and each type's docstring documents its own.
"""

from __future__ import annotations

from abc import abstractmethod

from mypy_extensions import mypyc_attr


# Acyclic, so that a type may be: without the collector's header its objects are 16 bytes smaller.
@mypyc_attr(acyclic=True, allow_interpreted_subclasses=True)
class Collection:
    """A hash, list, set, sorted set or stream; ``size`` is the bytes of memory that it holds."""

    size: int = 0
    due: int = 0  # when the next of what it holds expires (ms since the epoch), 0: never
    filed: int = 0  # the ``due`` by which its holder has filed it, 0: not at all
    chunked: bool = False  # whether any of it is in chunks (``chunking``)

    @abstractmethod
    def __len__(self) -> int:
        """Elements, as HLEN, LLEN, SCARD, ZCARD or XLEN count them."""

    @abstractmethod
    def encoding(self) -> bytes:
        """What OBJECT ENCODING calls the form that Redis 7.0 would keep it in."""

    @abstractmethod
    def copy(self) -> Collection:
        """Another one with the same elements."""

    @abstractmethod
    def pack(self) -> bytes:
        """The form in which it is stored."""

    def spent(self, now: int) -> bool:
        """Whether all that it holds has expired."""
        return False

    def last_due(self) -> int:
        """When the last of what it holds has expired, 0: never."""
        return 0

    def purge(self, now: int, limit: int) -> list[bytes]:
        """Take out up to ``limit`` elements that have expired; which they were."""
        return []

    def elements(self) -> list[bytes]:
        """What SORT sorts: all elements, of a sorted set by score.  Lists, sets and sorted sets have them."""
        raise NotImplementedError

    def dismantle(self, count: int) -> bool:
        """Let go of about ``count`` elements, of what nobody uses any more; whether there are more."""
        return False

    def whole(self) -> None:
        """Raise NeedChunks unless all chunks are loaded."""
        return

    def unchunked(self) -> int:
        """Bytes, about, that are in no chunk."""
        return self.size
