"""A store's routes with ``dictionary = "auto"``: when one is trained, from what, and whether it is used.

Each such route gathers values as they are sealed (``backends.samples``).  Once there are enough, a
dictionary is trained from them in a worker thread; if it profits, it is put into the store, and the route's
values are sealed with it from the moment at which the store has acknowledged that.  When they no longer get
as small as they once did with it, values are gathered anew.  Every proxy does so by itself: before it trains
it looks whether another one has, and takes that dictionary.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

from backends.base import Key, KeyInfo, StoreError, Want
from backends.dictionaries import Dictionaries, Trained, load_all
from backends.samples import SAMPLE_MAX, Samples
from backends.seal import IntegrityError, SealPolicy, unseal
from backends.training import SAMPLES_MIN, Candidate, train, with_dictionary
from proxy import errors
from proxy.cells import ColdPolicy
from proxy.clock import Clock
from proxy.keyspace import DATABASES, UNCHUNKED
from proxy.resp import Reply

log = logging.getLogger("redtier.dictionaries")

# Values have grown by this much over the least that they took, when a new dictionary is tried.
DECAY: Final = 1.1
# Batches of ``dictionary_samples`` values for which nothing is tried after a try in vain: doubled each time.
PAUSE_MAX: Final = 64
# Keys that are read at once, for values to train from at a client's wish.
PAGE: Final = 50


class Sealed(NamedTuple):
    """What a route has sealed, in this process, while one of its dictionaries was in use."""

    records: int = 0
    raw_bytes: int = 0
    payload_bytes: int = 0


class TrainedRoute:
    """A route and the dictionary that it seals with.

    Of at most ``size`` bytes, trained from at most ``count_max`` values of ``bytes_max`` bytes together.
    """

    def __init__(self, prefix: bytes, policy: ColdPolicy, size: int, count_max: int, bytes_max: int) -> None:
        self.prefix = prefix
        self.policy = policy
        self.plain = policy.seal
        self.size_max = size
        self.bytes_max = bytes_max
        self.id = 0  # of the dictionary in use; 0: none yet
        self.trained = 0  # dictionaries, by this process
        self.vain = 0  # tries that brought none
        self.least = 0.0  # payload bytes for a raw one, over the best batch with this dictionary
        self.pause = 0  # batches until the next try
        self.pause_next = 1
        self.gathering = True
        self.busy = False
        self.past: dict[int, Sealed] = {}
        self.samples = Samples(count_max, bytes_max, policy.seal.compress_min, self._told)
        self.samples.gather()
        policy.samples = self.samples
        self.due = _never

    def _told(self, raw_bytes: int, payload_bytes: int) -> None:
        """A batch of values more was sealed: gather the next one, or train from this one?"""
        if self.busy:
            return
        if self.gathering:
            self.due(self)
        elif self.pause:
            self.pause -= 1
        elif not self.id or self._has_decayed(payload_bytes / max(1, raw_bytes)):
            self.gathering = True
            self.samples.gather()

    def _has_decayed(self, share: float) -> bool:
        if not self.least or share < self.least:
            self.least = share
        return share >= self.least * DECAY

    def take_samples(self) -> list[bytes]:
        self.gathering = False
        return self.samples.take()

    def use(self, id: int, seal: SealPolicy) -> None:
        self.past[self.id] = self.sealed(self.id)
        self.id = id
        self.policy.seal = seal
        self.least = 0.0
        self.pause, self.pause_next = 0, 1
        self.take_samples()
        self.samples.restart()

    def in_vain(self) -> None:
        self.vain += 1
        self.least = 0.0  # the values are as they are
        self.pause = self.pause_next
        self.pause_next = min(2 * self.pause_next, PAUSE_MAX)

    def sealed(self, id: int) -> Sealed:
        if id != self.id:
            return self.past.get(id, Sealed())
        return Sealed(self.samples.records, self.samples.raw_bytes, self.samples.payload_bytes)

    def total(self) -> Sealed:
        figures = zip(*self.past.values(), self.sealed(self.id), strict=True)
        return Sealed(*map(sum, figures))


def _never(route: TrainedRoute) -> None:
    pass


class Training:
    """The routes of one store that have dictionaries trained."""

    def __init__(self, dictionaries: Dictionaries, clock: Clock, routes: Sequence[TrainedRoute]) -> None:
        self.dictionaries = dictionaries
        self.routes = routes
        self._clock = clock
        self._tasks: set[asyncio.Task[None]] = set()
        for route in routes:
            route.due = self._due

    async def open(self) -> None:
        """Seal with what was trained before.  Raises StoreError."""
        await self.dictionaries.refresh()
        for id, damage in self.dictionaries.damaged.items():
            log.error("%s: %s: what is sealed with %d can't be read", self.name, damage, id)
        for route in self.routes:
            await self._take_newest(route)

    async def close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def name(self) -> str:
        return self.dictionaries.store.name

    def _due(self, route: TrainedRoute) -> None:
        route.busy = True
        task = asyncio.get_running_loop().create_task(self._train_quietly(route))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _train_quietly(self, route: TrainedRoute) -> None:
        try:
            await self.dictionaries.refresh()
            if not await self._take_newest(route):
                await self._train(route, route.take_samples())
        except StoreError as error:
            route.take_samples()
            route.in_vain()
            log.warning("%s: no dictionary for %r: %s", self.name, route.prefix.decode(), error)
        except Exception:
            route.take_samples()
            route.in_vain()
            log.exception("%s: no dictionary for %r", self.name, route.prefix.decode())
        finally:
            route.busy = False

    async def train(self, prefix: bytes) -> Reply:
        """Train one for a route now, from what the store has of it; the new one, as a map.

        Raises CommandError, StoreError.
        """
        route = next((route for route in self.routes if route.prefix == prefix), None)
        if route is None:
            raise errors.no_training(prefix)
        if route.busy:
            raise errors.training(prefix)
        route.busy = True
        try:
            await self.dictionaries.refresh()
            await self._take_newest(route)
            samples = await self._stored(route)
            if not await self._train(route, samples):
                raise errors.not_trained(prefix, len(samples), SAMPLES_MIN)
        finally:
            route.busy = False
        return next(row for row in describe(self.dictionaries, self) if row["id"] == route.id)

    async def _train(self, route: TrainedRoute, samples: list[bytes]) -> bool:
        made: Candidate | None = await asyncio.get_running_loop().run_in_executor(
            None, train, samples, route.policy.seal, route.size_max
        )
        if made is None:
            route.in_vain()
            return False
        id = await self.dictionaries.add(
            Trained(
                route.prefix,
                self._clock.ms,
                made.samples,
                made.samples_held,
                made.plain,
                made.packed,
                made.dictionary,
            )
        )
        route.trained += 1
        log.info(
            "%s: dictionary %d for %r, of %d bytes: held-out values take %d bytes with it, %d without",
            *(self.name, id, route.prefix.decode(), len(made.dictionary), made.packed, made.plain),
        )
        await self._take_newest(route)
        return True

    async def _take_newest(self, route: TrainedRoute) -> bool:
        """Seal with the route's newest dictionary in the store; false if there is none that is newer."""
        id = self.dictionaries.newest(route.prefix)
        if id <= route.id:
            return False
        try:
            dictionary = await self.dictionaries.fetch(id)
        except IntegrityError as damage:  # since it was seen last
            log.error("%s: %s", self.name, damage)
            return False
        route.use(id, with_dictionary(route.plain, id, dictionary.as_bytes()))
        self.dictionaries.pin(route.prefix, id)
        return True

    async def _stored(self, route: TrainedRoute) -> list[bytes]:
        """Values that the store has of a route, as many as it trains from."""
        store, found, size = self.dictionaries.store, list[bytes](), 0
        count_max = route.samples.count_max
        for db in range(DATABASES):
            after: bytes | None = None
            while len(found) < count_max and size < route.bytes_max:
                infos, after = await store.scan(db, route.prefix, after, PAGE)
                for raw in await self._values(route, db, infos):
                    if len(raw) >= route.plain.compress_min:
                        found.append(raw[:SAMPLE_MAX])
                        size += len(found[-1])
                if after is None:
                    break
        return found

    async def _values(self, route: TrainedRoute, db: int, infos: Sequence[KeyInfo]) -> list[bytes]:
        if not infos:
            return []
        keys = [Key(db, info.name) for info in infos]
        found: list[bytes] = []
        loaded = await load_all(self.dictionaries.store, keys, Want.VALUE)
        for key, (record, _) in zip(keys, loaded, strict=True):
            if record is None or record.payload is None or record.kind in UNCHUNKED:  # gone, or large
                continue
            try:
                by_id = await self.dictionaries.of(record.payload)
                found.append(unseal(db, key.name, record.kind, record.payload, route.policy.max_value, by_id))
            except IntegrityError:  # it is told to who reads it
                continue
        return found


