"""Scripts and functions whose keys live on a Redis: what is forwarded, and what goes to all of them."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
import redis

from proxy.commands.spec import FORWARD_ONLY
from tests.homes import toml, wait_for_homes
from tests.rawclient import RawClient, mapping, tree
from tests.servers import RedisServer, RedtierServer, wait_until

pytestmark = pytest.mark.once  # what sends them there is not compiled

OK = b"+OK\r\n"
PREFIXES = {"": "memory", "note:": "sqlite", "far:": "redis", "other:": "second"}
LIBRARY = """#!lua name=lib
redis.register_function('put', function(keys, args) return redis.call('SET', keys[1], args[1]) end)
redis.register_function{
    function_name = 'seven',
    callback = function(keys, args) return 7 end,
    flags = {'no-writes'}
}"""
LOAD = shlex.join(["FUNCTION", "LOAD", "REPLACE", LIBRARY])


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[RedisServer, RedisServer, RedtierServer]]:
    with ExitStack() as stack:
        first, second = stack.enter_context(RedisServer()), stack.enter_context(RedisServer())
        tables = {
            "backends.memory": {"type": "memory"},
            "backends.sqlite": {"type": "sqlite"},
            "backends.redis": {"type": "redis", "url": first.url, "backoff_max": "100ms"},
            "backends.second": {"type": "redis", "url": second.url, "backoff_max": "100ms"},
        }
        redtier = stack.enter_context(RedtierServer(toml(tables, PREFIXES)))
        wait_for_homes(redtier.port, PREFIXES)
        yield first, second, redtier


@pytest.fixture
def first(servers: tuple[RedisServer, RedisServer, RedtierServer]) -> RedisServer:
    return servers[0]


@pytest.fixture
def second(servers: tuple[RedisServer, RedisServer, RedtierServer]) -> RedisServer:
    return servers[1]


@pytest.fixture(params=[2, 3])
def client(
    servers: tuple[RedisServer, RedisServer, RedtierServer], request: pytest.FixtureRequest
) -> Iterator[RawClient]:
    with RawClient(servers[2].port, 2) as two, RawClient(servers[2].port, 3) as three:
        for each in (two, three):  # a test before has restarted a Redis
            wait_until(lambda each=each: each.ask("EXISTS far:a other:a").startswith(b":"))
        client = two if request.param == 2 else three
        client.ask("DEL a note:a far:a far:b other:a")
        client.ask("SCRIPT FLUSH")
        client.ask("FUNCTION FLUSH")
        yield client


def evaluate(client: RawClient, text: str, *arguments: str) -> bytes:
    return client.ask(shlex.join(["EVAL", text, *arguments]))


def load(client: RawClient, text: str) -> str:
    frame = client.ask(shlex.join(["SCRIPT", "LOAD", text]))
    return frame.split(b"\r\n")[1].decode()


INCREMENT = "return redis.call('INCR', KEYS[1])"


class TestScripts:
    def test_run_where_their_keys_are(self, client: RawClient, first: RedisServer) -> None:
        text = "return {redis.call('SET', KEYS[1], ARGV[1]), redis.call('GET', KEYS[1]), KEYS[2]}"
        assert (
            evaluate(client, text, "2", "far:a", "far:b", "x") == b"*3\r\n+OK\r\n$1\r\nx\r\n$5\r\nfar:b\r\n"
        )
        with first.client() as direct:
            assert direct.get("far:a") == b"x"
        refused = evaluate(client, text, "2", "far:a", "other:a", "x")
        assert refused.startswith(b"-CROSSTIER 'eval' needs its keys on one backend")
        read_only = shlex.join(["EVAL_RO", INCREMENT, "1", "far:a"])
        assert client.ask(read_only).startswith(
            b"-ERR Write commands are not allowed from read-only scripts."
        )

    def test_in_order_with_what_else_the_client_sends(self, client: RawClient) -> None:
        sha = load(client, "return redis.call('APPEND', KEYS[1], ARGV[1])")
        lines = [
            f"EVALSHA {sha} 1 {key} {n}" for n in range(3) for key in ("far:a", "a", "other:a", "note:a")
        ]
        client.send("SET far:a x", *lines, "APPEND far:a 3", "GET far:a", "GET a")
        frames = [client.frame() for _ in range(len(lines) + 4)]
        assert frames[-2:] == [b"$5\r\nx0123\r\n", b"$3\r\n012\r\n"]

    @pytest.mark.parametrize("known_by", ["SCRIPT LOAD", "EVAL", "EVAL of memory"])
    def test_are_known_whatever_the_redis_has_forgotten(
        self, known_by: str, client: RawClient, first: RedisServer
    ) -> None:
        sha = "0" * 40
        if known_by == "SCRIPT LOAD":
            sha = load(client, INCREMENT)
        else:
            evaluate(client, INCREMENT, "1", "far:a" if known_by == "EVAL" else "a")
            sha = redis.Redis().register_script(INCREMENT).sha
        client.ask("SET far:a 0")
        assert client.ask(f"EVALSHA {sha} 1 far:a") == b":1\r\n"
        with first.client() as direct:
            direct.script_flush()
        client.send(f"EVALSHA {sha} 1 far:a", "INCR far:a", f"EVALSHA {sha.upper()} 1 far:a")
        assert [client.frame() for _ in range(3)] == [b":2\r\n", b":3\r\n", b":4\r\n"]
        first.stop()
        first.start()
        wait_until(lambda: client.ask("EXISTS far:a") == b":0\r\n")
        assert client.ask(f"EVALSHA {sha} 1 far:a") == b":1\r\n"
        with first.client() as direct:
            direct.script_flush()
        client.ask("MULTI")
        client.ask(f"EVALSHA {sha} 1 far:a")
        evaluate(client, "return redis.call('GET', KEYS[1])", "1", "far:a")
        assert client.ask("EXEC") == b"*2\r\n:2\r\n$1\r\n2\r\n"
        with first.client() as direct:
            direct.script_flush()
        read_only = "return redis.call('GET', KEYS[1])"
        assert client.ask(f"EVALSHA_RO {load(client, read_only)} 1 far:a") == b"$1\r\n2\r\n"

    def test_that_only_the_redis_knows_run_there(self, client: RawClient, first: RedisServer) -> None:
        with first.client() as direct:
            sha = direct.script_load("return 'theirs'")
        assert client.ask(f"EVALSHA {sha} 1 far:a") == b"$6\r\ntheirs\r\n"
        assert client.ask(f"EVALSHA {sha} 1 a").startswith(b"-NOSCRIPT")
        assert client.ask(f"EVALSHA {'f' * 40} 1 far:a").startswith(b"-NOSCRIPT")

    def test_are_loaded_and_forgotten_everywhere(
        self, client: RawClient, first: RedisServer, second: RedisServer
    ) -> None:
        sha = load(client, INCREMENT)
        with first.client() as one, second.client() as two:
            assert (one.script_exists(sha), two.script_exists(sha)) == ([True], [True])
            assert client.ask(f"SCRIPT EXISTS {sha} nosuch") == b"*2\r\n:1\r\n:0\r\n"
            assert client.ask("SCRIPT FLUSH ASYNC") == OK
            assert (one.script_exists(sha), two.script_exists(sha)) == ([False], [False])
        assert client.ask(f"SCRIPT EXISTS {sha}") == b"*1\r\n:0\r\n"
        assert client.ask(f"EVALSHA {sha} 1 far:a").startswith(b"-NOSCRIPT")
        assert client.ask("SCRIPT LOAD x(").startswith(b"-ERR Error compiling script")

    def test_are_loaded_everywhere_in_a_transaction(self, client: RawClient, second: RedisServer) -> None:
        client.send("MULTI", shlex.join(["SCRIPT", "LOAD", INCREMENT]), "EXEC")
        loaded = [client.frame() for _ in range(3)][-1]
        sha = loaded.split(b"\r\n")[2].decode()
        assert client.ask(f"EVALSHA {sha} 1 far:a") == b":1\r\n"
        with second.client() as two:
            wait_until(lambda: two.script_exists(sha) == [True])

    def test_are_loaded_where_one_redis_is_down(self, client: RawClient, second: RedisServer) -> None:
        second.stop()
        try:
            wait_until(lambda: client.ask("GET other:a").startswith(b"-BACKENDDOWN"))
            sha = load(client, INCREMENT)
            assert client.ask(f"EVALSHA {sha} 1 far:a") == b":1\r\n"
        finally:
            second.start()
        wait_until(lambda: client.ask("EXISTS other:a") == b":0\r\n")
        assert client.ask(f"EVALSHA {sha} 1 other:a") == b":1\r\n"


@pytest.mark.parametrize("kill", ["SCRIPT KILL", "FUNCTION KILL"])
def test_what_runs_for_too_long_at_a_redis_is_killed(
    kill: str, client: RawClient, servers: tuple[RedisServer, RedisServer, RedtierServer]
) -> None:
    nothing = client.ask(kill)
    assert nothing.startswith(b"-NOTBUSY")
    first, _, redtier = servers
    endless = "#!lua name=l\nredis.register_function('f', function() while true do end end)"
    client.ask(shlex.join(["FUNCTION", "LOAD", endless]))
    with first.client() as direct, RawClient(redtier.port) as runner:
        direct.config_set("busy-reply-threshold", 1)
        runner.send("FCALL f 1 far:a" if kill[0] == "F" else "EVAL 'while true do end' 1 far:a")
        other = "SCRIPT KILL" if kill[0] == "F" else "FUNCTION KILL"
        wait_until(lambda: client.ask(other).startswith(b"-BUSY"))
        assert client.ask(kill) == OK
        assert b"killed by user" in runner.frame()
        direct.config_set("busy-reply-threshold", 5000)


class TestFunctions:
    def test_are_called_where_their_keys_are(self, client: RawClient, first: RedisServer) -> None:
        assert client.ask(LOAD) == b"$3\r\nlib\r\n"
        for prefix in ("far:", "other:"):
            assert client.ask(f"FCALL put 1 {prefix}a x") == OK
            assert client.ask(f"FCALL_RO seven 1 {prefix}a") == b":7\r\n"
            assert client.ask(f"GET {prefix}a") == b"$1\r\nx\r\n"
        assert client.ask("FCALL seven 0") == b":7\r\n"
        for line in ("FCALL put 1 a x", "FCALL_RO seven 1 note:a"):
            assert b"is served on redis routes only" in client.ask(line)
            client.ask("MULTI")
            assert b"EVAL" in client.ask(line)
            assert client.ask("EXEC").startswith(b"-EXECABORT")
        client.ask("MULTI")
        client.send("FCALL put 1 far:a y", "FCALL seven 0", "EXEC")
        assert [client.frame() for _ in range(3)][-1] == b"*2\r\n+OK\r\n:7\r\n"

    def test_are_kept_alike_everywhere(
        self, client: RawClient, first: RedisServer, second: RedisServer
    ) -> None:
        client.ask(LOAD)
        with first.client() as one, second.client() as two:
            assert one.function_dump() == two.function_dump()
            found = tree(client.ask("FUNCTION LIST"))[1]
            assert [mapping(library)[b"library_name"][1] for library in found] == [b"lib"]
            assert client.ask("FUNCTION DUMP").split(b"\r\n", 1)[1][:-2] == one.function_dump()
            assert b"running_script" in client.ask("FUNCTION STATS")
            two.function_delete("lib")
            refused = client.ask("FUNCTION DELETE lib")
            assert refused == b"-ERR Library not found; another Redis backend has done it\r\n"
            assert client.ask("FUNCTION DELETE lib") == b"-ERR Library not found\r\n"
            client.ask(LOAD)
            assert client.ask("FUNCTION FLUSH") == OK
            assert one.function_list() == two.function_list() == []

    def test_are_not_changed_in_a_transaction(self, client: RawClient, first: RedisServer) -> None:
        client.send("MULTI", LOAD, "EXEC")
        assert b"'function|load'" in [client.frame() for _ in range(3)][-1]
        with first.client() as one:
            assert client.ask("FUNCTION LIST").startswith(b"*0\r\n")  # sent behind what might have been
            assert one.function_list() == []

    def test_are_restored(self, client: RawClient, second: RedisServer) -> None:
        client.ask(LOAD)
        with second.client() as two:
            dump = two.function_dump()
            client.ask("FUNCTION FLUSH")
            words = [b"FUNCTION", b"RESTORE", dump]
            client.socket.sendall(
                b"*3\r\n" + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)
            )
            assert client.frame() == OK
            assert two.function_dump() == dump


def test_without_a_redis_functions_are_refused() -> None:
    text = toml({"backends.memory": {"type": "memory"}}, {"": "memory"})
    with RedtierServer(text) as server, RawClient(server.port) as client:
        for line in ("FUNCTION LIST", LOAD, "FUNCTION KILL", "FCALL f 0", "FCALL f 1 a"):
            assert (
                b"is served on redis routes only, where functions live: here, send the script with EVAL"
                in (client.ask(line))
            )
        client.ask("MULTI")
        assert b"is served on redis routes only" in client.ask("FCALL f 0")
        client.ask("DISCARD")
        assert client.ask("SCRIPT KILL").startswith(b"-NOTBUSY")
    assert all(name.startswith(b"fcall") for name in FORWARD_ONLY)
