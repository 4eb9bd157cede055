"""A cold tier on real stores: what is loaded, run and committed, in which order, and what goes wrong."""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from backends.base import Op, Store, StoreError, Want
from backends.postgres import PostgresStore
from backends.sqlite import SqliteStore
from proxy.cells import Order, WorkingSet
from proxy.clock import ManualClock
from proxy.errors import CommandError
from proxy.keyspace import STRING, Keyspace
from proxy.resp import OK, Argv, Reply
from proxy.tier import TRIES
from tests.coldhomes import Gate, Tier, failing
from tests.servers import PostgresServer

_tables = itertools.count()

NewTier = Callable[..., Awaitable[Tier]]
Sql = Callable[..., Awaitable[list[Any]]]


class Place:
    """One place that several tiers may work on, and a way past them."""

    def __init__(self, new_store: Callable[[], Store], table: str, sql: Sql) -> None:
        self.new_store, self.table, self.sql = new_store, table, sql


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path, clock: ManualClock) -> Place:
    if request.param == "sqlite":
        path = str(tmp_path / "redtier.db")

        async def run(query: str, *args: object) -> list[Any]:
            with closing(sqlite3.connect(path)) as connection, connection:
                return connection.execute(query, args).fetchall()

        return Place(lambda: SqliteStore("local", path, clock), "redtier", run)

    server: PostgresServer = request.getfixturevalue("postgres")
    table = f"redtier_tier_{next(_tables)}"

    async def run_pg(query: str, *args: object) -> list[Any]:
        connection = await asyncpg.connect(server.url)
        try:
            for number in range(len(args)):
                query = query.replace("?", f"${number + 1}", 1)
            return list(await connection.fetch(query, *args))
        finally:
            await connection.close()

    return Place(lambda: PostgresStore("archive", server.url, clock=clock, table=table), table, run_pg)


@pytest.fixture
async def new_tier(place: Place, clock: ManualClock) -> AsyncIterator[NewTier]:
    """Tiers on one place."""
    made: list[Tier] = []

    async def make(**options: Any) -> Tier:
        tier = Tier(place.new_store(), clock, **options)
        made.append(tier)
        await tier.store.open()
        return tier

    yield make
    for tier in made:
        async with asyncio.timeout(10):
            await tier.home.close()
        assert tier.home.in_flight == 0


@pytest.fixture
async def tier(new_tier: NewTier) -> Tier:
    return await new_tier()


async def replies(tier: Tier, *lines: str | bytes) -> list[Reply]:
    """All in one pipeline; of errors, their texts."""
    async with asyncio.timeout(10):
        found = await asyncio.gather(*[tier.send(line) for line in lines])
    return [reply.text if isinstance(reply, CommandError) else reply for reply in found]


async def reply(tier: Tier, line: str | bytes) -> Reply:
    return (await replies(tier, line))[0]


def changed(tier: Tier) -> list[bytes]:
    """The keys of all commits so far, in their order."""
    return [change.key.name for group in tier.store.commits for change in group]


def counting(batches: list[int], tier: Tier) -> Callable[[], Awaitable[None]]:
    async def count() -> None:
        batches.append(len(tier.store.commits))

    return count


