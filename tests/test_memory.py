"""The memory backend: what goes when there is no room, what has expired, and what a scan promises."""

from __future__ import annotations

import random
from collections import Counter, OrderedDict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from backends.memory import EVICT_AT_ONCE, MemoryBackend
from proxy.clock import ManualClock
from proxy.errors import OUT_OF_MEMORY, CommandError
from proxy.keyspace import STRING, EventSink, KeyPolicy
from proxy.lru import Entry, entry_size
from proxy.prefixes import PrefixMap

UNLIMITED = 2**40
VALUE = b"v" * 100
ONE = entry_size(b"k0", VALUE)  # bytes that a key of two characters takes


class Told(EventSink):
    def __init__(self) -> None:
        self.events: list[tuple[int, str, bytes]] = []

    def event(self, db: int, name: str, key: bytes) -> None:
        self.events.append((db, name, key))


def make_backend(max_bytes: int = UNLIMITED, policy: str = "allkeys-lru") -> MemoryBackend:
    everything = KeyPolicy(ttl=0, max_value=UNLIMITED)
    return MemoryBackend("hot", max_bytes, policy, ManualClock(), PrefixMap([(b"", everything)]), Told())


def clock_of(backend: MemoryBackend) -> ManualClock:
    assert isinstance(backend.clock, ManualClock)
    return backend.clock


def events(backend: MemoryBackend) -> list[tuple[int, str, bytes]]:
    assert isinstance(backend.sink, Told)
    return backend.sink.events


def put(backend: MemoryBackend, *keys: bytes, ttl: int = 0, db: int = 0) -> None:
    for key in keys:
        backend.keyspaces[db].put(key, STRING, VALUE, backend.clock.ms + ttl if ttl else 0)


def found(entry: Entry | None) -> Entry:
    assert entry is not None
    return entry


def names(backend: MemoryBackend, db: int = 0) -> set[bytes]:
    entries, position = backend.scan(db, (0, 0), UNLIMITED)
    assert position is None
    return {entry.key for entry in entries}


def settle(backend: MemoryBackend) -> None:
    while backend.cycle(1_000_000):
        pass


