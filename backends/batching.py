"""Group commit for requests: what arrives while the store is busy goes together in one statement.

A ``Batcher`` has a few slots, as many as its store serves batches at once.  What is submitted in one
turn of the event loop goes together; while all slots are busy, requests gather, and the first slot
that is free again takes all of them.  So a lone request waits for nothing, and under load the batches
grow by themselves until the store's round trips are amortised; there is no timer and no size to tune.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from backends.base import StoreError

Item = TypeVar("Item")
Result = TypeVar("Result")
Done = Callable[[Result | Exception], None]


class Batcher(Generic[Item, Result]):
    """Gathers items into batches for ``run``, and hands each item's result to its callback.

    ``run`` gets items in the order of their submission, at most ``max_items``, and returns one result
    for each, in order; it is under way at most ``concurrency`` times.  If it raises, each item of
    that batch gets the exception.  To be built and used on the event loop's thread.
    """

    def __init__(
        self,
        run: Callable[[list[Item]], Awaitable[list[Result]]],
        concurrency: int,
        max_items: int,
    ) -> None:
        self.in_flight: int = 0  # items submitted whose callback has not been called
        self._run = run
        self._free = concurrency
        self._max_items = max_items
        self._loop = asyncio.get_running_loop()
        # Two lists side by side instead of one of pairs: ``run`` gets its list as it is.
        self._items: list[Item] = []
        self._dones: list[Done[Result]] = []
        self._flush_due = False
        self._slots: set[asyncio.Task[None]] = set()
        self._closed = False

    def submit(self, item: Item, done: Done[Result]) -> None:
        """Queue ``item``; ``done`` gets its result or an exception in a later turn of the loop."""
        self.in_flight += 1
        self._items.append(item)
        self._dones.append(done)
        # While all slots are busy there is nothing to flush: the one that ends takes what is here.
        if not self._flush_due and (self._free > 0 or self._closed):
            self._flush_due = True
            self._loop.call_soon(self._flush)

    async def close(self) -> None:
        """Fail what is queued and whatever comes later; returns when no batch is under way."""
        self._closed = True
        self._flush()
        while self._slots:
            await asyncio.wait(self._slots)

    def _flush(self) -> None:
        self._flush_due = False
        if self._closed:
            _, dones = self._take(len(self._items))
            self._fail(dones, StoreError("shutting down, the request was not sent"))
            return
        waiting = len(self._items)
        while waiting > 0 and self._free > 0:
            waiting -= self._max_items
            self._free -= 1
            slot = self._loop.create_task(self._serve())
            self._slots.add(slot)
            slot.add_done_callback(self._slot_ended)

    async def _serve(self) -> None:
        """One slot at work, for as long as there is something to do."""
        while self._items and not self._closed:
            items, dones = self._take(self._max_items)
            try:
                results = await self._run(items)
                if len(results) != len(dones):
                    raise RuntimeError(f"{len(results)} results for a batch of {len(dones)}")
            except Exception as error:
                self._fail(dones, error)
            except BaseException:
                # A cancelled task must not leave its clients without an answer.
                self._fail(dones, StoreError("the request was cut short", unknown=True))
                raise
            else:
                self.in_flight -= len(dones)
                for done, result in zip(dones, results, strict=True):
                    self._call(done, result)

    def _slot_ended(self, slot: asyncio.Task[None]) -> None:
        self._slots.discard(slot)
        self._free += 1
        if self._items:
            self._flush()

    def _take(self, count: int) -> tuple[list[Item], list[Done[Result]]]:
        items, dones = self._items, self._dones
        if len(items) <= count:
            self._items, self._dones = [], []
            return items, dones
        taken = items[:count], dones[:count]
        del items[:count], dones[:count]
        return taken

    def _fail(self, dones: list[Done[Result]], error: Exception) -> None:
        self.in_flight -= len(dones)
        for done in dones:
            self._call(done, error)

    def _call(self, done: Done[Result], outcome: Result | Exception) -> None:
        try:
            done(outcome)
        except Exception as error:
            # One client's fault must not take the answers of the others in its batch.
            context = {"message": "a batch callback failed", "exception": error}
            self._loop.call_exception_handler(context)