class TestLoading:
    async def test_a_plain_set_loads_nothing(self, tier: Tier) -> None:
        await replies(tier, "SET a 1", "SET a 2 EX 100", "MSET b 1 c 2")
        assert tier.store.loads == []

    @pytest.mark.parametrize(
        "line", ["TTL k", "PTTL k", "TYPE k", "EXISTS k", "EXPIRE k 10", "DEL k", "UNLINK k", "TOUCH k"]
    )
    async def test_metadata_is_enough(self, new_tier: NewTier, line: str) -> None:
        first, second = await new_tier(), await new_tier()
        await reply(first, "SET k value")
        await reply(second, line)
        assert second.store.loads == [(b"k", Want.META)]

    @pytest.mark.parametrize(
        ("line", "wants", "expected"),
        [
            ("SET k w NX", [Want.META], None),
            ("SET k w XX", [Want.META], OK),
            ("SET k w KEEPTTL", [Want.META], OK),
            ("SET k w GET", [Want.VALUE], b"v"),
            ("GETSET k w", [Want.VALUE], b"v"),
        ],
    )
    async def test_a_set_loads_what_its_options_ask_for(
        self, new_tier: NewTier, line: str, wants: list[Want], expected: Reply
    ) -> None:
        first, second = await new_tier(), await new_tier()
        await reply(first, "SET k v")
        assert await reply(second, line) == expected
        assert [want for _, want in second.store.loads] == wants

    async def test_concurrent_reads_of_one_key_are_one_load(self, new_tier: NewTier) -> None:
        first, second = await new_tier(), await new_tier()
        await reply(first, "SET k v")
        assert await replies(second, *["GET k"] * 100) == [b"v"] * 100
        assert second.store.loads == [(b"k", Want.VALUE)]

    async def test_a_failed_load_is_shared_by_all_who_waited_for_it(self, tier: Tier) -> None:
        tier.store.before_load = failing(StoreError("it is raining"))
        found = await replies(tier, *["GET k"] * 50, "SET k v", "GET k")
        assert len(set(found[:50])) == 1
        assert found[0].startswith("BACKENDDOWN ")
        assert "it is raining" in found[0]
        assert found[50:] == [OK, b"v"]
        assert len(tier.store.loads) == 1

    @pytest.mark.parametrize("size", [1000, 64 * 1024, 300_000, 3_000_000])
    async def test_values_of_any_size_come_back(self, new_tier: NewTier, size: int) -> None:
        first, second = await new_tier(), await new_tier()
        value = random.Random(size).randbytes(size).replace(b" ", b"_")
        assert await reply(first, b"SET k " + value) is OK
        assert await reply(second, "GET k") == value
        assert await reply(second, b"APPEND k x") == size + 1
        await first.home.clear(9, b"")
        assert await replies(await new_tier(), "STRLEN k", "GETRANGE k -1 -1") == [size + 1, b"x"]

    async def test_a_value_over_the_limit_is_refused_and_nothing_is_changed(self, new_tier: NewTier) -> None:
        tier = await new_tier(max_value=100)
        await reply(tier, "SET k 1")
        found = await replies(tier, f"SET k {'x' * 101}", f"APPEND k {'x' * 100}", "GET k")
        assert [str(error).split()[0] for error in found[:2]] == ["TOOLARGE", "TOOLARGE"]
        assert found[2] == b"1"

    async def test_a_value_from_before_the_limit_was_lowered_is_not_damaged(self, new_tier: NewTier) -> None:
        before, after = await new_tier(), await new_tier(max_value=100)
        await reply(before, f"SET k {'x' * 101}")
        found = await replies(after, "GET k", "EXISTS k", "DEL k")
        assert found[0].startswith("TOOLARGE 101 bytes")
        assert found[1:] == [1, 1]
        assert after.home.damaged == 0

    async def test_a_key_that_is_too_long_is_refused(self, tier: Tier) -> None:
        found = await reply(tier, b"SET " + b"k" * (tier.store.key_max + 1) + b" v")
        assert found.startswith("TOOLARGE ")
        assert await reply(tier, b"SET " + b"k" * tier.store.key_max + b" v") is OK

    async def test_many_keys_of_one_command(self, tier: Tier) -> None:
        pairs = " ".join(f"k{n} {n}" for n in range(3000))
        names = " ".join(f"k{n}" for n in range(3000))
        assert await reply(tier, f"MSET {pairs}") is OK
        assert await reply(tier, f"MGET {names}") == [b"%d" % n for n in range(3000)]
        assert await reply(tier, f"DEL {names} k1 k2") == 3000


