"""What chatbots and agents keep their conversations with, unchanged but for the prefix of their keys:
LangChain's RedisChatMessageHistory and the RedisSession of OpenAI's Agents SDK."""

from __future__ import annotations

import asyncio
import json
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack, closing
from itertools import zip_longest
from typing import Any

import pytest
import redis

from tests.homes import PREFIXES
from tests.servers import ROOT, wait_until

KINDS = ("memory", "redis", "postgres", "sqlite")

pytestmark = [
    pytest.mark.once,
    pytest.mark.parametrize("prefix", [PREFIXES[kind] for kind in KINDS], ids=KINDS),
]

with (ROOT / "bench" / "dialogs.jsonl").open(encoding="utf-8") as file:
    DIALOGS: dict[str, list[dict[str, str]]] = {
        dialog["id"]: dialog["messages"] for dialog in map(json.loads, file)
    }

Turn = tuple[str, dict[str, str]]  # a dialog's id, and one of its messages


def interleaved() -> list[Turn]:
    """All dialogs as a server sees them that are held at the same time: one message of each in turn."""
    rounds = zip_longest(*([(id, message) for message in messages] for id, messages in DIALOGS.items()))
    return [turn for turns in rounds for turn in turns if turn is not None]


class TestLangChain:
    @pytest.fixture
    def history(self, port: int, prefix: str) -> Iterator[Callable[..., Any]]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it says of itself that it is no longer maintained
            from langchain_community.chat_message_histories import RedisChatMessageHistory

        with ExitStack() as stack:

            def make(session: str, **options: Any) -> Any:
                url = f"redis://127.0.0.1:{port}/0"
                made = RedisChatMessageHistory(session, url=url, key_prefix=f"{prefix}chat:", **options)
                stack.enter_context(closing(made.redis_client))
                return made

            yield make

    def test_dialogs_read_back_as_they_went(self, history: Callable[..., Any]) -> None:
        writers = {id: history(id) for id in DIALOGS}
        for id, message in interleaved():
            add = {"user": "add_user_message", "assistant": "add_ai_message"}[message["role"]]
            getattr(writers[id], add)(message["content"])
        kinds = {"user": "human", "assistant": "ai"}
        for id, messages in DIALOGS.items():
            assert [(message.type, message.content) for message in history(id).messages] == [
                (kinds[message["role"]], message["content"]) for message in messages
            ]

    def test_one_is_cleared_and_the_others_stay(self, history: Callable[..., Any]) -> None:
        one, other = history("one"), history("other")
        one.add_user_message("Hello")
        other.add_user_message("Привет, 你好")
        one.clear()
        assert history("one").messages == []
        assert [message.content for message in history("other").messages] == ["Привет, 你好"]
        one.add_ai_message("Anew")
        assert [message.content for message in history("one").messages] == ["Anew"]

    def test_each_message_gives_the_dialog_its_time_anew(
        self, history: Callable[..., Any], port: int, prefix: str
    ) -> None:
        short, endless = history("short", ttl=100), history("endless")
        for each in (short, endless):
            each.add_user_message("Hello")
        with redis.Redis(port=port) as client:
            assert 90 < client.ttl(f"{prefix}chat:short") <= 100
            assert client.ttl(f"{prefix}chat:endless") == -1
            assert client.expire(f"{prefix}chat:short", 5)
            short.add_ai_message("Hello again")
            assert 90 < client.ttl(f"{prefix}chat:short") <= 100
            assert client.pexpire(f"{prefix}chat:endless", 1)
            wait_until(lambda: not client.exists(f"{prefix}chat:endless"))
        assert endless.messages == []
        assert len(short.messages) == 2

    def test_nothing_is_lost_of_what_many_add_at_once(self, history: Callable[..., Any]) -> None:
        writers = [history("busy") for _ in range(8)]

        def write(number: int) -> None:
            for count in range(10):
                writers[number].add_user_message(f"{number}: {count}")

        with ThreadPoolExecutor(len(writers)) as pool:
            list(pool.map(write, range(len(writers))))
        found = [message.content for message in history("busy").messages]
        for number in range(len(writers)):
            of_one = [text for text in found if text.startswith(f"{number}: ")]
            assert of_one == [f"{number}: {count}" for count in range(10)]
        assert len(found) == 80


class TestOpenAIAgents:
    @pytest.fixture
    async def session(self, port: int, prefix: str) -> AsyncIterator[Callable[..., Any]]:
        from agents.extensions.memory import RedisSession

        async with AsyncExitStack() as stack:

            def make(session: str, **options: Any) -> Any:
                url = f"redis://127.0.0.1:{port}/0"
                made = RedisSession.from_url(session, url=url, key_prefix=f"{prefix}agent", **options)
                stack.push_async_callback(made.close)
                return made

            yield make

    async def test_dialogs_read_back_as_they_went(self, session: Callable[..., Any]) -> None:
        writers = {id: session(id) for id in DIALOGS}
        assert await writers[next(iter(DIALOGS))].ping()
        for id, message in interleaved():
            await writers[id].add_items([message])
        for id, messages in DIALOGS.items():
            reader = session(id)
            assert await reader.get_items() == messages
            assert await reader.get_items(limit=3) == messages[-3:]

    async def test_what_comes_together_is_in_order_and_the_last_can_be_taken_back(
        self, session: Callable[..., Any]
    ) -> None:
        id, messages = next(iter(DIALOGS.items()))
        writer = session(id)
        await writer.add_items(messages)
        assert await session(id).pop_item() == messages[-1]
        assert await writer.get_items() == messages[:-1]
        for message in reversed(messages[:-1]):
            assert await writer.pop_item() == message
        assert await writer.pop_item() is None

    async def test_one_is_cleared_and_the_others_stay(
        self, session: Callable[..., Any], port: int, prefix: str
    ) -> None:
        one, other = session("one"), session("other")
        message = {"role": "user", "content": "Привет, 你好"}
        for each in (one, other):
            await each.add_items([message])
        await one.clear_session()
        assert await session("one").get_items() == []
        assert await session("other").get_items() == [message]
        with redis.Redis(port=port) as client:
            assert not client.keys(f"{prefix}agent:one*")

    async def test_its_keys_expire_together(
        self, session: Callable[..., Any], port: int, prefix: str
    ) -> None:
        await session("short", ttl=100).add_items([{"role": "user", "content": "Hello"}])
        await session("endless").add_items([{"role": "user", "content": "Hello"}])
        with redis.Redis(port=port) as client:
            for name in ("", ":messages"):
                assert 90 < client.ttl(f"{prefix}agent:short{name}") <= 100
                assert client.ttl(f"{prefix}agent:endless{name}") == -1

    async def test_nothing_is_lost_of_what_many_add_at_once(self, session: Callable[..., Any]) -> None:
        """It watches its keys, and tries again when another was quicker."""
        writers = [session("busy") for _ in range(5)]

        async def write(number: int) -> None:
            for count in range(4):
                pair = [{"role": role, "content": f"{number}: {count}"} for role in ("user", "assistant")]
                await writers[number].add_items(pair)

        await asyncio.gather(*map(write, range(len(writers))))
        found = await session("busy").get_items()
        assert [item["role"] for item in found] == ["user", "assistant"] * 20
        assert [item["content"] for item in found[::2]] == [item["content"] for item in found[1::2]]
        for number in range(len(writers)):
            of_one = [item["content"] for item in found[::2] if item["content"].startswith(f"{number}: ")]
            assert of_one == [f"{number}: {count}" for count in range(4)]
