"""The way of a command through a whole server: order, back-pressure, limits, and how connections end."""

from __future__ import annotations

import random
import re
import socket
import sqlite3
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.config import parse
from proxy.resp import RequestReader, encode_command
from proxy.server import RedtierServer as Served
from proxy.session import Session
from tests import s3
from tests.differential.frames import Incomplete, frame_end
from tests.faultproxy import Direction, FaultProxy
from tests.homes import PREFIXES, Options, config, wait_for_homes
from tests.links import Collector
from tests.rawclient import RawClient
from tests.servers import (
    MotoServer,
    PostgresServer,
    RedisServer,
    RedtierServer,
    free_port,
    make_certificate,
    wait_until,
)

HOT = '[backends.hot]\ntype = "memory"\n[[routes]]\nprefix = ""\nbackend = "hot"\n'
OK = b"+OK\r\n"
NULL = b"$-1\r\n"


@pytest.fixture(scope="module")
def network(postgres: PostgresServer) -> Iterator[FaultProxy]:
    with FaultProxy(postgres.port) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def redtier(
    redis_server: RedisServer, postgres: PostgresServer, s3_moto: MotoServer, network: FaultProxy
) -> Iterator[RedtierServer]:
    url = postgres.url.replace(str(postgres.port), str(network.port))
    options: Options = {
        "server": {"pipeline_max": 64},
        "backends.postgres": {"in_flight_max": 100, "table": "redtier_dispatch", "timeout": "20s"},
        "backends.sqlite": {"in_flight_max": 3},
    }
    with RedtierServer(config(redis_server.url, url, s3.place(s3_moto), options)) as server:
        wait_for_homes(server.port)
        yield server


@pytest.fixture
def stalled(redtier: RedtierServer, network: FaultProxy) -> Iterator[FaultProxy]:
    """Postgres gets nothing until ``resume``."""
    with RawClient(redtier.port) as client:
        assert client.ask("SET long:before 1") == OK  # there is a connection
    network.stall(Direction.UP)
    yield network
    network.resume(Direction.UP)


@pytest.fixture
def client(redtier: RedtierServer) -> Iterator[RawClient]:
    with RawClient(redtier.port) as client:
        yield client


@pytest.fixture
def other(redtier: RedtierServer) -> Iterator[RawClient]:
    with RawClient(redtier.port) as client:
        yield client


def clients_named(client: RawClient, name: str) -> list[dict[str, str]]:
    lines = client.ask("CLIENT LIST").decode().splitlines()
    clients = [dict(re.findall(r"(\S+?)=(\S*)", line)) for line in lines if "=" in line]
    return [each for each in clients if each["name"] == name]


