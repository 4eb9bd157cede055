"""Fields that expire, by what Redis 8 documents; the judge of all else knows nothing of them."""

from __future__ import annotations

import pytest

from proxy.clock import ManualClock
from proxy.commands.hashes import hash_of
from proxy.datatypes.hash import TIME_MAX
from proxy.datatypes.values import pack, unpack
from proxy.errors import CommandError
from proxy.keyspace import HASH
from proxy.resp import Pairs, Reply
from tests.commands.keyspaces import Told
from tests.differential.targets import HandlerTarget

NOW = ManualClock().ms


class Server(HandlerTarget):
    """Handlers on a memory keyspace whose clock stands still."""

    def __init__(self) -> None:
        super().__init__(2, ManualClock())
        self.backend.sink = sink = Told()
        self.told = sink.names

    def run(self, command: str) -> Reply:
        self.told.clear()
        return self._run(command.encode().split())

    def pass_by(self, ms: int) -> None:
        assert isinstance(self.clock, ManualClock)
        self.clock.advance(ms)


@pytest.fixture
def server() -> Server:
    made = Server()
    made.run("HSET h a 1 b 2 c 3")
    return made


class TestExpire:
    def test_each_field_gets_an_answer(self, server: Server) -> None:
        assert server.run("HEXPIRE h 10 FIELDS 3 a b nosuch") == [1, 1, -2]
        assert server.told == ["hexpire"]
        assert server.run("HTTL h FIELDS 4 a b c nosuch") == [10, 10, -1, -2]
        assert server.run("HPTTL h FIELDS 1 a") == [10_000]
        assert server.run("HEXPIRE missing 10 FIELDS 2 a b") == [-2, -2]
        assert server.run("HTTL missing FIELDS 1 a") == [-2]
        assert server.run("EXISTS missing") == 0

    def test_times_may_be_in_ms_or_since_the_epoch(self, server: Server) -> None:
        assert server.run("HPEXPIRE h 1500 FIELDS 1 a") == [1]
        assert server.run("HPTTL h FIELDS 1 a") == [1500]
        assert server.run("HTTL h FIELDS 1 a") == [2]
        assert server.run("HPEXPIRETIME h FIELDS 1 a") == [NOW + 1500]
        assert server.run("HEXPIRETIME h FIELDS 1 a") == [(NOW + 1500 + 999) // 1000]
        assert server.run(f"HEXPIREAT h {NOW // 1000 + 9} FIELDS 1 b") == [1]
        assert server.run("HEXPIRETIME h FIELDS 2 b c") == [NOW // 1000 + 9, -1]
        assert server.run(f"HPEXPIREAT h {NOW + 77} FIELDS 1 b") == [1]
        assert server.run("HPEXPIRETIME h FIELDS 2 b nosuch") == [NOW + 77, -2]

    def test_conditions(self, server: Server) -> None:
        assert server.run("HEXPIRE h 10 XX FIELDS 1 a") == [0]
        assert server.run("HEXPIRE h 10 GT FIELDS 1 a") == [0]  # never is later
        assert server.told == []
        assert server.run("HEXPIRE h 10 NX FIELDS 1 a") == [1]
        assert server.run("HEXPIRE h 20 nx FIELDS 2 a b") == [0, 1]
        assert server.run("HEXPIRE h 10 GT FIELDS 2 a b") == [0, 0]
        assert server.run("HEXPIRE h 15 gt FIELDS 2 a b") == [1, 0]
        assert server.run("HEXPIRE h 15 LT FIELDS 3 a b c") == [0, 1, 1]
        assert server.run("HEXPIRE h 5 XX FIELDS 3 a b c") == [1, 1, 1]

    def test_a_time_that_has_passed_deletes(self, server: Server) -> None:
        assert server.run("HEXPIRE h 0 FIELDS 2 a a") == [2, -2]
        assert server.told == ["hdel"]
        assert server.run("HEXPIREAT h 1 NX FIELDS 1 b") == [2]
        assert server.run("HPEXPIRE h 0 FIELDS 1 c") == [2]
        assert server.told == ["hdel", "del"]
        assert server.run("EXISTS h") == 0

    @pytest.mark.parametrize(
        ("arguments", "error"),
        [
            ("x FIELDS 1 a", "ERR value is not an integer or out of range"),
            ("-1 FIELDS 1 a", "ERR invalid expire time, must be >= 0"),
            (f"{TIME_MAX} FIELDS 1 a", "ERR invalid expire time in 'hexpire' command"),
            ("1 NX XX FIELDS 1 a", "ERR Mandatory argument FIELDS is missing or not at the right position"),
            ("1 a b c", "ERR Mandatory argument FIELDS is missing or not at the right position"),
            ("1 FIELDS 0 a", "ERR Parameter `numFields` should be greater than 0"),
            ("1 FIELDS x a", "ERR Parameter `numFields` should be greater than 0"),
            ("1 FIELDS 2 a", "ERR The `numfields` parameter must match the number of arguments"),
            ("1 FIELDS 1 a b", "ERR The `numfields` parameter must match the number of arguments"),
        ],
    )
    def test_errors(self, server: Server, arguments: str, error: str) -> None:
        for key in ("h", "missing"):
            with pytest.raises(CommandError) as refused:
                server.run(f"HEXPIRE {key} {arguments}")
            assert refused.value.text == error

    def test_the_latest_time(self, server: Server) -> None:
        assert server.run(f"HPEXPIREAT h {TIME_MAX} FIELDS 1 a") == [1]
        with pytest.raises(CommandError, match="invalid expire time in 'hpexpireat'"):
            server.run(f"HPEXPIREAT h {TIME_MAX + 1} FIELDS 1 a")

    @pytest.mark.parametrize(
        "command", ["HTTL", "HPTTL", "HEXPIRETIME", "HPEXPIRETIME", "HPERSIST", "HGETDEL"]
    )
    def test_errors_of_those_without_a_time(self, server: Server, command: str) -> None:
        for arguments, error in [
            ("FIELD 1 a", "Mandatory argument FIELDS"),
            ("FIELDS 0 a", "Number of fields must be a positive integer"),
            ("FIELDS x a", "Number of fields must be a positive integer"),
            ("FIELDS 2 a", "The `numfields` parameter must match"),
        ]:
            with pytest.raises(CommandError, match=error):
                server.run(f"{command} h {arguments}")


@pytest.mark.parametrize(
    "command",
    [
        "HEXPIRE s x FIELDS 1 a",
        "HTTL s FIELDS 1 a",
        "HPERSIST s FIELDS 1 a",
        "HGETEX s FIELDS 1 a",
        "HGETDEL s FIELDS 1 a",
        "HSETEX s FIELDS 1 a b",
    ],
)
def test_another_type_is_refused(server: Server, command: str) -> None:
    server.run("SET s 1")
    with pytest.raises(CommandError, match="WRONGTYPE"):
        server.run(command)


def test_persist(server: Server) -> None:
    server.run("HEXPIRE h 10 FIELDS 2 a b")
    assert server.run("HPERSIST h FIELDS 4 a a c nosuch") == [1, -1, -1, -2]
    assert server.told == ["hpersist"]
    assert server.run("HPERSIST h FIELDS 1 c") == [-1]
    assert server.told == []
    assert server.run("HTTL h FIELDS 2 a b") == [-1, 10]
    assert server.run("HPERSIST missing FIELDS 2 a b") == [-2, -2]


class TestExpired:
    """``a`` has expired; nobody has taken it out."""

    @pytest.fixture
    def server(self, server: Server) -> Server:
        server.run("HPEXPIRE h 5 FIELDS 1 a")
        server.pass_by(5)
        return server

    def test_nobody_sees_it(self, server: Server) -> None:
        assert server.run("HGET h a") is None
        assert server.run("HMGET h a b") == [None, b"2"]
        assert server.run("HGETALL h") == {b"b": b"2", b"c": b"3"}
        assert server.run("HKEYS h") == [b"b", b"c"]
        assert server.run("HVALS h") == [b"2", b"3"]
        assert server.run("HLEN h") == 2
        assert server.run("HEXISTS h a") == server.run("HSTRLEN h a") == 0
        assert server.run("HSCAN h 0") == [b"0", [b"b", b"2", b"c", b"3"]]
        assert server.run("HTTL h FIELDS 1 a") == server.run("HPEXPIRETIME h FIELDS 1 a") == [-2]
        assert server.run("HEXPIRE h 10 FIELDS 1 a") == server.run("HPERSIST h FIELDS 1 a") == [-2]
        assert server.run("HGETEX h EX 10 FIELDS 1 a") == server.run("HGETDEL h FIELDS 1 a") == [None]
        assert server.run("HDEL h a") == 0
        assert {server.run("HRANDFIELD h") for _ in range(50)} == {b"b", b"c"}
        drawn = server.run("HRANDFIELD h 5 WITHVALUES")
        assert isinstance(drawn, Pairs)
        assert drawn.names == [b"b", b"c"]

    def test_it_may_be_set_anew(self, server: Server) -> None:
        assert server.run("HSET h a 9") == 1
        assert server.told == ["hexpired", "hset"]
        assert server.run("HTTL h FIELDS 1 a") == [-1]

    def test_it_counts_from_nothing(self, server: Server) -> None:
        assert server.run("HINCRBY h a 5") == 5
        assert server.run("HTTL h FIELDS 1 a") == [-1]

    def test_it_may_be_set_where_there_is_none(self, server: Server) -> None:
        assert server.run("HSETNX h a 5") == 1
        server.run("HPEXPIRE h 5 FIELDS 1 b")
        server.pass_by(5)
        assert server.run("HSETEX h FXX FIELDS 1 b 1") == 0
        assert server.run("HSETEX h FNX FIELDS 1 b 1") == 1

    def test_who_writes_takes_it_out(self, server: Server) -> None:
        found = hash_of(server.backend.keyspaces[0].peek(b"h"))
        assert found is not None
        assert len(found) == 3
        server.run("HSET h other 1")
        assert server.told == ["hexpired", "hset"]
        assert len(found) == 3
        assert server.run("HLEN h") == 3


class TestTheLastOne:
    """All fields have expired."""

    @pytest.fixture
    def server(self, server: Server) -> Server:
        server.run("HPEXPIRE h 5 FIELDS 3 a b c")
        server.run("EXPIRE h 1000")
        server.pass_by(5)
        return server

    def test_the_hash_is_empty_for_whoever_reads(self, server: Server) -> None:
        assert server.run("HGETALL h") == {}
        assert server.run("HKEYS h") == server.run("HVALS h") == server.run("HRANDFIELD h 3") == []
        assert server.run("HLEN h") == 0
        assert server.run("HRANDFIELD h") is None
        assert server.run("HSCAN h 0") == [b"0", []]

    def test_a_new_hash_does_not_inherit_when_the_old_one_would_have_expired(self, server: Server) -> None:
        assert server.run("HSET h a 1") == 1
        assert server.run("TTL h") == -1
        assert server.run("HGETALL h") == {b"a": b"1"}

    def test_a_write_that_sets_nothing_leaves_nothing(self, server: Server) -> None:
        assert server.run("HDEL h a") == 0
        assert server.run("HSETEX h FXX FIELDS 1 a 1") == 0
        assert server.run("HLEN h") == 0


class TestNobodyComesByAnyMore:
    """Memory takes out by itself what has expired."""

    def cycle(self, server: Server) -> int:
        times = 1
        while server.backend.cycle(0):
            times += 1
        return times

    def used(self, server: Server) -> int:
        return server.backend.lru.used

    def test_fields_go_when_they_are_due_and_the_hash_with_the_last(self, server: Server) -> None:
        before = self.used(server)
        server.run("HPEXPIRE h 1000 FIELDS 1 a")
        server.run("HPEXPIRE h 5000 FIELDS 2 b c")
        self.cycle(server)
        assert self.used(server) > before
        server.pass_by(2000)
        server.told.clear()
        self.cycle(server)
        assert server.told == ["hexpired"]
        server.pass_by(5000)
        self.cycle(server)
        assert server.told == ["hexpired", "hexpired", "del"]
        assert server.backend.size(0) == self.used(server) == 0

    def test_they_go_from_a_hash_that_has_another_name_by_then(self, server: Server) -> None:
        server.run("HPEXPIRE h 1000 FIELDS 3 a b c")
        for command in ("RENAME h g", "RENAME g f", "COPY f e", "MOVE e 1", "DEL f"):
            server.run(command)
        server.pass_by(5000)
        self.cycle(server)
        assert server.backend.size(0) == server.backend.size(1) == self.used(server) == 0
        assert server.backend.parts.first() is None

    def test_what_does_not_expire_any_more_stays(self, server: Server) -> None:
        server.run("HPEXPIRE h 1000 FIELDS 3 a b c")
        server.run("HPERSIST h FIELDS 1 a")
        server.run("HSET h b 1")
        server.run("HDEL h c")
        assert server.backend.parts.first() is None
        server.pass_by(5000)
        self.cycle(server)
        assert server.run("HLEN h") == 2

    def test_many_go_in_slices(self, server: Server) -> None:
        for number in range(5000):
            server.run(f"HSETEX h PX 10 FIELDS 1 field:{number} v")
        server.pass_by(1000)
        assert server.run("HLEN h") == 3
        assert server.run("HGETALL h") == {b"a": b"1", b"b": b"2", b"c": b"3"}
        server.told.clear()
        self.cycle(server)
        assert len(server.told) == 20
        found = hash_of(server.backend.keyspaces[0].peek(b"h"))
        assert found is not None
        assert len(found) == 3

    @pytest.mark.parametrize("command", ["FLUSHALL", "DEL h", "SET h 1", "HGETDEL h FIELDS 3 a b c"])
    def test_a_hash_that_is_gone_is_not_waited_for(self, server: Server, command: str) -> None:
        server.run("HPEXPIRE h 1000 FIELDS 2 a b")
        if command == "FLUSHALL":
            server.backend.clear(None)
            self.cycle(server)
        else:
            server.run(command)
        assert server.backend.parts.first() is None
        server.pass_by(5000)
        self.cycle(server)

    def test_it_is_gone_for_whoever_asks_for_the_key(self, server: Server) -> None:
        server.run("HPEXPIRE h 5 FIELDS 3 a b c")
        server.run("COPY h g")
        server.run("COPY h f")
        server.pass_by(5)
        assert server.run("EXISTS h") == 0
        assert server.run("TTL g") == -2
        assert server.run("PERSIST f") == 0
        assert server.backend.size(0) == 0


class TestGetEx:
    def test_it_reads(self, server: Server) -> None:
        assert server.run("HGETEX h FIELDS 3 a nosuch a") == [b"1", None, b"1"]
        assert server.told == []
        assert server.run("HGETEX missing FIELDS 2 a b") == [None, None]

    def test_it_changes_when_fields_expire(self, server: Server) -> None:
        assert server.run("HGETEX h EX 10 FIELDS 2 a nosuch") == [b"1", None]
        assert server.told == ["hexpire"]
        assert server.run("HGETEX h px 1500 FIELDS 1 b") == [b"2"]
        assert server.run("HPTTL h FIELDS 3 a b c") == [10_000, 1500, -1]
        assert server.run(f"HGETEX h PXAT {NOW + 3} FIELDS 1 a") == [b"1"]
        assert server.run(f"HGETEX h EXAT {NOW // 1000 + 5} FIELDS 1 b") == [b"2"]
        assert server.run("HPEXPIRETIME h FIELDS 2 a b") == [NOW + 3, (NOW // 1000 + 5) * 1000]
        assert server.run("HGETEX h PERSIST FIELDS 2 a c") == [b"1", b"3"]
        assert server.told == ["hpersist"]
        assert server.run("HGETEX h PERSIST FIELDS 1 c") == [b"3"]
        assert server.told == []
        assert server.run("HTTL h FIELDS 1 a") == [-1]

    def test_a_time_that_has_passed_deletes(self, server: Server) -> None:
        assert server.run("HGETEX h EX 0 FIELDS 3 a a b") == [b"1", None, b"2"]
        assert server.told == ["hdel"]
        assert server.run("HGETEX h PXAT 1 FIELDS 1 c") == [b"3"]
        assert server.told == ["hdel", "del"]
        assert server.run("EXISTS h") == 0

    @pytest.mark.parametrize(
        ("arguments", "error"),
        [
            ("EX x FIELDS 1 a", "ERR value is not an integer or out of range"),
            ("EX -1 FIELDS 1 a", "ERR invalid expire time, must be >= 0"),
            (f"PX {TIME_MAX} FIELDS 1 a", "ERR invalid expire time in 'hgetex' command"),
            ("EX 1 PX 1 FIELDS 1 a", "ERR Mandatory argument FIELDS is missing or not at the right position"),
            ("EX 1 FIELDS", "ERR Mandatory argument FIELDS is missing or not at the right position"),
            ("FIELDS 0 a", "ERR Number of fields must be a positive integer"),
            ("FIELDS 2 a", "ERR The `numfields` parameter must match the number of arguments"),
        ],
    )
    def test_errors(self, server: Server, arguments: str, error: str) -> None:
        with pytest.raises(CommandError) as refused:
            server.run(f"HGETEX h {arguments}")
        assert refused.value.text == error


def test_get_and_delete(server: Server) -> None:
    assert server.run("HGETDEL h FIELDS 3 a a nosuch") == [b"1", None, None]
    assert server.told == ["hdel"]
    assert server.run("HGETDEL h FIELDS 1 nosuch") == [None]
    assert server.told == []
    assert server.run("HGETDEL h FIELDS 2 b c") == [b"2", b"3"]
    assert server.told == ["hdel", "del"]
    assert server.run("EXISTS h") == 0
    assert server.run("HGETDEL h FIELDS 2 b c") == [None, None]


class TestSetEx:
    def test_it_sets(self, server: Server) -> None:
        assert server.run("HSETEX h FIELDS 2 a 7 new 8") == 1
        assert server.told == ["hset"]
        assert server.run("HMGET h a new") == [b"7", b"8"]
        assert server.run("HSETEX new EX 10 FIELDS 1 f v") == 1
        assert server.told == ["hset", "hexpire"]
        assert server.run("HTTL new FIELDS 1 f") == [10]

    def test_conditions(self, server: Server) -> None:
        assert server.run("HSETEX h FNX FIELDS 2 a 7 new 8") == 0
        assert server.run("HSETEX h FXX FIELDS 2 a 7 new 8") == 0
        assert server.run("HSETEX missing FXX FIELDS 1 a 7") == 0
        assert server.run("HGETALL h") == {b"a": b"1", b"b": b"2", b"c": b"3"}
        assert server.run("EXISTS missing") == 0
        assert server.run("HSETEX h FXX FIELDS 2 a 7 b 8") == 1
        assert server.run("HSETEX h FNX FIELDS 2 d 7 e 8") == 1
        assert server.run("HSETEX missing fnx FIELDS 1 a 7") == 1

    def test_a_time_is_dropped_changed_or_kept(self, server: Server) -> None:
        server.run("HEXPIRE h 10 FIELDS 3 a b c")
        server.run("HSETEX h FIELDS 1 a 1")
        server.run("HSETEX h PX 500 FIELDS 1 b 1")
        server.run("HSETEX h KEEPTTL FIELDS 2 c 9 d 1")
        assert server.run("HPTTL h FIELDS 4 a b c d") == [-1, 500, 10_000, -1]
        assert server.run("HGET h c") == b"9"
        server.run("HSET h c 1")
        server.run("HINCRBY h b 5")
        server.run("HINCRBYFLOAT h b 5")
        assert server.run("HPTTL h FIELDS 2 b c") == [500, -1]

    def test_a_time_that_has_passed_deletes(self, server: Server) -> None:
        assert server.run("HSETEX h PXAT 1 FIELDS 1 a 9") == 1
        assert server.told == ["hset", "hdel"]
        assert server.run("HSETEX h EX 0 FIELDS 2 b 9 c 9") == 1
        assert server.told == ["hset", "hdel", "del"]
        assert server.run("HSETEX new EX 0 FIELDS 1 f v") == 1
        assert server.run("EXISTS h new") == 0

    @pytest.mark.parametrize(
        ("arguments", "error"),
        [
            ("FNX FXX FIELDS 1 a 1", "ERR Only one of FXX or FNX arguments can be specified"),
            (
                "EX 1 KEEPTTL FIELDS 1 a 1",
                "ERR Only one of EX, PX, EXAT, PXAT or KEEPTTL arguments can be specified",
            ),
            (
                "EX 1 PX 1 FIELDS 1 a 1",
                "ERR Only one of EX, PX, EXAT, PXAT or KEEPTTL arguments can be specified",
            ),
            ("EX -1 FIELDS 1 a 1", "ERR invalid expire time, must be >= 0"),
            ("EX x FIELDS 1 a 1", "ERR value is not an integer or out of range"),
            (f"PX {TIME_MAX} FIELDS 1 a 1", "ERR invalid expire time in 'hsetex' command"),
            ("FNX KEEPTTL FXX EX", "ERR Only one of FXX or FNX arguments can be specified"),
            ("BOGUS FIELDS 1 a 1", "ERR unknown argument: BOGUS"),
            ("FIELDS 0 a 1", "ERR invalid number of fields"),
            ("FIELDS x a 1", "ERR invalid number of fields"),
            ("FIELDS 2 a 1", "ERR wrong number of arguments for 'hsetex' command"),
            ("FIELDS 1 a 1 b 2", "ERR wrong number of arguments for 'hsetex' command"),
            ("FIELDS 1 a 1 b", "ERR wrong number of arguments for 'hsetex' command"),
        ],
    )
    def test_errors(self, server: Server, arguments: str, error: str) -> None:
        with pytest.raises(CommandError) as refused:
            server.run(f"HSETEX h {arguments}")
        assert refused.value.text == error


def test_times_go_with_the_value(server: Server) -> None:
    server.run("HPEXPIRE h 500 FIELDS 1 a")
    server.run("COPY h copy")
    server.run("RENAME h renamed")
    server.run("HPERSIST copy FIELDS 1 a")
    assert server.run("HPTTL renamed FIELDS 2 a b") == [500, -1]
    entry = server.backend.keyspaces[0].peek(b"renamed")
    assert entry is not None
    server.backend.keyspaces[0].put(b"stored", HASH, unpack(HASH, pack(entry.value)))
    assert server.run("HPTTL stored FIELDS 2 a b") == [500, -1]