class TestEviction:
    def test_the_least_recently_used_goes_first(self) -> None:
        backend = make_backend(3 * ONE)
        put(backend, b"k0", b"k1", b"k2", b"k3")
        assert names(backend) == {b"k1", b"k2", b"k3"}
        assert events(backend) == [(0, "evicted", b"k0")]
        assert backend.evicted == 1

    def test_reading_and_changing_is_use_but_looking_is_not(self) -> None:
        backend = make_backend(4 * ONE)
        keyspace = backend.keyspaces[0]
        put(backend, b"k0", b"k1", b"k2", b"k3")
        keyspace.peek(b"k0")
        keyspace.find(b"k1")
        keyspace.edit(b"k2")
        put(backend, b"k3")
        put(backend, b"k4")
        assert names(backend) == {b"k1", b"k2", b"k3", b"k4"}
        put(backend, b"k5", b"k6")
        assert names(backend) == {b"k3", b"k4", b"k5", b"k6"}

    def test_nothing_is_use_while_nothing_is_touched(self) -> None:
        backend = make_backend(4 * ONE)
        keyspace = backend.keyspaces[0]
        put(backend, b"k0", b"k1", b"k2")
        clock_of(backend).advance(1000)
        backend.touching = False
        keyspace.find(b"k0")
        keyspace.edit(b"k1")
        put(backend, b"k2", b"k3")
        backend.touching = True
        entries, _ = backend.scan(0, (0, 0), UNLIMITED)
        now = backend.clock.ms
        assert {entry.key: now - entry.used_at for entry in entries} == {
            b"k0": 1000,
            b"k1": 1000,
            b"k2": 1000,
            b"k3": 0,  # new
        }
        put(backend, b"k4", b"k5", b"k6")
        assert names(backend) == {b"k3", b"k4", b"k5", b"k6"}

    def test_what_grows_untouched_takes_the_place_of_the_next(self) -> None:
        backend = make_backend(3 * ONE)
        put(backend, b"k0", b"k1", b"k2")
        backend.touching = False
        backend.keyspaces[0].put(b"k0", STRING, VALUE + b"v")
        assert names(backend) == {b"k0", b"k2"}
        with pytest.raises(CommandError, match=f"^{OUT_OF_MEMORY}"):
            backend.keyspaces[0].put(b"k0", STRING, bytes(4 * ONE))
        put(backend, b"k3", b"k4")
        assert names(backend) == {b"k2", b"k3", b"k4"}

    def test_the_databases_share_one_bound(self) -> None:
        backend = make_backend(2 * ONE)
        put(backend, b"k0", db=3)
        put(backend, b"k1", b"k2")
        assert names(backend, 3) == set()
        assert events(backend) == [(3, "evicted", b"k0")]

    def test_a_large_value_evicts_in_slices_and_the_cycle_does_the_rest(self) -> None:
        backend = make_backend(91 * ONE)
        put(backend, *[b"k%d" % number for number in range(10, 100)])
        backend.keyspaces[0].put(b"large", STRING, bytes(80 * ONE))
        assert backend.evicted == EVICT_AT_ONCE
        assert backend.lru.used > backend.max_bytes
        settle(backend)
        assert backend.lru.used <= backend.max_bytes
        assert b"large" in names(backend)

    def test_what_can_never_fit_is_refused_before_anything_goes(self) -> None:
        backend = make_backend(3 * ONE)
        put(backend, b"k0", b"k1")
        with pytest.raises(CommandError) as refused:
            backend.keyspaces[0].put(b"k2", STRING, bytes(4 * ONE))
        assert refused.value.text == OUT_OF_MEMORY
        assert names(backend) == {b"k0", b"k1"}

    @pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-lru", "volatile-ttl"])
    def test_what_grows_is_not_evicted_for_its_own_growth(self, policy: str) -> None:
        backend = make_backend(4 * ONE, policy)
        put(backend, b"k0", ttl=1000)
        put(backend, b"k1", b"k2", ttl=100_000)
        keyspace = backend.keyspaces[0]
        keyspace.update(found(keyspace.edit(b"k0")), bytes(100 + 2 * ONE))
        assert len(names(backend)) == 2
        assert b"k0" in names(backend)
        clock_of(backend).advance(1000)
        settle(backend)
        assert b"k0" not in names(backend)

    def test_what_outgrows_the_bound_keeps_its_value(self) -> None:
        backend = make_backend(4 * ONE)
        keyspace = backend.keyspaces[0]
        put(backend, b"k0")
        with pytest.raises(CommandError):
            keyspace.update(found(keyspace.edit(b"k0")), bytes(5 * ONE))
        assert found(keyspace.find(b"k0")).value == VALUE
        assert backend.lru.used == ONE

    def test_noeviction_refuses_and_keeps_everything(self) -> None:
        backend = make_backend(2 * ONE, "noeviction")
        put(backend, b"k0", b"k1", ttl=1000)
        with pytest.raises(CommandError, match="OOM"):
            put(backend, b"k2")
        put(backend, b"k1")
        assert names(backend) == {b"k0", b"k1"}

    def test_volatile_lru_takes_only_what_expires(self) -> None:
        backend = make_backend(4 * ONE, "volatile-lru")
        keyspace = backend.keyspaces[0]
        put(backend, b"k0")
        put(backend, b"k1", b"k2", b"k3", ttl=1000)
        keyspace.find(b"k1")
        keyspace.expire(found(keyspace.peek(b"k2")), 0)
        put(backend, b"k4")
        assert names(backend) == {b"k0", b"k1", b"k2", b"k4"}
        put(backend, b"k5")
        with pytest.raises(CommandError, match="OOM"):
            put(backend, b"k6")
        keyspace.expire(found(keyspace.peek(b"k0")), backend.clock.ms + 1000)
        put(backend, b"k6")
        assert names(backend) == {b"k2", b"k4", b"k5", b"k6"}

    def test_volatile_ttl_takes_what_would_go_first(self) -> None:
        backend = make_backend(4 * ONE, "volatile-ttl")
        put(backend, b"k0", ttl=3000)
        put(backend, b"k1", ttl=1000)
        put(backend, b"k2", ttl=2000)
        put(backend, b"k3", b"k4", b"k5")
        assert names(backend) == {b"k0", b"k3", b"k4", b"k5"}
        put(backend, b"k6")
        with pytest.raises(CommandError, match="OOM"):
            put(backend, b"k7")


