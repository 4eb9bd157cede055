"""Trained dictionaries, kept beside the records that can't be read without them.

The dictionary with the id N, from 1, is the document ``dictionary/N`` (``backends.documents``): a sealed
value (``backends.seal``) of the database ``BESIDE``, that name and the kind 0, whose raw bytes are a
``Trained`` as a msgpack array.  So a dictionary that is damaged, or stands under another one's name, is
found before it is used.

One is written once, under an id that none had before, and is never changed or removed: a record anywhere
in the store, its quarantine or a backup of it may name it for as long as there are such.  As a million
records may hang on one, the same bytes stand there twice: the other document is ``dictionary-copy/N``.
Whoever finds one of the two damaged or missing takes the other, and makes the first anew.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

import msgspec
import zstandard

from backends.base import ABSENT, BESIDE, Key, Loaded, Store, StoreError, Want
from backends.codecs import NO_DICTIONARIES, Codec, compress, decompress
from backends.codecs import Dictionaries as ById
from backends.documents import Document, document_key, document_names, read_document, write_document
from backends.seal import IntegrityError, SealPolicy, dictionary_id, seal, unseal

log = logging.getLogger("redtier.dictionaries")

PREFIX: Final = "dictionary/"
COPY_PREFIX: Final = "dictionary-copy/"
_BOTH: Final = "dictionary"  # what the names of both begin with
SIZE_MAX: Final = 16 << 20  # bytes of one, above all that is sensible
# Dictionaries read at once, which bounds what is held of those that nobody needs.
_AT_ONCE: Final = 8
# Ids that are tried for a new one while others take them.
_TRIES: Final = 64
_POLICY: Final = SealPolicy(Codec.NONE)


class Trained(msgspec.Struct, frozen=True, array_like=True):
    """A dictionary, and how it came to be.

    ``plain`` and ``packed`` are the bytes of payload that ``samples_held`` values, which it was not trained
    from, take without it (but with the one before it, if there was one) and with it.
    """

    route: bytes  # the prefix whose values it is for
    trained_at: int  # ms since the epoch
    samples: int  # values that it was trained from
    samples_held: int
    plain: int
    packed: int
    dictionary: bytes  # in zstd's format (RFC 8878, 5)


class About(msgspec.Struct, frozen=True):
    """What is remembered of a dictionary without itself; see ``Trained``."""

    id: int
    size: int  # bytes
    route: bytes
    trained_at: int
    samples: int
    plain: int
    packed: int


class Mended(NamedTuple):
    """What became of a dictionary of which a copy was damaged or missing."""

    good: bytes | None  # the document's bytes; None: neither copy can be used
    line: str  # for people; empty: both copies are good


class Dictionaries:
    """A store's dictionaries: those known here, at most ``keep`` of them, and the way to the others.

    ``known`` may be handed to ``unseal``, which raises ``UnknownDictionary`` where one is missing; what
    ``of`` gives is enough for one sealed value.  ``about`` has all that have been seen, ``damaged`` why some
    can't be used, both by id.  For one event loop.
    """

    def __init__(self, store: Store, keep: int = 64) -> None:
        self.store = store
        self.known: dict[int, zstandard.ZstdCompressionDict] = {}
        self.about: dict[int, About] = {}
        self.damaged: dict[int, str] = {}
        self.fetched = 0  # because a value that was read named it
        self._keep_max = max(1, keep)
        self._pinned: dict[bytes, int] = {}  # what each route seals with
        self._fetches: dict[int, asyncio.Task[zstandard.ZstdCompressionDict]] = {}

    @classmethod
    async def load(cls, store: Store, keep: int = 64) -> Dictionaries:
        """Those of a store that is open, for whoever reads records past a tier.  Raises StoreError."""
        dictionaries = cls(store, keep)
        await dictionaries.refresh()
        return dictionaries

    async def of(self, sealed: bytes) -> ById:
        """The dictionaries that it takes to unseal this, fetched if they are not known.

        Raises IntegrityError where there is none of that id or it is damaged, StoreError where it can't be
        read.
        """
        id = dictionary_id(sealed)
        return {id: await self.fetch(id)} if id else NO_DICTIONARIES

    async def fetch(self, id: int) -> zstandard.ZstdCompressionDict:
        """One dictionary; many who ask for it at once share one load.  Raises as ``of``."""
        known = self.known.get(id)
        if known is not None:
            return known
        task = self._fetches.get(id)
        if task is None:
            task = self._fetches[id] = asyncio.get_running_loop().create_task(self._fetch(id))
            task.add_done_callback(lambda _: self._fetches.pop(id, None))
        return await asyncio.shield(task)  # whoever else waits for it is not cancelled with this one

    async def refresh(self) -> None:
        """Learn of those that others have trained since; one that is damaged is noted.  Raises StoreError."""
        ids = [id for id in await self._ids() if id not in self.about]
        for start in range(0, len(ids), _AT_ONCE):
            part = ids[start : start + _AT_ONCE]
            loaded = await load_all(self.store, [document_key(_name(id)) for id in part], Want.WHOLE)
            for id, (record, _) in zip(part, loaded, strict=True):
                try:
                    self._take(id, None if record is None else record.payload)
                except IntegrityError:
                    try:
                        await self.fetch(id)
                    except IntegrityError as damage:
                        self.damaged[id] = str(damage)

    async def add(self, trained: Trained) -> int:
        """Keep a new dictionary in the store; its id, once the store has acknowledged it.

        Raises StoreError; if that says ``unknown``, the dictionary may turn up in a later ``refresh``.
        """
        id = max(await self._ids(), default=0)
        for _ in range(_TRIES):
            id += 1
            sealed = seal(BESIDE, _name(id).encode(), 0, msgspec.msgpack.encode(trained), _POLICY)
            if await write_document(self.store, _name(id), sealed, ABSENT) is not None:
                await write_document(self.store, _copy(id), sealed, None)
                self._take(id, sealed)
                return id
        raise RuntimeError(f"others took {_TRIES} ids for dictionaries at once")

    async def mend(self) -> list[Mended]:
        """Verify both copies of each dictionary; those of which one or both were damaged or missing.

        Raises StoreError.
        """
        found = [await self._mend(id) for id in await self._ids()]
        return [mended for mended in found if mended.line]

    def newest(self, route: bytes) -> int:
        """The id of the last one that was trained for a route; 0: none can be used."""
        return max((id for id, about in self.about.items() if about.route == route), default=0)

    def pin(self, route: bytes, id: int) -> None:
        """Keep one known, since the route's values are sealed with it from now on."""
        self._pinned[route] = id

    async def _fetch(self, id: int) -> zstandard.ZstdCompressionDict:
        document = await read_document(self.store, _name(id))
        self.fetched += 1
        try:
            return self._take(id, None if document is None else document.value)
        except IntegrityError:
            mended = await self._mend(id)
            if mended.good is None:
                raise
            log.error("%s: %s", self.store.name, mended.line)
            return self._take(id, mended.good)

    async def _mend(self, id: int) -> Mended:
        """Make the one copy anew of the other where it is damaged or missing."""
        names = (_name(id), _copy(id))
        found = [await read_document(self.store, name) for name in names]
        damages = [_damage(id, document) for document in found]
        bad = 0 if damages[0] else 1
        document, other = found[bad], found[1 - bad]
        if damages[1 - bad]:
            return Mended(None, f"{damages[0]}, and so is its copy: what was sealed with it can't be read")
        assert other is not None
        if not damages[bad]:
            return Mended(other.value, "")
        token = ABSENT if document is None else document.token
        fate = "made anew of the other copy"
        try:
            if await write_document(self.store, names[bad], other.value, token) is None:
                fate = "being made anew by another proxy"
        except StoreError as error:
            fate = f"not made anew: {error}"
        return Mended(other.value, f"{names[bad]}: {damages[bad]}; {fate}")

    async def _ids(self) -> list[int]:
        names = await document_names(self.store, _BOTH)
        return sorted({_id_of(name) for name in names} - {0})

    def _take(self, id: int, sealed: bytes | None) -> zstandard.ZstdCompressionDict:
        trained, dictionary = _open(id, sealed)
        self.about[id] = About(
            id,
            len(trained.dictionary),
            trained.route,
            trained.trained_at,
            trained.samples,
            trained.plain,
            trained.packed,
        )
        self.damaged.pop(id, None)
        self._make_room(self._pinned.values())
        self.known[id] = dictionary
        return dictionary

    def _make_room(self, pinned: Iterable[int]) -> None:
        while len(self.known) >= self._keep_max:
            oldest = next((id for id in self.known if id not in pinned), None)
            if oldest is None:
                return
            del self.known[oldest]