def describe(dictionaries: Dictionaries, training: Training | None) -> Iterator[dict[str, Any]]:
    """What TIER DICT tells of a store; see ``proxy.inspect.describe_dictionaries``."""
    name = dictionaries.store.name
    routes = {route.prefix: route for route in training.routes} if training is not None else {}
    for id, about in sorted(dictionaries.about.items()):
        route = routes.get(about.route)
        yield {
            "route": about.route,
            "backend": name,
            "id": id,
            "in_use": int(route is not None and route.id == id),
            "size": about.size,
            "trained_at": about.trained_at,
            "samples": about.samples,
            "gain": f"{about.plain / max(1, about.packed):.2f}",
            **_sealed(Sealed() if route is None else route.sealed(id)),
        }
    for route in routes.values():
        if not route.id:
            yield {
                "route": route.prefix,
                "backend": name,
                "id": 0,
                "in_use": 0,
                "size": 0,
                "trained_at": 0,
                "samples": len(route.samples.values),
                "gain": "1.00",
                **_sealed(route.sealed(0)),
            }


def _sealed(sealed: Sealed) -> dict[str, Any]:
    return {
        "records": sealed.records,
        "raw_bytes": sealed.raw_bytes,
        "payload_bytes": sealed.payload_bytes,
        "ratio": f"{sealed.raw_bytes / max(1, sealed.payload_bytes):.2f}",
    }