class TestExpiry:
    def test_a_key_is_gone_at_its_millisecond(self) -> None:
        backend = make_backend()
        keyspace = backend.keyspaces[0]
        put(backend, b"k0", ttl=1000)
        clock_of(backend).advance(999)
        assert keyspace.find(b"k0") is not None
        clock_of(backend).advance(1)
        assert keyspace.find(b"k0") is None
        assert backend.lru.used == 0
        assert events(backend) == [(0, "expired", b"k0")]

    @pytest.mark.parametrize("look", ["find", "edit", "peek", "remove"])
    def test_no_way_to_look_at_a_key_sees_an_expired_one(self, look: str) -> None:
        backend = make_backend()
        put(backend, b"k0", ttl=1)
        clock_of(backend).advance(1)
        assert not getattr(backend.keyspaces[0], look)(b"k0")
        assert backend.expired == 1

    def test_the_cycle_finds_what_nobody_asks_for(self) -> None:
        backend = make_backend()
        put(backend, b"k0", b"k1", ttl=1000)
        put(backend, b"k2", ttl=9000)
        put(backend, b"k3")
        clock_of(backend).advance(2000)
        settle(backend)
        assert names(backend) == {b"k2", b"k3"}
        assert backend.expired == 2

    def test_the_cycle_stops_when_its_time_is_over_and_says_so(self) -> None:
        backend = make_backend()
        put(backend, *[b"k%d" % number for number in range(1000)], ttl=1)
        clock_of(backend).advance(1000)
        assert backend.cycle(0)
        assert 0 < backend.size(0) < 1000
        settle(backend)
        assert backend.size(0) == 0

    def test_a_new_value_has_the_expiry_that_it_is_given(self) -> None:
        backend = make_backend()
        put(backend, b"k0", ttl=1000)
        put(backend, b"k0")
        clock_of(backend).advance(5000)
        settle(backend)
        assert names(backend) == {b"k0"}
        assert backend.keyspaces[0].database.expiring == 0

    def test_an_expiry_that_is_put_off_again_and_again_leaves_nothing_behind(self) -> None:
        backend = make_backend()
        keyspace = backend.keyspaces[0]
        put(backend, b"k0", ttl=1_000_000)
        for _ in range(10_000):
            clock_of(backend).advance(500)
            keyspace.expire(found(keyspace.peek(b"k0")), backend.clock.ms + 1_000_000)
        assert backend.keyspaces[0].database.expiring == 1
        assert len(backend.timers._order) < 200
        clock_of(backend).advance(1_000_000)
        settle(backend)
        assert names(backend) == set()

    def test_a_write_over_an_expired_key_makes_a_new_one(self) -> None:
        backend = make_backend()
        put(backend, b"k0", ttl=1)
        clock_of(backend).advance(1)
        put(backend, b"k0")
        assert events(backend) == [(0, "expired", b"k0")]
        assert found(backend.keyspaces[0].find(b"k0")).expire_at == 0


class TestPolicyOfTheRoute:
    def make(self) -> MemoryBackend:
        routes = PrefixMap([(b"", KeyPolicy(0, UNLIMITED)), (b"short:", KeyPolicy(ttl=500, max_value=10))])
        return MemoryBackend("hot", UNLIMITED, "allkeys-lru", ManualClock(), routes)

    def test_a_key_without_expiry_gets_the_routes(self) -> None:
        backend = self.make()
        keyspace = backend.keyspaces[0]
        for key in (b"short:a", b"other"):
            keyspace.put(key, STRING, b"v")
        keyspace.put(b"short:b", STRING, b"v", backend.clock.ms + 9000)
        clock_of(backend).advance(500)
        assert names(backend) == {b"other", b"short:b"}

    def test_a_value_over_the_routes_limit_is_refused(self) -> None:
        keyspace = self.make().keyspaces[0]
        keyspace.put(b"short:a", STRING, bytes(10))
        keyspace.put(b"other", STRING, bytes(11))
        with pytest.raises(CommandError, match="TOOLARGE 11 bytes"):
            keyspace.put(b"short:a", STRING, bytes(11))
        with pytest.raises(CommandError, match="TOOLARGE"):
            keyspace.update(found(keyspace.edit(b"short:a")), bytearray(11))
        assert found(keyspace.find(b"short:a")).value == bytes(10)