class TestOrder:
    async def test_commands_on_one_key_take_effect_in_the_order_of_their_arrival(self, tier: Tier) -> None:
        found = await replies(
            tier, "SET k 1", "GET k", "INCR k", "APPEND k 0", "TTL k", "DEL k", "GET k", "SETNX k 7", "INCR k"
        )
        assert found == [OK, b"1", 2, 2, -1, 1, None, 1, 8]

    async def test_many_changes_of_one_key_share_a_commit(self, tier: Tier) -> None:
        assert await replies(tier, *["INCR n"] * 1000) == list(range(1, 1001))
        assert len(tier.store.commits) == 1

    async def test_what_comes_during_a_commit_shares_the_next(self, tier: Tier) -> None:
        gate = tier.store.before_commit = Gate()
        first = tier.send("INCR n")
        await gate.reached.wait()
        rest = [tier.send("INCR n") for _ in range(100)]
        gate.open()
        assert await asyncio.gather(first, *rest) == list(range(1, 102))
        assert len(tier.store.commits) == 2

    async def test_nobody_sees_a_change_before_it_is_committed(self, tier: Tier) -> None:
        await reply(tier, "SET k old")
        gate = tier.store.before_commit = Gate()
        written = tier.send("SET k new")
        await gate.reached.wait()
        read = tier.send("GET k")
        await asyncio.sleep(0)
        assert not written.done()
        assert not read.done()
        assert tier.events.seen == [(0, "set", b"k")]
        gate.open()
        assert await written is OK
        assert await read == b"new"
        assert tier.events.seen == [(0, "set", b"k")] * 2

    async def test_who_asks_which_write_a_key_is_at_is_told_of_those_before_it(self, tier: Tier) -> None:
        """What was watched is compared so: an older answer would let a change pass unseen."""

        def token(ks: Keyspace, argv: Argv) -> Reply:
            assert isinstance(ks, WorkingSet)
            return ks.token(b"k")

        before = await tier.run(token, b"k", need=Want.META)
        _, between, _, after = await asyncio.gather(
            tier.send("SET k 1"),
            tier.run(token, b"k", need=Want.META),
            tier.send("INCR k"),
            tier.run(token, b"k", need=Want.META),
        )
        assert len({before, between, after}) == 3
        assert await tier.run(token, b"k", need=Want.META) == after

    async def test_a_read_before_the_first_change_does_not_wait_for_its_commit(
        self, new_tier: NewTier
    ) -> None:
        first, tier = await new_tier(), await new_tier()
        await reply(first, "SET k 1")
        gate = tier.store.before_commit = Gate()
        before, change, after = tier.send("GET k"), tier.send("INCR k"), tier.send("GET k")
        async with asyncio.timeout(10):
            assert await before == b"1"
        assert not change.done()
        gate.open()
        assert list(await asyncio.gather(change, after)) == [2, b"2"]

    async def test_commands_on_overlapping_keys_never_wait_for_each_other(self, tier: Tier) -> None:
        rng = random.Random(1)
        lines = []
        for _ in range(300):
            names = rng.sample(["a", "b", "c", "d"], rng.randint(1, 4))
            lines.append(
                rng.choice(
                    [
                        "MGET " + " ".join(names),
                        "MSET " + " ".join(f"{name} {rng.randint(0, 9)}" for name in names),
                        "DEL " + " ".join(names),
                        f"INCR {names[0]}",
                        f"RENAMENX {names[0]} {names[-1]}",
                    ]
                )
            )
        alone = Tier(tier.store.inner, tier.home.clock, cache=False)
        expected = [await reply(alone, line) for line in lines]
        await reply(alone, "DEL a b c d")
        assert await replies(tier, *lines) == expected

    async def test_a_clients_writes_to_different_keys_take_effect_as_it_sent_them(self, tier: Tier) -> None:
        loading = tier.store.before_load = Gate()
        client, other = Order(), Order()
        first = tier.send("INCR a", order=client)
        await loading.reached.wait()
        rest = [tier.send(line, order=client) for line in ("SET b 1", "DEL a", "SET c 2", "MSET d 1 e 2")]
        assert await tier.send("SET x 1", order=other) is OK
        assert changed(tier) == [b"x"]
        loading.open()
        assert list(await asyncio.gather(first, *rest)) == [1, OK, 1, OK, OK]
        assert changed(tier) == [b"x", b"a", b"b", b"a", b"c", b"d", b"e"]

    async def test_a_large_value_keeps_its_place(self, tier: Tier) -> None:
        client = Order()
        lines = [b"SET a 1", b"SET large " + bytes(1 << 20), b"SET b 2"]
        assert await asyncio.gather(*[tier.send(line, order=client) for line in lines]) == [OK] * 3
        assert changed(tier) == [b"a", b"large", b"b"]

    async def test_blind_writes_of_a_client_share_a_commit(self, tier: Tier) -> None:
        client = Order()
        batches = []
        tier.store.before_commit = counting(batches, tier)
        await asyncio.gather(*[tier.send(f"SET k{n} 1", order=client) for n in range(200)])
        assert len(batches) == 1

    async def test_clients_that_want_each_others_keys_all_get_on(self, tier: Tier) -> None:
        rng = random.Random(2)
        clients = [Order() for _ in range(6)]
        commands = ["INCR {0}", "SET {0} 1", "DEL {0} {1}", "MSET {0} 1 {1} 2", "RENAMENX {0} {1}", "GET {0}"]
        lines = [rng.choice(commands).format(*rng.sample("abcde", 2)) for _ in range(1500)]
        async with asyncio.timeout(30):
            await asyncio.gather(*[tier.send(line, order=rng.choice(clients)) for line in lines])

    async def test_a_write_after_a_failed_one_is_done(self, tier: Tier) -> None:
        client = Order()
        tier.store.before_load = failing(StoreError("away"))
        failed, done = tier.send("INCR a", order=client), tier.send("SET b 1", order=client)
        assert isinstance(await failed, CommandError)
        assert await done is OK

    async def test_a_long_queue_of_commands_on_several_keys(self, tier: Tier) -> None:
        await replies(tier, "MSET a 1 b 2")
        gate = tier.store.before_commit = Gate()
        held = tier.send("SET a 3")
        rest = [tier.send("MGET a b") for _ in range(5000)]
        gate.open()
        assert await held is OK
        assert await asyncio.gather(*rest) == [[b"3", b"2"]] * 5000

    async def test_another_database_is_found_while_running(self, tier: Tier) -> None:
        await replies(tier, "SET k v EX 100", "SET l w")
        assert await replies(tier, "COPY k k DB 1", "MOVE l 1", "MOVE k 1", "EXISTS l") == [1, 1, 0, 0]
        assert await tier.send("MGET k l", db=1) == [b"v", b"w"]
        assert await tier.send("TTL k", db=1) == 100

    async def test_a_command_that_queues_anew_holds_up_nobody_behind_it(self, tier: Tier) -> None:
        client = Order()
        lines = ["SET k 1", "MOVE k 1", "INCR k", "INCR other"]
        async with asyncio.timeout(10):
            found = await asyncio.gather(*[tier.send(line, order=client) for line in lines])
        assert found[3] == 1

    async def test_moves_to_each_others_database_at_once(self, tier: Tier) -> None:
        await tier.send("SET a 1", db=0)
        await tier.send("SET b 2", db=1)
        async with asyncio.timeout(10):
            moves = [tier.send("MOVE a 1", db=0), tier.send("MOVE b 0", db=1)]
            others = [tier.send("COPY a b DB 1", db=0), tier.send("COPY b a DB 0 REPLACE", db=1)]
            assert await asyncio.gather(*moves) == [1, 1]
            await asyncio.gather(*others)


