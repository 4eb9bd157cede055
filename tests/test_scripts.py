"""Scripts through the whole server: keys that they do not name, and routes that they must not leave."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

import pytest

from tests.homes import toml, wait_for_homes
from tests.rawclient import RawClient
from tests.servers import RedisServer, RedtierServer

OK = b"+OK\r\n"
TABLES = {
    "backends.memory": {"type": "memory"},
    "backends.sqlite": {"type": "sqlite"},
    "scripts": {"timeout": "200ms", "max_memory": "8mb"},
}
PREFIXES = {"": "memory", "note:": "sqlite", "far:": "redis"}


@pytest.fixture(scope="module")
def redtier(redis_server: RedisServer) -> Iterator[RedtierServer]:
    tables = {**TABLES, "backends.redis": {"type": "redis", "url": redis_server.url}}
    with RedtierServer(toml(tables, PREFIXES)) as server:
        wait_for_homes(server.port, PREFIXES)
        yield server


@pytest.fixture
def client(redtier: RedtierServer) -> Iterator[RawClient]:
    with RawClient(redtier.port) as client:
        client.ask("DEL a b note:a note:b far:a")
        yield client


def evaluate(client: RawClient, text: str, *arguments: str) -> bytes:
    return client.ask(shlex.join(["EVAL", text, *(arguments or ("0",))]))


@pytest.mark.parametrize("prefix", ["", "note:"])
class TestKeysThatAreNotNamed:
    def test_are_found_while_the_script_runs(self, prefix: str, client: RawClient) -> None:
        client.ask(f"MSET {prefix}a 1 {prefix}b 2")
        text = f"""
            redis.call('incr', '{prefix}a')
            redis.call('append', '{prefix}b', redis.call('get', '{prefix}a'))
            return redis.call('mget', '{prefix}a', '{prefix}b')
        """
        for _ in range(2):
            client.ask(f"MSET {prefix}a 1 {prefix}b 2")
            assert evaluate(client, text) == b"*2\r\n$1\r\n2\r\n$2\r\n22\r\n"
            assert client.ask(f"MGET {prefix}a {prefix}b") == b"*2\r\n$1\r\n2\r\n$2\r\n22\r\n"

    def test_are_found_beside_one_that_is(self, prefix: str, client: RawClient) -> None:
        client.ask(f"MSET {prefix}a 1 {prefix}b 2")
        text = f"redis.call('set', KEYS[1], 'x') return redis.call('incr', '{prefix}b')"
        assert evaluate(client, text, "1", f"{prefix}a") == b":3\r\n"
        assert client.ask(f"MGET {prefix}a {prefix}b") == b"*2\r\n$1\r\nx\r\n$1\r\n3\r\n"

    def test_must_be_of_the_same_backend(self, prefix: str, client: RawClient) -> None:
        other = "note:b" if not prefix else "b"
        for far in (other, "far:a"):
            text = f"redis.call('set', KEYS[1], 1) return redis.call('set', '{far}', 2)"
            assert evaluate(client, text, "1", f"{prefix}a").startswith(b"-CROSSTIER")
            assert client.ask(f"GET {far}") == b"$-1\r\n"

    def test_may_be_written_to_in_order_with_what_else_the_client_sends(
        self, prefix: str, client: RawClient
    ) -> None:
        text = f"return(redis.call('append','{prefix}a',ARGV[1]))"
        eval_ = shlex.join(["EVAL", text])
        client.send(
            f"SET {prefix}a 0",
            f"{eval_} 0 1",
            f"APPEND {prefix}a 2",
            f"{eval_} 1 {prefix}b 3",
            f"GET {prefix}a",
        )
        assert [client.frame() for _ in range(5)] == [OK, b":2\r\n", b":3\r\n", b":4\r\n", b"$4\r\n0123\r\n"]

    def test_of_a_script_that_was_stopped_are_as_they_were(self, prefix: str, client: RawClient) -> None:
        client.ask(f"SET {prefix}a old")
        text = f"redis.call('set', '{prefix}a', 'new') while true do end"
        assert b"was stopped after 200 ms" in evaluate(client, text)
        assert client.ask(f"GET {prefix}a") == b"$3\r\nold\r\n"


@pytest.mark.parametrize("prefix", ["", "note:"])
@pytest.mark.parametrize("elements", [3, 2000])
def test_a_list_that_a_script_changes_is_changed_once_or_not_at_all(
    prefix: str, elements: int, client: RawClient
) -> None:
    client.ask(shlex.join(["RPUSH", f"{prefix}a", *map(str, range(elements))]))
    push = "redis.call('rpush', KEYS[1], 'x') redis.call('lpop', KEYS[1]) "
    # A key that is not named has to be loaded: it runs twice.
    assert (
        evaluate(client, push + f"return redis.call('exists', '{prefix}b')", "1", f"{prefix}a") == b":0\r\n"
    )
    assert b"was stopped after 200 ms" in evaluate(client, push + "while true do end", "1", f"{prefix}a")
    assert client.ask(f"LLEN {prefix}a") == b":%d\r\n" % elements
    assert client.ask(f"LRANGE {prefix}a -1 -1") == b"*1\r\n$1\r\nx\r\n"
    assert client.ask(f"LINDEX {prefix}a 0") == b"$1\r\n1\r\n"


def test_a_key_on_a_redis_must_be_named(client: RawClient) -> None:
    text = "return redis.call('incr', 'far:a')"
    assert b"name it among the script's keys" in evaluate(client, text)
    client.ask("MULTI")
    evaluate(client, text)
    assert b"name it among the script's keys" in client.ask("EXEC")
    assert evaluate(client, text, "1", "far:a") == b":1\r\n"


@pytest.mark.parametrize("prefix", ["", "note:"])
def test_a_script_in_a_transaction_need_not_name_its_keys(prefix: str, client: RawClient) -> None:
    client.ask("MULTI")
    evaluate(client, f"redis.call('set', '{prefix}a', 1) return redis.call('incr', '{prefix}b')")
    evaluate(client, "return 7")
    client.ask("EVALSHA ffffffffffffffffffffffffffffffffffffffff 0")
    evaluate(client, "return redis.error_reply('-MY own')")
    assert client.ask("EXEC") == (
        b"*4\r\n:1\r\n:7\r\n-NOSCRIPT No matching script. Please use EVAL.\r\n-MY own\r\n"
    )
    assert client.ask(f"MGET {prefix}a {prefix}b") == b"*2\r\n$1\r\n1\r\n$1\r\n1\r\n"


class TestMessages:
    """Of PUBLISH in a script."""

    @pytest.fixture
    def listener(self, redtier: RedtierServer) -> Iterator[RawClient]:
        with RawClient(redtier.port, 3) as listener:
            for command in ("SUBSCRIBE news", "PSUBSCRIBE n*", "SSUBSCRIBE news"):
                listener.ask(command)
            yield listener

    @pytest.mark.parametrize("key", ["a", "note:a", ""])
    @pytest.mark.parametrize("multi", [False, True])
    def test_leave_when_the_changes_are_there(
        self, key: str, multi: bool, client: RawClient, listener: RawClient
    ) -> None:
        text = """
            if KEYS[1] then redis.call('set', KEYS[1], 'x') end
            return {redis.call('publish', 'news', 'a'), redis.call('spublish', 'news', 'b')}
        """
        if multi:
            client.ask("MULTI")
        found = evaluate(client, text, *(("1", key) if key else ("0",)))
        if multi:
            found = client.ask("EXEC").removeprefix(b"*1\r\n")
        assert found == b"*2\r\n:2\r\n:1\r\n"
        frames = [listener.frame() for _ in range(3)]
        assert [frame.split(b"\r\n")[2] for frame in frames] == [b"message", b"pmessage", b"smessage"]

    @pytest.mark.parametrize("prefix", ["", "note:"])
    def test_of_a_script_that_is_stopped_are_not_sent(
        self, prefix: str, client: RawClient, listener: RawClient
    ) -> None:
        text = "redis.call('publish', 'news', 'undone') redis.call('get', KEYS[1]) while true do end"
        assert b"was stopped" in evaluate(client, text, "1", f"{prefix}a")
        evaluate(client, "return redis.call('publish', 'news', 'done')")
        assert b"\r\ndone\r\n" in listener.frame()

    def test_for_a_channel_of_a_redis_are_refused(self, client: RawClient) -> None:
        assert b"channel 'far:c' is routed to Redis" in evaluate(
            client, "return redis.call('publish', 'far:c', 'x')"
        )


def test_keys_in_memory_are_looked_for_with_what_the_script_has_changed() -> None:
    text = toml({"backends.memory": {"type": "memory"}}, {"": "memory"})
    with RedtierServer(text) as server, RawClient(server.port) as alone:
        alone.ask("MSET x1 1 x2 2 y 3")
        text = """
            redis.call('del', 'x1') redis.call('lpush', 'x3', 'a') redis.call('incr', 'x2')
            local keys = redis.call('keys', 'x*')
            table.sort(keys)
            local lists = redis.call('scan', 0, 'type', 'list', 'count', 1)
            return {redis.call('dbsize'), keys, lists, redis.call('exists', redis.call('randomkey'))}
        """
        expected = b"*4\r\n:3\r\n*2\r\n$2\r\nx2\r\n$2\r\nx3\r\n*2\r\n$1\r\n0\r\n*1\r\n$2\r\nx3\r\n:1\r\n"
        assert evaluate(alone, text) == expected
        assert evaluate(alone, "return redis.call('dbsize')") == b":3\r\n"
        assert evaluate(alone, "redis.call('select', 1) return redis.call('randomkey')") == b"$-1\r\n"
        text = "for _, key in ipairs(redis.call('keys', ARGV[1])) do redis.call('del', key) end"
        evaluate(alone, text, "0", "x*")
        assert alone.ask("KEYS *") == b"*1\r\n$1\r\ny\r\n"


def test_a_script_within_a_transaction(client: RawClient) -> None:
    for prefix in ("", "note:"):
        client.ask("MULTI")
        evaluate(client, "return redis.call('set', KEYS[1], 'x')", "1", f"{prefix}a")
        evaluate(client, "return redis.call('incr', KEYS[1])", "1", f"{prefix}b")
        evaluate(
            client,
            "redis.call('incr', KEYS[1]) return redis.call('incr', KEYS[2])",
            "2",
            f"{prefix}b",
            f"{prefix}a",
        )
        found = client.ask("EXEC")
        assert found.startswith(b"*3\r\n+OK\r\n:1\r\n-ERR value is not an integer or out of range script: ")
        assert client.ask(f"GET {prefix}b") == b"$1\r\n2\r\n"


def test_what_speaks_of_all_backends_is_not_called(client: RawClient) -> None:
    for command in ("dbsize", "randomkey", "keys', '*", "scan', '0", "flushall"):
        found = evaluate(client, f"return redis.call('{command}')")
        assert b"it would have to wait for other backends" in found
    assert evaluate(client, "return redis.call('keys', 'b*')").startswith(b"*")