def resident(server: RedtierServer) -> int:
    """Bytes of the server's memory that are in use."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{server.pid}/status").read_text())
    assert found
    return int(found[1]) * 1024


def no_trouble(server: RedtierServer) -> bool:
    log = server.log_tail(limit=1 << 20)
    return "Traceback" not in log and "ERROR" not in log


async def test_a_pipeline_may_come_in_pieces_cut_anywhere() -> None:
    dispatcher = (server := Served(parse(HOT, "test"))).dispatcher
    link = Collector()
    session = Session(1, server, dispatcher, link, RequestReader(1 << 20, 1 << 20, True))
    requests = ["SET a 1", "SET b 22", "SET a 333", "GET a", "GET b", "GET nosuch", "ECHO x", "SET b 1"]
    sent = b"".join(encode_command(request.encode().split()) for request in requests * 20)
    replies = b"+OK\r\n" * 3 + b"$3\r\n333\r\n$2\r\n22\r\n$-1\r\n$1\r\nx\r\n+OK\r\n"
    for _ in range(8):  # until all of them are run by the quick way
        dispatcher.feed(session, sent)
    for first in range(0, len(sent), 7):
        for second in (first + 1, first + 40, len(sent)):
            link.data = b""
            for piece in (sent[:first], sent[first:second], sent[second:]):
                dispatcher.feed(session, piece)
            assert link.data == replies * 20, (first, second)


class TestSkimming:
    """What comes after a command that was forwarded is at first only skimmed."""

    COMMANDS = (
        "SET working:s 1",
        "GET working:s",
        "get working:s",
        "Get working:s",
        "INCR working:s",
        "GET working:s more",
        "GET",
        "GET short:s",
        "SET short:s 2",
        "SET long:s 3",
        "INCRBYFLOAT working:s 0.5",
        "GET long:s",
        "MGET working:s short:s",
        "EXISTS working:s working:t",
        "HSET working:h f v g w",
        "HGETALL working:h",
        "OBJECT ENCODING working:s",
        "NOSUCH working:s",
        "SET working:s v EX 100 NX",
        "SET working:s v EX none",
        "LPUSH working:s x",
        f"RPUSH working:l {' '.join(map(str, range(70)))}",
        "LRANGE working:l 0 1",
        "MULTI",
        "SET working:s 5",
        "EXEC",
        "GET working:s",
    )

    def forget(self, client: RawClient) -> None:
        client.ask("DEL working:s working:h working:l short:s long:s")

    @pytest.mark.parametrize("together", [1, 2, 3, 5, 100])
    def test_replies_are_what_they_are_without_it(
        self, together: int, redtier: RedtierServer, other: RawClient
    ) -> None:
        self.forget(other)
        with RawClient(redtier.port) as client:  # none has come before
            client.send(*self.COMMANDS)
            expected = [client.frame() for _ in self.COMMANDS]
        self.forget(other)
        with RawClient(redtier.port) as client:
            client.ask("GET working:before")
            replies = []
            for first in range(0, len(self.COMMANDS), together):
                some = self.COMMANDS[first : first + together]
                client.send(*some)
                replies += [client.frame() for _ in some]
        assert replies == expected

    def test_the_slow_log_has_all_arguments(self, redtier: RedtierServer, client: RawClient) -> None:
        with redtier.client() as asking:
            asking.slowlog_reset()
            asking.config_set("slowlog-log-slower-than", 0)
            try:
                for number in range(3):
                    assert client.ask(f"SET working:s v{number} EX 100") == OK
            finally:
                asking.config_set("slowlog-log-slower-than", 10_000)
            logged = [entry["command"] for entry in asking.slowlog_get(100)]
        assert [b"SET working:s v%d EX 100" % n for n in range(3)] == [
            command for command in reversed(logged) if command.startswith(b"SET working:s")
        ]


class TestProgramOrder:
    @pytest.mark.parametrize("kind", ["memory", "redis", "sqlite"])
    def test_a_write_waits_until_those_to_other_backends_are_acknowledged(
        self, kind: str, client: RawClient, other: RawClient, stalled: FaultProxy
    ) -> None:
        key = f"{PREFIXES[kind]}after"
        other.ask(f"DEL {key}")
        client.send("SET long:first 1", f"SET {key} 1")
        wait_until(lambda: stalled.held(Direction.UP))
        for _ in range(5):
            assert other.ask(f"GET {key}") == NULL
            assert other.ask("SET working:theirs 1") == OK  # nobody else is held up
        stalled.resume(Direction.UP)
        assert [client.frame(), client.frame()] == [OK, OK]
        assert other.ask(f"GET {key}") == b"$1\r\n1\r\n"
        assert other.ask("GET long:first") == b"$1\r\n1\r\n"

    @pytest.mark.parametrize("proto", [2, 3])
    def test_a_message_goes_behind_the_replies_that_are_due(
        self, proto: int, redtier: RedtierServer, other: RawClient, stalled: FaultProxy
    ) -> None:
        with RawClient(redtier.port, proto) as client:
            client.send("SET long:first 1", "SUBSCRIBE channel")
            wait_until(lambda: other.ask("PUBLISH channel early") == b":1\r\n")
            stalled.resume(Direction.UP)
            told = [client.frame() for _ in range(3)]
        kind = b"*" if proto == 2 else b">"
        assert told[0] == OK
        assert told[1] == kind + b"3\r\n$9\r\nsubscribe\r\n$7\r\nchannel\r\n:1\r\n"
        assert told[2] == kind + b"3\r\n$7\r\nmessage\r\n$7\r\nchannel\r\n$5\r\nearly\r\n"

    def test_a_read_overlaps_writes_to_other_backends(
        self, client: RawClient, stalled: FaultProxy, redis_server: RedisServer
    ) -> None:
        def reads() -> int:
            with closing(redis_server.client()) as direct:
                stats = direct.info("commandstats")
            return int(stats.get("cmdstat_strlen", {"calls": 0})["calls"])

        before = reads()
        client.send("SET long:first 1", "STRLEN working:any")
        wait_until(lambda: reads() > before)
        assert stalled.held(Direction.UP)
        stalled.resume(Direction.UP)
        assert [client.frame(), client.frame()] == [OK, b":0\r\n"]

    @pytest.mark.parametrize("proto", [2, 3])
    def test_a_split_write_and_the_read_after_it_take_the_same_lane(
        self, proto: int, redtier: RedtierServer
    ) -> None:
        """The lane of RESP3 is there and the one of RESP2 would have to be connected, and the reverse."""
        with RawClient(redtier.port, proto) as client:
            client.ask(f"SELECT {proto + 5}")
            client.ask("SET working:a old")
            client.send("MSET working:a new short:a new", "GET working:a", "MGET short:a working:a nothing")
            assert [client.frame(), client.frame()] == [OK, b"$3\r\nnew\r\n"]
            null = NULL if proto == 2 else b"_\r\n"
            assert client.frame() == b"*3\r\n$3\r\nnew\r\n$3\r\nnew\r\n" + null

    def test_commands_on_one_cold_key_keep_their_order_in_a_pipeline(self, client: RawClient) -> None:
        client.send("DEL note:n", *["INCR note:n", "GET note:n"] * 200)
        client.frame()
        for n in range(1, 201):
            assert client.frame() == b":%d\r\n" % n
            assert client.frame() == b"$%d\r\n%d\r\n" % (len(str(n)), n)

    def test_what_speaks_for_all_backends_comes_in_its_turn(self, client: RawClient) -> None:
        client.send("SET long:turn 1", "KEYS *:turn", "DEL long:turn", "KEYS *:turn")
        assert client.frame() == OK
        assert client.frame() == b"*1\r\n$9\r\nlong:turn\r\n"
        assert client.frame() == b":1\r\n"
        assert client.frame() == b"*0\r\n"


KEYS = [prefix + name for kind, prefix in PREFIXES.items() if kind != "s3" for name in ("a", "b")]
key = st.sampled_from(KEYS)
value = st.sampled_from(["0", "7", "text", "x" * 100])
command = st.one_of(
    st.tuples(st.sampled_from(["GET", "INCR", "STRLEN", "TTL", "TYPE", "GETDEL", "PERSIST"]), key),
    st.tuples(st.sampled_from(["SET", "APPEND", "SETNX", "GETSET"]), key, value),
    st.tuples(st.just("SET"), key, value, st.sampled_from(["GET", "NX", "XX", "KEEPTTL", "WRONG"])),
    st.tuples(st.just("EXPIRE"), key, st.sampled_from(["1000", "-1", "x"])),
    st.lists(key, min_size=1, max_size=5).map(lambda keys: ("MGET", *keys)),
    st.lists(key, min_size=1, max_size=5).map(lambda keys: ("DEL", *keys)),
    st.lists(key, min_size=1, max_size=5).map(lambda keys: ("EXISTS", *keys)),
    st.lists(st.tuples(key, value), min_size=1, max_size=4).map(lambda pairs: ("MSET", *sum(pairs, ()))),
    st.tuples(st.sampled_from(["RENAME", "RENAMENX", "COPY"]), key, key),
    st.tuples(st.just("COPY"), key, key, st.just("REPLACE")),
    st.sampled_from(
        [("PING",), ("ECHO", "hello"), ("GET",), ("NOSUCH", "x"), ("MSET", "short:a"), ("DBSIZE",)]
    ),
)
Command = tuple[str, ...]


class Wire:
    """A connection that sends bytes and tells replies apart, reading while it writes."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), 20)

    def replies(self, data: bytes, count: int) -> list[bytes]:
        writer = threading.Thread(target=self.socket.sendall, args=(data,))
        writer.start()
        found: list[bytes] = []
        buffer = bytearray()
        while len(found) < count:
            try:
                end = frame_end(buffer)
            except Incomplete:
                chunk = self.socket.recv(1 << 18)
                assert chunk, f"closed after {len(found)} of {count} replies"
                buffer += chunk
            else:
                found.append(bytes(buffer[:end]))
                del buffer[:end]
        writer.join(20)
        assert not buffer
        return found