class TestAcrossProxies:
    async def test_a_conflict_is_run_again_on_what_is_there_by_then(self, new_tier: NewTier) -> None:
        one, two = await new_tier(), await new_tier()
        await reply(one, "SET n 10")
        assert await reply(two, "GET n") == b"10"  # now both have a copy
        await reply(one, "INCR n")
        assert await reply(two, "INCR n") == 12
        assert two.home.conflicts == 1

    async def test_no_increment_is_lost(self, new_tier: NewTier) -> None:
        tiers = [await new_tier() for _ in range(3)]

        async def count(tier: Tier) -> None:
            for _ in range(20):
                while isinstance(await tier.send("INCR n"), CommandError):
                    pass

        async with asyncio.timeout(20):
            await asyncio.gather(*map(count, tiers))
        assert await reply(await new_tier(), "GET n") == b"60"

    async def test_a_key_that_is_changed_at_every_try_answers_conflict(self, new_tier: NewTier) -> None:
        one, two = await new_tier(), await new_tier()

        async def meddle() -> None:
            await two.send("INCR n")

        one.store.before_commit = meddle
        found = await reply(one, "INCR n")
        assert found.startswith("CONFLICT 'n' ")
        assert len(one.store.commits) == TRIES
        assert await reply(two, "GET n") == b"%d" % TRIES

    async def test_a_key_that_appears_meanwhile_is_not_overwritten(self, new_tier: NewTier) -> None:
        one, two = await new_tier(), await new_tier()
        gate = one.store.before_commit = Gate()
        mine = one.send("SETNX k mine")
        await gate.reached.wait()
        assert await reply(two, "SETNX k theirs") == 1
        gate.open()
        assert await mine == 0
        assert await reply(one, "GET k") == b"theirs"

    async def test_what_was_only_read_holds_the_whole_command_to_it(self, new_tier: NewTier) -> None:
        one, two = await new_tier(), await new_tier()
        await reply(one, "SET source 1")
        gate = one.store.before_commit = Gate()
        copied = one.send("COPY source target")
        await gate.reached.wait()
        await reply(two, "SET source 2")
        gate.open()
        assert await copied == 1
        assert await reply(two, "GET target") == b"2"


