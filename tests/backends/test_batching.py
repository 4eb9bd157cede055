"""The batcher, against a store that answers when the test says so."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import pytest

from backends.base import StoreError
from backends.batching import Batcher


class Server:
    """Holds each batch until it is told to answer."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self._answers: list[asyncio.Future[list[int]]] = []
        self._arrived = asyncio.Condition()

    async def run(self, items: list[int]) -> list[int]:
        answer: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()
        async with self._arrived:
            self.batches.append(items)
            self._answers.append(answer)
            self._arrived.notify_all()
        return await answer

    async def until(self, batches: int) -> None:
        async with self._arrived:
            await asyncio.wait_for(self._arrived.wait_for(lambda: len(self.batches) >= batches), 10)

    def answer(self, batch: int) -> None:
        """Each item's result is ten times the item."""
        self._answers[batch].set_result([item * 10 for item in self.batches[batch]])

    def fail(self, batch: int, error: BaseException) -> None:
        self._answers[batch].set_exception(error)


class Client:
    """Submits items, and awaits their outcomes."""

    def __init__(self, batcher: Batcher[int, int]) -> None:
        self._batcher = batcher
        self.outcomes: dict[int, int | Exception] = {}
        self.order: list[int] = []
        self._changed = asyncio.Event()

    def submit(self, *items: int) -> None:
        for item in items:
            self._batcher.submit(item, partial(self._done, item))

    def _done(self, item: int, outcome: int | Exception) -> None:
        assert item not in self.outcomes, "answered twice"
        self.outcomes[item] = outcome
        self.order.append(item)
        self._changed.set()

    async def until(self, outcomes: int) -> None:
        async def reached() -> None:
            while len(self.outcomes) < outcomes:
                self._changed.clear()
                await self._changed.wait()

        await asyncio.wait_for(reached(), 10)


async def test_one_turn_of_the_loop_is_one_batch() -> None:
    server = Server()
    batcher = Batcher(server.run, concurrency=4, max_items=100)
    client = Client(batcher)
    client.submit(1, 2)
    asyncio.get_running_loop().call_soon(client.submit, 3)
    await server.until(1)
    assert server.batches == [[1, 2, 3]]
    assert batcher.in_flight == 3
    server.answer(0)
    await client.until(3)
    assert client.outcomes == {1: 10, 2: 20, 3: 30}
    assert client.order == [1, 2, 3]
    assert batcher.in_flight == 0
    await batcher.close()


async def test_requests_gather_while_all_slots_are_busy_and_then_go_together() -> None:
    server = Server()
    batcher = Batcher(server.run, concurrency=2, max_items=100)
    client = Client(batcher)
    client.submit(1)
    await server.until(1)
    client.submit(2)
    await server.until(2)  # the second slot was free
    for item in range(3, 50):
        client.submit(item)
        await asyncio.sleep(0)
    assert len(server.batches) == 2
    server.answer(1)
    await server.until(3)
    assert server.batches[2] == list(range(3, 50))
    server.answer(0)
    server.answer(2)
    await client.until(49)
    await batcher.close()


async def test_what_is_over_the_maximum_goes_to_the_next_slots_in_order() -> None:
    server = Server()
    batcher = Batcher(server.run, concurrency=2, max_items=3)
    client = Client(batcher)
    client.submit(*range(8))
    await server.until(2)
    assert server.batches == [[0, 1, 2], [3, 4, 5]]
    server.answer(1)
    await server.until(3)
    assert server.batches[2] == [6, 7]
    server.answer(0)
    server.answer(2)
    await client.until(8)
    await batcher.close()


async def test_what_a_callback_submits_is_served() -> None:
    server = Server()
    batcher = Batcher(server.run, concurrency=1, max_items=10)
    client = Client(batcher)
    batcher.submit(1, lambda _: client.submit(2))
    await server.until(1)
    server.answer(0)
    await server.until(2)
    assert server.batches == [[1], [2]]
    server.answer(1)
    await client.until(1)
    # And when the slot has gone to rest, the next submit wakes one.
    client.submit(3)
    await server.until(3)
    server.answer(2)
    await client.until(2)
    await batcher.close()


async def test_a_failed_batch_gives_each_of_its_items_the_exception_and_no_other() -> None:
    server = Server()
    batcher = Batcher(server.run, concurrency=1, max_items=2)
    client = Client(batcher)
    client.submit(1, 2, 3)
    await server.until(1)
    error = StoreError("the server is away")
    server.fail(0, error)
    await server.until(2)
    server.answer(1)
    await client.until(3)
    assert client.outcomes == {1: error, 2: error, 3: 30}
    assert batcher.in_flight == 0
    await batcher.close()


async def test_a_wrong_number_of_results_is_an_error_for_all_of_the_batch() -> None:
    async def run(items: list[int]) -> list[int]:
        return items[1:]

    batcher = Batcher(run, concurrency=1, max_items=10)
    client = Client(batcher)
    client.submit(1, 2)
    await client.until(2)
    assert [str(outcome) for outcome in client.outcomes.values()] == ["1 results for a batch of 2"] * 2
    await batcher.close()


async def test_a_callback_that_fails_takes_no_other_answer() -> None:
    async def run(items: list[int]) -> list[int]:
        return items

    def broken(_: int | Exception) -> None:
        raise ValueError("broken")

    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    batcher = Batcher(run, concurrency=1, max_items=10)
    client = Client(batcher)
    batcher.submit(0, broken)
    client.submit(1)
    await client.until(1)
    assert client.outcomes == {1: 1}
    assert [str(context["exception"]) for context in reported] == ["broken"]
    await batcher.close()


async def test_close_fails_what_is_queued_and_lets_finish_what_is_under_way() -> None:
    server = Server()
    batcher = Batcher(server.run, concurrency=1, max_items=2)
    client = Client(batcher)
    client.submit(1, 2, 3)
    await server.until(1)
    closing = asyncio.create_task(batcher.close())
    await client.until(1)
    assert isinstance(client.outcomes[3], StoreError)
    assert not closing.done()
    server.answer(0)
    await asyncio.wait_for(closing, 10)
    assert (client.outcomes[1], client.outcomes[2]) == (10, 20)

    client.submit(4)
    await client.until(4)
    assert isinstance(client.outcomes[4], StoreError)
    assert len(server.batches) == 1
    assert batcher.in_flight == 0


async def test_a_cancelled_batch_answers_its_items_and_leaves_the_slot_usable() -> None:
    server = Server()
    batcher = Batcher(server.run, concurrency=1, max_items=1)
    client = Client(batcher)
    client.submit(1, 2)
    await server.until(1)
    server.fail(0, asyncio.CancelledError())
    await server.until(2)
    server.answer(1)
    await client.until(2)
    error = client.outcomes[1]
    assert isinstance(error, StoreError)
    assert error.unknown
    assert client.outcomes[2] == 20
    await batcher.close()


@pytest.mark.parametrize("concurrency", [1, 3])
async def test_every_item_is_answered_once_under_load(concurrency: int) -> None:
    under_way = most = 0

    async def run(items: list[int]) -> list[int]:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        for _ in range(items[0] % 5):
            await asyncio.sleep(0)
        under_way -= 1
        return [item * 10 for item in items]

    batcher = Batcher(run, concurrency, max_items=7)
    client = Client(batcher)
    for item in range(0, 1000, 4):
        client.submit(*range(item, item + 4))
        if item % 3 == 0:
            await asyncio.sleep(0)
    await client.until(1000)
    assert client.outcomes == {item: item * 10 for item in range(1000)}
    assert most == concurrency
    assert batcher.in_flight == 0
    await batcher.close()