@pytest.fixture(scope="module")
def both(redtier: RedtierServer, redis_server: RedisServer) -> Iterator[tuple[Wire, Wire]]:
    """redtier, and a redis-server of its own that says what is right."""
    with RedisServer() as judge:
        ours, theirs = Wire(redtier.port), Wire(judge.port)
        with ours.socket, theirs.socket:
            yield ours, theirs


def agree(both: tuple[Wire, Wire], commands: list[Command], inline: set[int]) -> None:
    clean = encode_command([b"DEL", *map(str.encode, KEYS)])
    sent = [
        " ".join(line).encode() + b"\r\n"
        if at in inline
        else encode_command([word.encode() for word in line])
        for at, line in enumerate(commands)
        if line[0] != "DBSIZE"  # others' keys count here
    ]
    ours, theirs = [wire.replies(clean + b"".join(sent), 1 + len(sent))[1:] for wire in both]
    for line, one, two in zip([each for each in commands if each[0] != "DBSIZE"], ours, theirs, strict=True):
        assert one == two, f"{line} in {commands}"


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(command, min_size=1, max_size=60), st.sets(st.integers(0, 60)))
def test_replies_are_those_of_redis_in_their_order(
    both: tuple[Wire, Wire], commands: list[Command], inline: set[int]
) -> None:
    agree(both, commands, inline)