class TestFailures:
    async def test_a_failed_commit_fails_its_own_commands_only(self, tier: Tier) -> None:
        await reply(tier, "SET n 5")
        tier.store.before_commit = failing(StoreError("no room"))
        found = await replies(tier, "INCR n", "INCR n", "GET other")
        assert found[0].startswith("BACKENDDOWN ")
        assert "no room" in found[0]
        assert found[1] == found[0]
        assert found[2] is None
        assert tier.events.seen == [(0, "set", b"n")]
        tier.store.before_commit = Gate()
        tier.store.before_commit.open()
        assert await replies(tier, "GET n", "INCR n") == [b"5", 6]

    async def test_an_unknown_outcome_is_called_that_and_read_back(self, tier: Tier) -> None:
        await reply(tier, "SET n 5")
        tier.store.after_commit = failing(StoreError("the line is dead", unknown=True))
        found = await reply(tier, "INCR n")
        assert found.startswith("BACKENDDOWN ")
        assert "may have been applied" in found
        assert await reply(tier, "GET n") == b"6"  # from the store: no copy is kept of what is not known

    async def test_a_refusal_stays_one_whatever_becomes_of_the_others(self, tier: Tier) -> None:
        await reply(tier, "SET k text")
        tier.store.before_commit = failing(StoreError("no room"))
        found = await replies(tier, "APPEND k s", "INCR k")
        assert found[0].startswith("BACKENDDOWN ")
        assert found[1].startswith("ERR value is not an integer")

    async def test_a_handler_that_breaks_loses_only_its_own_change(
        self, tier: Tier, caplog: pytest.LogCaptureFixture
    ) -> None:
        def broken(ks: Keyspace, argv: Argv) -> Reply:
            ks.put(b"n", STRING, b"half")
            raise ZeroDivisionError

        await reply(tier, "SET n 1")
        with caplog.at_level(logging.CRITICAL):
            waiting = [tier.send("INCR n"), tier.run(broken, b"n"), tier.send("INCR n"), tier.send("GET n")]
            found = await asyncio.gather(*waiting)
        assert found[1].text == "ERR internal error"
        assert [found[0], *found[2:]] == [2, 3, b"3"]

    async def test_several_keys_are_left_alone_by_a_command_that_is_refused_half_way(
        self, tier: Tier
    ) -> None:
        def refused(ks: Keyspace, argv: Argv) -> Reply:
            ks.put(b"a", STRING, b"half")
            ks.event("set", b"a")
            raise CommandError("ERR no")

        await reply(tier, "MSET a 1 b 2")
        tier.events.seen.clear()
        assert (await tier.run(refused, b"a", b"b")).text == "ERR no"
        assert await reply(tier, "MGET a b") == [b"1", b"2"]
        assert tier.events.seen == []

    async def test_events_of_changes_that_cancel_out_are_told_all_the_same(self, tier: Tier) -> None:
        def pass_by(ks: Keyspace, argv: Argv) -> Reply:
            assert ks.peek(b"k") is None
            ks.put(b"k", STRING, b"v")
            ks.event("set", b"k")
            ks.remove(b"k")
            ks.event("del", b"k")
            return OK

        assert await tier.run(pass_by, b"k") is OK
        assert tier.events.seen == [(0, "set", b"k"), (0, "del", b"k")]
        assert tier.store.commits == []

    async def test_what_was_changed_before_more_keys_were_needed_is_undone(self, tier: Tier) -> None:
        def late(ks: Keyspace, argv: Argv) -> Reply:
            entry = ks.edit(b"a")
            assert entry is not None
            ks.update(entry, entry.value + b"!")  # type: ignore[operator]
            ks.event("append", b"a")
            other = ks.find(b"b")
            assert other is not None
            return other.value

        await reply(tier, "MSET a 1 b 2")
        tier.events.seen.clear()
        before = tier.send("APPEND a x")
        assert await tier.run(late, b"a") == b"2"
        assert await before == 2
        assert await reply(tier, "GET a") == b"1x!"
        assert [event for event in tier.events.seen if event[1] == "append"] == [(0, "append", b"a")] * 2

    async def test_commands_before_one_that_needs_more_keys_keep_their_changes(self, tier: Tier) -> None:
        def late(ks: Keyspace, argv: Argv) -> Reply:
            ks.put(b"a", STRING, b"late")
            entry = ks.find(b"b")
            return None if entry is None else entry.value

        await reply(tier, "MSET a 1 b 2")
        waiting = [tier.send("INCR a"), tier.send("INCR a"), tier.run(late, b"a"), tier.send("GET a")]
        assert (await asyncio.gather(*waiting))[:3] == [2, 3, b"2"]
        assert await reply(tier, "GET a") == b"late"

    async def test_a_handler_may_find_its_keys_one_by_one(self, tier: Tier) -> None:
        await reply(tier, "MSET a b b c c end")
        runs = []

        def follow(ks: Keyspace, argv: Argv) -> Reply:
            runs.append(1)
            key = b"a"
            while entry := ks.find(key):
                assert isinstance(entry.value, bytes)
                key = entry.value
            return key

        assert await tier.run(follow, b"a") == b"end"
        assert len(runs) <= 4

    async def test_while_the_backend_is_away_commands_are_refused_at_once(self, tier: Tier) -> None:
        tier.home.down = "it is being opened"
        assert (await reply(tier, "GET k")).startswith("BACKENDDOWN backend ")
        with pytest.raises(CommandError, match="BACKENDDOWN"):
            await tier.home.walk(0, b"", None, 10)
        with pytest.raises(CommandError, match="BACKENDDOWN"):
            await tier.home.size(0, b"")

    async def test_closing_answers_whoever_waits(self, place: Place, clock: ManualClock) -> None:
        tier = Tier(place.new_store(), clock)
        await tier.store.open()
        gate = tier.store.before_commit = Gate()
        under_way = tier.send("SET a 1")
        await gate.reached.wait()
        queued = tier.send("INCR a")
        asyncio.get_running_loop().call_later(0.05, gate.open)
        async with asyncio.timeout(10):
            await tier.home.close()
            assert await under_way is OK
            assert isinstance(await queued, CommandError)