class TestClearing:
    def test_cleared_keys_are_gone_at_once_and_the_cycle_frees_them(self) -> None:
        backend = make_backend()
        put(backend, *[b"k%d" % number for number in range(500)])
        put(backend, *[b"e%d" % number for number in range(500)], ttl=1000)
        put(backend, b"kept", db=1)
        assert backend.clear(0) == 1000
        assert backend.size(0) == 0
        assert backend.keyspaces[0].find(b"k1") is None
        put(backend, b"k1")
        settle(backend)
        assert names(backend) == {b"k1"}
        assert names(backend, 1) == {b"kept"}
        assert backend.lru.used == entry_size(b"k1", VALUE) + entry_size(b"kept", VALUE)
        assert backend.timers.first() is None

    def test_all_databases(self) -> None:
        backend = make_backend()
        put(backend, b"a")
        put(backend, b"b", db=7)
        assert backend.clear(None) == 2
        settle(backend)
        assert backend.lru.used == backend.lru.count == 0

    def test_a_cleared_key_tells_nothing_any_more(self) -> None:
        backend = make_backend(3 * ONE)
        put(backend, b"k0", b"k1", ttl=10)
        backend.clear(0)
        clock_of(backend).advance(1000)
        put(backend, b"k2", b"k3")
        settle(backend)
        assert events(backend) == []
        assert names(backend) == {b"k2", b"k3"}

    def test_what_was_cleared_makes_room_before_anything_that_lives(self) -> None:
        backend = make_backend(3 * ONE)
        put(backend, b"k0")
        put(backend, b"k1", b"k2", db=1)
        backend.clear(1)
        put(backend, b"k3", b"k4")
        assert names(backend) == {b"k0", b"k3", b"k4"}

    def test_noeviction_has_room_again(self) -> None:
        backend = make_backend(2 * ONE, "noeviction")
        put(backend, b"k0", b"k1")
        backend.clear(None)
        put(backend, b"k2", b"k3")
        assert names(backend) == {b"k2", b"k3"}

    def test_databases_change_places_with_their_keys_and_events(self) -> None:
        backend = make_backend()
        put(backend, b"a", ttl=10)
        put(backend, b"b", db=1)
        backend.swap(0, 1)
        assert (names(backend), names(backend, 1)) == ({b"b"}, {b"a"})
        clock_of(backend).advance(1000)
        settle(backend)
        assert events(backend) == [(1, "expired", b"a")]


class TestRandomEntry:
    def test_every_key_is_as_likely_as_any_other(self) -> None:
        backend = make_backend()
        put(backend, *[b"k%d" % number for number in range(8)])
        random.seed(1)
        drawn = Counter(found(backend.random_entry(0)).key for _ in range(8000))
        assert len(drawn) == 8
        assert all(850 < times < 1150 for times in drawn.values())  # five standard deviations
        assert backend.random_entry(1) is None

    def test_never_an_expired_one(self) -> None:
        backend = make_backend()
        put(backend, *[b"k%d" % number for number in range(50)], ttl=1)
        clock_of(backend).advance(1)
        assert backend.random_entry(0) is None
        put(backend, b"live")
        assert found(backend.random_entry(0)).key == b"live"


KEYS = st.integers(0, 60).map(b"k%d".__mod__)
CHANGES = st.lists(st.tuples(st.sampled_from(["put", "remove", "find", "expire"]), KEYS), max_size=12)


