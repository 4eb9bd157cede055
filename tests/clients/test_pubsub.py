"""Publish and subscribe: channels of memory, of cold prefixes and of a real Redis, in both protocols."""

from __future__ import annotations

import pytest
import redis

from proxy.resp import encode_command
from tests.homes import PREFIXES
from tests.rawclient import RawClient
from tests.servers import RedisServer, RedtierServer, wait_until

EACH = pytest.mark.parametrize("prefix", PREFIXES.values(), ids=PREFIXES)
KINDS = {2: b"*", 3: b">"}


def bulk(*items: bytes) -> bytes:
    return b"".join(b"$%d\r\n%b\r\n" % (len(item), item) for item in items)


@EACH
@pytest.mark.parametrize("proto", [2, 3])
def test_a_message_reaches_channel_and_pattern(port: int, prefix: str, proto: int) -> None:
    channel = f"{prefix}news".encode()
    pattern = f"{prefix}n*".encode()
    with RawClient(port, proto) as listener, RawClient(port) as speaker:
        kind = KINDS[proto]
        assert (
            listener.ask(f"SUBSCRIBE {prefix}news")
            == kind + b"3\r\n" + bulk(b"subscribe", channel) + b":1\r\n"
        )
        assert (
            listener.ask(f"PSUBSCRIBE {prefix}n*")
            == kind + b"3\r\n" + bulk(b"psubscribe", pattern) + b":2\r\n"
        )
        assert int(speaker.ask(f"PUBLISH {prefix}news hi")[1:]) >= 1
        got = {listener.frame(), listener.frame()}
        assert got == {
            kind + b"3\r\n" + bulk(b"message", channel, b"hi"),
            kind + b"4\r\n" + bulk(b"pmessage", pattern, channel, b"hi"),
        }
        assert listener.ask(f"UNSUBSCRIBE {prefix}news")[-4:] == b":1\r\n"
        speaker.ask(f"PUBLISH {prefix}news again")
        assert listener.frame() == kind + b"4\r\n" + bulk(b"pmessage", pattern, channel, b"again")


@EACH
def test_shard_channels_are_channels_of_their_own(port: int, prefix: str) -> None:
    with RawClient(port) as listener, RawClient(port) as speaker:
        listener.ask(f"SSUBSCRIBE {prefix}c")
        speaker.ask(f"PUBLISH {prefix}c no")
        assert speaker.ask(f"SPUBLISH {prefix}c yes") == b":1\r\n"
        assert listener.frame() == b"*3\r\n" + bulk(b"smessage", f"{prefix}c".encode(), b"yes")


def test_one_pattern_hears_every_home(port: int) -> None:
    with RawClient(port) as listener, RawClient(port) as speaker:
        listener.ask("PSUBSCRIBE *:news")
        for prefix in PREFIXES.values():
            speaker.ask(f"PUBLISH {prefix}news {prefix}")
            channel = f"{prefix}news".encode()
            assert listener.frame() == b"*4\r\n" + bulk(b"pmessage", b"*:news", channel, prefix.encode())


def test_a_client_of_resp3_goes_on_with_commands_while_messages_come(port: int) -> None:
    with RawClient(port, 3) as client:
        client.ask("SUBSCRIBE short:c")
        client.send("SET short:k 1", "PUBLISH short:c hi", "GET short:k")
        frames = [client.frame() for _ in range(4)]
        assert frames == [
            b"+OK\r\n",
            b">3\r\n" + bulk(b"message", b"short:c", b"hi"),
            b":1\r\n",
            b"$1\r\n1\r\n",
        ]


