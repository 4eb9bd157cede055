"""What every value that is not a string has in common.

A collection keeps its own size in memory as it changes, so that bounding memory never walks it, and is
taken down in slices, since freeing a million objects at once would hold the loop.

A handler changes a collection in place, between ``Keyspace.edit`` and ``Keyspace.update``; what is shared
with another key is a ``copy``.  Whatever changes one logs it first, while a script runs (``undo``).  ``pack``
gives the form that a store keeps: its bytes are for ever, and each type's docstring documents its own.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence

from mypy_extensions import mypyc_attr

from proxy.errors import NeedKeys


@mypyc_attr(acyclic=True, allow_interpreted_subclasses=True)
class Chunk:
    """A piece of a collection that a store keeps by itself, and never changes: it is replaced."""

    id: int = 0  # names it in its store; 0: it is kept with what is not in chunks
    digest: bytes = b""  # of what is stored of it
    length: int = 0  # bytes of its raw form

    @abstractmethod
    def raw(self) -> bytes:
        """What is to be stored of it; it is loaded."""


class NeedChunks(NeedKeys):
    """A handler needs chunks of a collection that are not loaded, and has not changed it."""

    def __init__(self, value: Collection, chunks: Sequence[Chunk]) -> None:
        super().__init__(0, [], 0)
        self.value: Collection = value
        self.chunks: Sequence[Chunk] = chunks


# Acyclic, so that a type may be: without the collector's header its objects are 16 bytes smaller.
@mypyc_attr(acyclic=True, allow_interpreted_subclasses=True)
class Collection:
    """A hash, list, set, sorted set or stream; ``size`` is the bytes of memory that it holds."""

    size: int = 0
    due: int = 0  # when the next of what it holds expires (ms since the epoch), 0: never
    dropped: list[int] | None = None  # ids of chunks that were given up since it was divided last
    filed: int = 0  # the ``due`` by which its holder has filed it, 0: not at all
    chunked: bool = False  # whether any of it is in chunks

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

    # Chunks, of types that have them.  What needs one that is not loaded raises NeedChunks before anything is
    # changed.

    def chunkable(self) -> bool:
        """Whether a store may keep it in chunks."""
        return False

    def whole(self) -> None:
        """Raise NeedChunks unless all chunks are loaded."""
        return

    def missing(self) -> list[Chunk]:
        """Chunks that are not loaded; there may be others within them."""
        return []

    def unchunked(self) -> int:
        """Bytes, about, that are in no chunk."""
        return self.size

    def unloaded(self) -> int:
        """Of ``size``, bytes that chunks would take which are not loaded."""
        return 0

    def chunks_size(self) -> int:
        """Bytes of the raw forms of all chunks."""
        return 0

    def divide(self, size: int, next_id: Callable[[], int]) -> list[Chunk]:
        """Have all in chunks of about ``size`` bytes, but for what is likely to change.

        Returns the new ones, each after those that are in it.
        """
        raise NotImplementedError

    def pack_root(self) -> bytes:
        """The form in which it is stored beside its chunks."""
        raise NotImplementedError

    def fill(self, chunk: Chunk, raw: bytes) -> None:
        """A chunk was loaded.  ValueError where it is none of such a form."""
        raise NotImplementedError

    def detach(self) -> None:
        """Be no more in chunks: it is to be stored anew.  All are loaded."""
        return