class TestDamage:
    async def flip(self, place: Place, name: bytes) -> None:
        [[value]] = await place.sql(f"select value from {place.table} where key = ?", name)
        value = value[:-1] + bytes([value[-1] ^ 1])
        await place.sql(f"update {place.table} set value = ? where key = ?", value, name)

    async def test_a_flipped_bit_is_noticed_and_kept(
        self, new_tier: NewTier, place: Place, caplog: pytest.LogCaptureFixture
    ) -> None:
        writer, tier = await new_tier(), await new_tier()
        await replies(writer, "SET k value", "SET other fine", "EXPIRE k 100")
        await self.flip(place, b"k")
        with caplog.at_level(logging.ERROR):
            found = await replies(tier, "GET k", "GET other", "APPEND k x", "GET k", "TTL k", "EXISTS k")
        assert "b'k'" in caplog.text
        assert [text.split()[0] for text in (found[0], found[2], found[3])] == ["INTEGRITY"] * 3
        assert [found[1], *found[4:]] == [b"fine", 100, 1]
        [[name, kept]] = await place.sql(f"select key, value from {place.table}_quarantine")
        assert name == b"k"
        [[now]] = await place.sql(f"select value from {place.table} where key = ?", b"k")
        assert kept == now
        assert await replies(tier, "SET k new", "GET k") == [OK, b"new"]

    async def test_a_damaged_value_can_be_deleted(
        self, new_tier: NewTier, place: Place, caplog: pytest.LogCaptureFixture
    ) -> None:
        writer, tier = await new_tier(), await new_tier()
        await reply(writer, "SET k value")
        await self.flip(place, b"k")
        with caplog.at_level(logging.CRITICAL):
            found = await replies(tier, "GET k", "DEL k", "GET k")
        assert found[0].startswith("INTEGRITY ")
        assert found[1:] == [1, None]

    async def test_a_record_under_another_key_is_damaged(
        self, new_tier: NewTier, place: Place, caplog: pytest.LogCaptureFixture
    ) -> None:
        writer, tier = await new_tier(), await new_tier()
        await reply(writer, "SET mine secret")
        await place.sql(f"update {place.table} set key = ? where key = ?", b"yours", b"mine")
        assert (await reply(tier, "GET yours")).startswith("INTEGRITY ")

    async def test_a_large_one_too(
        self, new_tier: NewTier, place: Place, caplog: pytest.LogCaptureFixture
    ) -> None:
        writer, tier = await new_tier(), await new_tier()
        await reply(writer, b"SET k " + b"x" * 1_000_000)
        await self.flip(place, b"k")
        assert (await reply(tier, "GET k")).startswith("INTEGRITY ")