async def load_all(store: Store, keys: Sequence[Key], want: Want) -> list[Loaded]:
    """A few keys' records, side by side where the store takes fewer in one load.  Raises StoreError."""
    parts = [keys[start : start + store.load_max] for start in range(0, len(keys), store.load_max)]
    loaded = await asyncio.gather(*[store.load(part, want) for part in parts])
    return [each for part in loaded for each in part]


def prepared(dictionary: bytes) -> zstandard.ZstdCompressionDict:
    """A dictionary that is ready for decompression in any thread: zstandard makes it so at the first use,
    which two threads must not do at once."""
    made = zstandard.ZstdCompressionDict(dictionary)
    decompress(compress(b" ", 1, None), 1, made)
    return made


def _open(id: int, sealed: bytes | None) -> tuple[Trained, zstandard.ZstdCompressionDict]:
    """Raises IntegrityError, for None too."""
    if sealed is None:
        raise IntegrityError(f"dictionary {id} is not there")
    try:
        raw = unseal(BESIDE, _name(id).encode(), 0, sealed, SIZE_MAX)
        trained = msgspec.msgpack.decode(raw, type=Trained)
        return trained, prepared(trained.dictionary)
    except IntegrityError as damage:
        raise IntegrityError(f"dictionary {id} is damaged: {damage}") from None
    except (msgspec.DecodeError, zstandard.ZstdError) as error:
        raise IntegrityError(f"dictionary {id} is not readable by this release: {error}") from None


def _damage(id: int, document: Document | None) -> str:
    """Why it can't be used; empty: it can."""
    try:
        _open(id, None if document is None else document.value)
    except IntegrityError as damage:
        return str(damage)
    return ""


def _name(id: int) -> str:
    return f"{PREFIX}{id}"


def _copy(id: int) -> str:
    return f"{COPY_PREFIX}{id}"


def _id_of(name: str) -> int:
    """0: the name is none of a dictionary."""
    digits = name.removeprefix(PREFIX).removeprefix(COPY_PREFIX)
    return int(digits) if digits.isascii() and digits.isdigit() else 0