def test_thousands_of_commands_in_one_pipeline(both: tuple[Wire, Wire]) -> None:
    chance = random.Random(7)
    commands: list[Command] = []
    for _ in range(4000):
        one, two = chance.sample(KEYS, 2)
        line: Command = chance.choice(
            [
                ("SET", one, str(chance.randint(0, 99))),
                ("GET", one),
                ("INCR", one),
                ("MGET", one, two, one),
                ("MSET", one, "1", two, "2"),
                ("DEL", one, two),
                ("PING",),
                ("GET",),
                ("COPY", one, two, "REPLACE") if chance.random() < 0.1 else ("APPEND", one, "0"),
            ]
        )
        commands.append(line)
    agree(both, commands, {n for n in range(4000) if chance.random() < 0.1})


class TestBackPressure:
    def test_a_backend_that_is_slow_holds_up_only_those_who_ask_it(
        self, client: RawClient, other: RawClient, stalled: FaultProxy
    ) -> None:
        client.send(*["GET long:any", "GET short:any"] * 300)  # more than in_flight_max and pipeline_max
        wait_until(lambda: stalled.held(Direction.UP))
        began = time.monotonic()
        for _ in range(20):
            assert other.ask("SET short:hot 1") == OK
            assert other.ask("GET note:any") == NULL
        assert time.monotonic() - began < 5
        stalled.resume(Direction.UP)
        assert [client.frame() for _ in range(600)] == [NULL] * 600

    def test_more_than_a_backend_takes_at_once(self, redtier: RedtierServer) -> None:
        """``in_flight_max`` is 3 there: ten clients wait for each other again and again."""
        wires = [Wire(redtier.port) for _ in range(10)]
        requests = [[b"SET", b"note:many%d" % n, b"v"] for n in range(100)]
        data = b"".join(map(encode_command, requests))
        found: list[list[bytes]] = []
        threads = [
            threading.Thread(target=lambda wire=wire: found.append(wire.replies(data, 100))) for wire in wires
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        for wire in wires:
            wire.socket.close()
        assert found == [[OK] * 100] * 10

    def test_room_is_used_also_where_the_reply_that_made_it_can_not_leave_yet(
        self, redtier: RedtierServer, client: RawClient, stalled: FaultProxy
    ) -> None:
        def rows() -> int:  # not asked of redtier, which any command would wake
            with closing(sqlite3.connect(redtier.directory / "redtier.db")) as database:
                query = "select count(*) from redtier where key between ? and ?"
                return int(database.execute(query, (b"note:room0", b"note:room9")).fetchone()[0])

        client.send("GET long:stuck", *[f"SET note:room{n} 1" for n in range(10)])
        wait_until(lambda: rows() == 10)
        stalled.resume(Direction.UP)
        assert [client.frame() for _ in range(11)] == [NULL, *[OK] * 10]

    def test_replies_behind_one_that_is_awaited_are_bounded(
        self, redtier: RedtierServer, other: RawClient, stalled: FaultProxy
    ) -> None:
        other.ask(f"SET short:big {'x' * 100_000}")
        before = resident(redtier)
        with RawClient(redtier.port) as client:
            client.ask("CLIENT SETNAME greedy")
            client.send("GET long:stuck", *["GET short:big"] * 2000)
            wait_until(lambda: int(clients_named(other, "greedy")[0]["oll"]) > 5)
            assert resident(redtier) - before < 50_000_000
            stalled.resume(Direction.UP)
            assert client.frame() == NULL
            left = 2000 * (100_000 + len(b"$100000\r\n\r\n")) - len(client.data)
            while left > 0:
                left -= len(client.socket.recv(1 << 20))
            assert left == 0


class TestEndings:
    def test_a_client_that_leaves_has_its_writes_done_all_the_same(
        self, redtier: RedtierServer, other: RawClient, stalled: FaultProxy
    ) -> None:
        other.ask("DEL short:left")
        with RawClient(redtier.port) as client:
            client.ask("CLIENT SETNAME leaver")
            client.send("SET long:left 1", "GET long:left", "KEYS *", "SET short:left 1")
            wait_until(lambda: stalled.held(Direction.UP))
        stalled.resume(Direction.UP)
        wait_until(lambda: not clients_named(other, "leaver"))
        assert other.ask("GET long:left") == b"$1\r\n1\r\n"
        assert no_trouble(redtier)

    def test_a_client_that_sends_no_more_gets_what_is_due(
        self, client: RawClient, other: RawClient, stalled: FaultProxy
    ) -> None:
        client.send("SET long:half 1", "GET short:none", "GET long:half")
        client.socket.shutdown(socket.SHUT_WR)
        wait_until(lambda: stalled.held(Direction.UP))
        stalled.resume(Direction.UP)
        assert [client.frame() for _ in range(3)] == [OK, NULL, b"$1\r\n1\r\n"]
        assert client.is_closed()

    def test_also_where_it_has_sent_more_than_may_wait(self, client: RawClient) -> None:
        client.send(*["INCR note:half", "GET working:none"] * 1000)
        client.socket.shutdown(socket.SHUT_WR)
        found = [client.frame() for _ in range(2000)]
        assert [frame[:1] for frame in found] == [b":", b"$"] * 1000
        assert client.is_closed()

    def test_a_tls_client_leaves_without_a_word_in_the_log(self, tmp_path: Path) -> None:
        files = make_certificate(tmp_path)
        port = free_port()
        options = f'[server.tls]\nlisten = ["127.0.0.1:{port}"]\ncert = "{files.cert}"\nkey = "{files.key}"\n'
        with RedtierServer(options + HOT) as server:
            context = ssl.create_default_context(cafile=str(files.cert))
            connection = socket.create_connection(("127.0.0.1", port), 10)
            with context.wrap_socket(connection, server_hostname="localhost") as secure:
                secure.sendall(b"PING\r\n")
                assert secure.recv(100) == b"+PONG\r\n"
                with suppress(OSError):
                    secure.unwrap()
            with RawClient(server.port) as client:
                wait_until(lambda: len(client.ask("CLIENT LIST").splitlines()) == 3)
            assert "eof_received" not in server.log_tail()

    def test_after_a_protocol_error_what_was_asked_before_is_answered(
        self, client: RawClient, stalled: FaultProxy
    ) -> None:
        client.socket.sendall(b"GET long:none\r\n*1\r\n+x\r\nPING\r\n")
        wait_until(lambda: stalled.held(Direction.UP))
        stalled.resume(Direction.UP)
        assert client.frame() == NULL
        assert client.frame().startswith(b"-ERR Protocol error: expected '$', got '+'")
        assert client.is_closed()


class TestModes:
    def test_replies_that_are_off(self, client: RawClient) -> None:
        client.send("CLIENT REPLY OFF", "SET note:r 1", "GET note:r", "INCR working:r", "CLIENT REPLY ON")
        assert client.frame() == OK
        assert client.ask("GET note:r") == b"$1\r\n1\r\n"

    def test_a_reply_that_is_skipped(self, client: RawClient) -> None:
        client.send("SET note:r 1", "CLIENT REPLY SKIP", "INCR note:r", "INCR note:r", "PING")
        assert [client.frame() for _ in range(3)] == [OK, b":3\r\n", b"+PONG\r\n"]
        client.send("CLIENT REPLY SKIP", "KEYS *", "GET short:none")
        assert client.frame() == NULL

    def test_a_pause_of_writes_holds_them_in_their_order(self, redtier: RedtierServer) -> None:
        with RawClient(redtier.port) as writer, RawClient(redtier.port) as boss:
            writer.ask("SET short:p 1")
            assert boss.ask("CLIENT PAUSE 20000 WRITE") == OK
            writer.send("GET short:p", "INCR short:p", "GET short:p")
            assert writer.frame() == b"$1\r\n1\r\n"
            with RawClient(redtier.port) as newcomer:
                newcomer.send("SET short:q 1")
                newcomer.send("FLUSHALL")
                assert boss.ask("GET short:p") == b"$1\r\n1\r\n"
                assert boss.ask("CLIENT UNPAUSE") == OK
                assert newcomer.frame() == OK
                assert newcomer.frame().startswith(b"-ERR backend ")  # not flushable
            assert [writer.frame(), writer.frame()] == [b":2\r\n", b"$1\r\n2\r\n"]

    def test_a_pause_ends_by_itself(self, client: RawClient) -> None:
        assert client.ask("CLIENT PAUSE 50") == OK
        assert client.ask("SET short:p 1") == OK


@pytest.fixture(scope="module")
def limited() -> Iterator[RedtierServer]:
    options = 'max_clients = 3\nidle_timeout = "300ms"\nquery_buffer_max = "1mb"\n'
    with RedtierServer(f"[server]\n{options}{HOT}") as server:
        yield server


class TestLimits:
    def test_too_many_clients(self, limited: RedtierServer) -> None:
        clients = [RawClient(limited.port) for _ in range(3)]
        try:
            assert [client.ask("PING") for client in clients] == [b"+PONG\r\n"] * 3
            with RawClient(limited.port) as fourth:
                assert fourth.frame() == b"-ERR max number of clients reached\r\n"
                assert fourth.is_closed()
        finally:
            for client in clients:
                client.socket.close()

    def test_a_client_that_is_idle_is_closed(self, limited: RedtierServer) -> None:
        with RawClient(limited.port) as client:
            assert client.ask("PING") == b"+PONG\r\n"
            assert client.is_closed()

    def test_an_unfinished_request(self, limited: RedtierServer) -> None:
        with RawClient(limited.port) as client:
            client.socket.sendall(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1048577\r\n")
            assert client.frame().startswith(b"-ERR Protocol error: request is larger than query_buffer_max")
            assert client.is_closed()

    def test_a_stranger_may_send_little(self) -> None:
        with RedtierServer(f'[server]\npassword = "secret"\n{HOT}') as server:
            with RawClient(server.port) as client:
                client.socket.sendall(b"*2\r\n$4\r\nECHO\r\n$16385\r\n")
                assert client.frame() == b"-ERR Protocol error: unauthenticated bulk length\r\n"
            with RawClient(server.port) as client:
                big = "x" * 100_000
                client.send("AUTH secret", f"SET k {big}", "STRLEN k")
                assert [client.frame() for _ in range(3)] == [OK, OK, b":100000\r\n"]


class TestStopping:
    def server(self, postgres: PostgresServer, network: FaultProxy, drain: str) -> RedtierServer:
        url = postgres.url.replace(str(postgres.port), str(network.port))
        return RedtierServer(
            f'[server]\ndrain_timeout = "{drain}"\n[backends.archive]\ntype = "postgres"\nurl = "{url}"\n'
            'table = "redtier_stopping"\n[[routes]]\nprefix = ""\nbackend = "archive"\n'
        )

    def test_what_is_in_flight_is_answered(self, postgres: PostgresServer) -> None:
        with FaultProxy(postgres.port) as network, self.server(postgres, network, "10s") as server:
            wait_for_homes(server.port, ["any:"])
            with RawClient(server.port) as client:
                assert client.ask("SET before 1") == OK
                network.stall(Direction.UP)
                client.send(*[f"INCR stopping{n}" for n in range(100)])
                wait_until(lambda: network.held(Direction.UP))
                threading.Timer(0.3, network.resume, [Direction.UP]).start()
                began = time.monotonic()
                assert server.stop() == 0
                assert time.monotonic() - began < 5
                found = [client.frame() for _ in range(100)]
            assert {frame[:1] for frame in found} == {b":"}
            assert no_trouble(server)

    def test_a_backend_that_is_stuck_does_not_keep_it(self, postgres: PostgresServer) -> None:
        with (
            FaultProxy(postgres.port) as network,
            self.server(postgres, network, "500ms") as server,
            RawClient(server.port) as client,
        ):
            wait_for_homes(server.port, ["any:"])
            assert client.ask("SET before 1") == OK
            network.stall(Direction.UP)
            client.send("INCR stopping")
            wait_until(lambda: network.held(Direction.UP))
            began = time.monotonic()
            assert server.stop() == 0
            assert time.monotonic() - began < 4