class TestNearCache:
    async def test_what_was_read_or_written_is_read_from_it(self, tier: Tier) -> None:
        await reply(tier, "SET k v")
        assert await replies(tier, "GET k", "STRLEN k", "TTL k") == [b"v", 1, -1]
        assert tier.store.loads == []
        assert tier.cache.hits == 3

    async def test_it_has_what_the_client_wrote_last(self, tier: Tier) -> None:
        await replies(tier, "SET k 1", "GET k", "INCR k", "GET k", "EXPIRE k 100")
        assert await replies(tier, "GET k", "TTL k") == [b"2", 100]
        await reply(tier, "DEL k")
        assert await reply(tier, "GET k") is None

    async def test_a_copy_expires(self, tier: Tier, clock: ManualClock) -> None:
        await reply(tier, "SET k v PX 1000")
        clock.advance(999)
        assert await reply(tier, "GET k") == b"v"
        clock.advance(1)
        assert await replies(tier, "GET k", "SETNX k w", "GET k") == [None, 1, b"w"]

    async def test_a_copy_is_not_used_longer_than_its_route_says(
        self, new_tier: NewTier, clock: ManualClock
    ) -> None:
        one, two = await new_tier(cache_ttl=1000), await new_tier()
        await reply(one, "SET k old")
        await reply(two, "SET k new")
        assert await reply(one, "GET k") == b"old"
        clock.advance(1000)
        assert await reply(one, "GET k") == b"new"

    async def test_without_one_each_read_asks_the_store(self, new_tier: NewTier) -> None:
        tier = await new_tier(cache=False)
        await reply(tier, "SET k v")
        for _ in range(3):
            assert await reply(tier, "GET k") == b"v"
        assert len(tier.store.loads) == 3

    async def test_it_is_bounded_and_keeps_what_was_used_last(self, new_tier: NewTier) -> None:
        tier = await new_tier(cache_bytes=100_000)
        for n in range(100):
            await reply(tier, f"SET k{n} {'x' * 5000}")
            await reply(tier, "GET k0")
        assert tier.cache.lru.used <= 100_000
        assert tier.cache.evicted >= 80
        assert not [name for name, _ in tier.store.loads if name == b"k0"]

    async def test_a_value_larger_than_all_of_it_passes_by(self, new_tier: NewTier) -> None:
        tier = await new_tier(cache_bytes=10_000)
        await replies(tier, "SET small v", f"SET big {'x' * 20_000}")
        assert await replies(tier, "STRLEN big", "GET small") == [20_000, b"v"]
        assert tier.cache.lru.used <= 10_000
        assert (b"small", Want.VALUE) not in tier.store.loads

    async def test_what_is_cleared_does_not_come_back_from_a_load_that_was_under_way(
        self, tier: Tier, clock: ManualClock
    ) -> None:
        await reply(Tier(tier.store.inner, clock), "SET k v")
        gate = tier.store.after_load = Gate()
        before = tier.send("GET k")
        await gate.reached.wait()
        await tier.home.clear(None, b"")
        after = tier.send("GET k")
        gate.open()
        assert await before is None
        assert await after is None
        assert await reply(tier, "GET k") is None

    async def test_clearing_leaves_other_databases_and_prefixes(self, tier: Tier) -> None:
        await replies(tier, "SET a:1 v", "SET b:1 v")
        await tier.send("SET a:1 w", db=1)
        await tier.home.clear(0, b"a:")
        assert await replies(tier, "GET a:1", "GET b:1") == [None, b"v"]
        assert await tier.send("GET a:1", db=1) == b"w"