def test_what_a_real_redis_publishes_comes_through_and_what_is_published_here_goes_there() -> None:
    with RedisServer() as upstream:
        config = f"""
            [backends.main]
            type = "redis"
            url = "{upstream.url}"
            [[routes]]
            prefix = ""
            backend = "main"
        """
        with (
            RedtierServer(config) as server,
            RawClient(server.port) as listener,
            RawClient(upstream.port) as there,
        ):
            wait_until(lambda: listener.ask("EXISTS k") == b":0\r\n")
            listener.ask("SUBSCRIBE c")
            assert there.ask("PUBLISH c hi") == b":1\r\n"
            assert listener.frame() == b"*3\r\n" + bulk(b"message", b"c", b"hi")
            listener.ask("UNSUBSCRIBE c")
            wait_until(lambda: there.ask("PUBSUB CHANNELS") == b"*0\r\n")
            there.ask("SUBSCRIBE d")
            with RawClient(server.port) as speaker:
                assert speaker.ask("PUBLISH d ho") == b":1\r\n"
            assert there.frame() == b"*3\r\n" + bulk(b"message", b"d", b"ho")


def test_a_subscription_outlives_its_redis() -> None:
    with RedisServer() as upstream:
        config = f"""
            [backends.main]
            type = "redis"
            url = "{upstream.url}"
            backoff_max = "50ms"
            [[routes]]
            prefix = ""
            backend = "main"
        """
        with RedtierServer(config) as server, RawClient(server.port) as listener:
            wait_until(lambda: listener.ask("EXISTS k") == b":0\r\n")
            listener.ask("SUBSCRIBE c")
            with RawClient(upstream.port) as there:
                there.ask("CLIENT KILL TYPE pubsub")
                wait_until(lambda: there.ask("PUBLISH c hi") == b":1\r\n")
            assert listener.frame() == b"*3\r\n" + bulk(b"message", b"c", b"hi")


def test_a_subscriber_that_leaves_is_forgotten(port: int) -> None:
    with RawClient(port) as speaker:
        with RawClient(port) as listener:
            listener.ask("SUBSCRIBE short:c")
            assert speaker.ask("PUBSUB NUMSUB short:c") == b"*2\r\n$7\r\nshort:c\r\n:1\r\n"
        wait_until(lambda: speaker.ask("PUBLISH short:c hi") == b":0\r\n")


def test_who_is_told_after_a_write_finds_it_written(port: int) -> None:
    with RawClient(port) as listener, RawClient(port) as speaker, RawClient(port) as reader:
        listener.ask("SUBSCRIBE short:c")
        for number in range(20):
            speaker.send(f"SET long:x {number}", f"PUBLISH short:c {number}")
            listener.frame()
            assert reader.ask("GET long:x") == b"$%d\r\n%d\r\n" % (len(str(number)), number)


@EACH
@pytest.mark.parametrize("protocol", [2, 3])
def test_redis_py_listens(port: int, prefix: str, protocol: int) -> None:
    with redis.Redis(port=port, protocol=protocol) as client, client.pubsub() as listener:
        listener.subscribe(f"{prefix}a", f"{prefix}b")
        listener.psubscribe(f"{prefix}*")
        kinds = [listener.get_message(timeout=5)["type"] for _ in range(3)]
        assert kinds == ["subscribe", "subscribe", "psubscribe"]
        client.publish(f"{prefix}b", "hi")
        messages = [listener.get_message(timeout=5) for _ in range(2)]
        assert {message["type"] for message in messages} == {"message", "pmessage"}
        assert {message["data"] for message in messages} == {b"hi"}


def test_a_subscriber_that_does_not_read_is_cut() -> None:
    with (
        RedtierServer('[server]\noutput_buffer_max = "1mb"\n') as server,
        RawClient(server.port) as listener,
        RawClient(server.port) as speaker,
    ):
        listener.ask("SUBSCRIBE c")
        request = encode_command([b"PUBLISH", b"c", b"x" * 500_000])

        def publish() -> bytes:
            speaker.socket.sendall(request)
            return speaker.frame()

        wait_until(lambda: publish() == b":0\r\n")
        assert speaker.ask("PING") == b"+PONG\r\n"