@settings(max_examples=200)
@given(st.sets(KEYS, max_size=60), st.integers(1, 7), st.lists(CHANGES, max_size=60))
def test_a_scan_meets_every_key_that_stands_throughout_once(
    start: set[bytes], limit: int, rounds: list[list[tuple[str, bytes]]]
) -> None:
    backend = make_backend()
    keyspace = backend.keyspaces[0]
    put(backend, *start)
    stood = set(start)  # throughout, so far
    seen: list[bytes] = []
    position: tuple[int, int] | None = (0, 0)
    while position is not None:
        entries, position = backend.scan(0, position, limit)
        seen += [entry.key for entry in entries]
        assert len(entries) <= limit
        for change, key in rounds.pop() if rounds else []:
            if change == "put":
                put(backend, key)
            elif change == "remove":
                keyspace.remove(key)
                stood.discard(key)
            elif change == "find":
                keyspace.find(key)
            elif entry := keyspace.peek(key):
                keyspace.expire(entry, backend.clock.ms)
                stood.discard(key)
    assert all(seen.count(key) == 1 for key in stood)


class LruAgainstModel(RuleBasedStateMachine):
    """A bounded backend beside an ordered dict that is told the same."""

    keys = st.integers(0, 12).map(b"k%02d".__mod__)
    sizes = st.integers(0, 300)

    def __init__(self) -> None:
        super().__init__()
        self.bound = 6 * ONE
        self.backend = make_backend(self.bound)
        self.keyspace = self.backend.keyspaces[0]
        self.model: OrderedDict[bytes, tuple[int, int]] = OrderedDict()  # size of the value, expiry

    def drop_expired(self, key: bytes) -> None:
        if key in self.model and 0 < self.model[key][1] <= self.backend.clock.ms:
            del self.model[key]

    def used(self) -> int:
        return sum(entry_size(key, bytes(size)) for key, (size, _) in self.model.items())

    def write(self, key: bytes, size: int, expire_at: int) -> None:
        self.model.pop(key, None)
        while self.used() + entry_size(key, bytes(size)) > self.bound:
            self.model.popitem(last=False)
        self.model[key] = (size, expire_at)

    @rule(key=keys, size=sizes, ttl=st.sampled_from([0, 0, 100, 5000]))
    def put(self, key: bytes, size: int, ttl: int) -> None:
        expire_at = self.backend.clock.ms + ttl if ttl else 0
        self.keyspace.put(key, STRING, bytes(size), expire_at)
        self.drop_expired(key)
        self.write(key, size, expire_at)

    @rule(key=keys, size=sizes)
    def change(self, key: bytes, size: int) -> None:
        entry = self.keyspace.edit(key)
        self.drop_expired(key)
        assert (entry is not None) == (key in self.model)
        if entry is not None:
            self.keyspace.update(entry, bytearray(size))
            self.write(key, size, self.model[key][1])

    @rule(key=keys)
    def find(self, key: bytes) -> None:
        entry = self.keyspace.find(key)
        self.drop_expired(key)
        assert (entry is not None) == (key in self.model)
        if entry is not None:
            self.model.move_to_end(key)

    @rule(key=keys, ttl=st.sampled_from([0, 100, 5000]))
    def expire(self, key: bytes, ttl: int) -> None:
        entry = self.keyspace.peek(key)
        self.drop_expired(key)
        if entry is not None:
            expire_at = self.backend.clock.ms + ttl if ttl else 0
            self.keyspace.expire(entry, expire_at)
            self.model[key] = (self.model[key][0], expire_at)

    @rule(key=keys)
    def remove(self, key: bytes) -> None:
        self.drop_expired(key)
        assert self.keyspace.remove(key) == (self.model.pop(key, None) is not None)

    @rule()
    def wait_and_cycle(self) -> None:
        clock_of(self.backend).advance(1000)  # more than a bucket, so that the cycle finds all that is due
        settle(self.backend)
        for key in list(self.model):
            self.drop_expired(key)

    @rule()
    def clear(self) -> None:
        self.backend.clear(0)
        settle(self.backend)
        self.model.clear()

    @invariant()
    def both_hold_the_same(self) -> None:
        shards = self.keyspace.database.shards
        held = {key: entry for shard in shards for key, entry in shard.items()}
        assert set(held) == set(self.model)
        assert self.backend.lru.used == self.used()
        assert self.backend.lru.count == self.backend.size(0) == len(held)
        assert self.keyspace.database.expiring == sum(entry.expire_at != 0 for entry in held.values())
        order = []
        entry = self.backend.lru.oldest()
        for _ in held:
            assert entry is not None
            order.append(entry.key)
            entry = entry.next
        assert order == list(self.model)


TestLruAgainstModel = LruAgainstModel.TestCase