class TestFieldsThatExpire:
    async def test_they_are_stored_with_the_hash(self, new_tier: NewTier, clock: ManualClock) -> None:
        one, two = await new_tier(cache=False), await new_tier()
        await replies(one, "HSET h a 1 b 2 c 3", "HPEXPIRE h 500 FIELDS 2 a b")
        assert await replies(two, "HPTTL h FIELDS 3 a b c", "TTL h") == [[500, 500, -1], -1]
        clock.advance(500)
        for tier in (one, two):
            assert await replies(tier, "HGETALL h", "HLEN h", "EXISTS h") == [{b"c": b"3"}, 1, 1]

    async def test_a_hash_is_gone_with_its_last_field(self, new_tier: NewTier, clock: ManualClock) -> None:
        one, two = await new_tier(cache=False), await new_tier()
        await replies(one, "HSET h a 1 b 2", "HPEXPIRE h 500 FIELDS 1 a", "HPEXPIRE h 800 FIELDS 1 b")
        assert await replies(two, "HKEYS h", "TTL h", "HLEN h") == [[b"a", b"b"], -1, 2]
        clock.advance(800)
        for tier in (two, one):
            assert await replies(tier, "EXISTS h", "TTL h", "HLEN h", "PERSIST h") == [0, -2, 0, 0]
        assert await one.home.walk(0, b"", None, 10) == ([], None)
        assert await replies(one, "HSETNX h a 1", "TTL h") == [1, -1]

    async def test_the_key_keeps_its_own_time(self, new_tier: NewTier, clock: ManualClock) -> None:
        one, two = await new_tier(cache=False), await new_tier(cache=False)
        await replies(one, "HSET h a 1", "EXPIRE h 100", "HEXPIRE h 50 FIELDS 1 a")
        assert await replies(two, "TTL h", "HTTL h FIELDS 1 a") == [100, [50]]
        assert await replies(two, "EXPIRE h 20", "HPERSIST h FIELDS 1 a", "TTL h") == [1, [1], 20]
        assert await replies(one, "HEXPIRE h 50 FIELDS 1 a", "TTL h") == [[1], 20]
        assert await replies(one, "PERSIST h", "TTL h") == [1, -1]
        clock.advance(49_999)
        assert await replies(two, "TTL h", "HGET h a") == [-1, b"1"]
        clock.advance(1)
        assert await replies(two, "TTL h", "HGET h a") == [-2, None]

    async def test_a_large_one(self, new_tier: NewTier, clock: ManualClock) -> None:
        one, two = await new_tier(cache=False), await new_tier(cache=False)
        pairs = " ".join(f"field:{number} {number:0200}" for number in range(1000))
        await replies(one, f"HSETEX h PX 500 FIELDS 1000 {pairs}", "HSET h a 1")
        assert await replies(two, "HLEN h", "HPERSIST h FIELDS 1 field:7", "HDEL h a") == [1001, [1], 1]
        clock.advance(500)
        assert await replies(one, "HKEYS h", "HSET h a 1", "HLEN h") == [[b"field:7"], 1, 2]


class TestPolicies:
    async def test_a_route_gives_keys_its_time_to_live(self, new_tier: NewTier) -> None:
        tier = await new_tier(ttl=60_000)
        assert await replies(tier, "SET k v", "TTL k", "SET k v EX 5", "TTL k") == [OK, 60, OK, 5]

    async def test_expire_does_not_write_the_value_anew(self, tier: Tier) -> None:
        await replies(tier, "SET k v")
        await reply(tier, "EXPIRE k 100")
        assert [change.op for group in tier.store.commits for change in group] == [Op.PUT, Op.EXPIRE]
        assert await reply(tier, "GET k") == b"v"

    async def test_an_expired_key_is_absent_within_a_batch(
        self, new_tier: NewTier, clock: ManualClock
    ) -> None:
        one, two = await new_tier(), await new_tier()
        await reply(one, "SET k v PX 50")
        assert await reply(two, "TTL k") == 0
        clock.advance(50)
        assert await replies(two, "EXISTS k", "INCR k", "TTL k") == [0, 1, -1]
