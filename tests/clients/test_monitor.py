"""MONITOR, beside redis-server's."""

from __future__ import annotations

import re

from tests.rawclient import RawClient
from tests.servers import RedisServer, wait_until

SENT = [
    "SET short:k v",
    'SET short:k "with \\"quotes\\" and \\\\"',
    "get short:k",
    "MULTI",
    "INCR short:n",
    "PING",
    "EXEC",
    "NOSUCH",
    "SELECT 1",
    "DEL short:k",
    "CONFIG GET port",
    "AUTH x y",
    "EVAL 'return 1' 0",
    "EVAL 'return 1' 1 short:k",
    "EVALSHA e0e1f9fabfc9d4800c877a703b823ac0578ff8db 1 short:k",
    "SET working:k v",
    "MGET working:k working:l",
    "WATCH working:k",
    "MULTI",
    "INCR working:n",
    "EXEC",
    "BLPOP working:q 0.01",
    "XREAD BLOCK 1 STREAMS working:s $",
    "EVAL 'return 1' 1 working:k",
    "EVAL_RO 'return 1' 1 working:k",
    "FCALL nosuch 1 working:k",
    "PUBLISH working:c m",
    "WAIT 0 0",
]


def seen(port: int) -> list[bytes]:
    with RawClient(port) as monitor, RawClient(port) as client:
        assert monitor.ask("MONITOR") == b"+OK\r\n"
        client.send(*SENT, "ECHO end")
        lines = [monitor.frame()]
        while b'"end"' not in lines[-1]:
            lines.append(monitor.frame())
    # Not the time and the client's port.
    return [re.sub(rb"^\+[0-9]+\.[0-9]{6} \[([0-9]+) 127\.0\.0\.1:[0-9]+\]", rb"\1", line) for line in lines]


def test_it_shows_what_redis_shows(port: int, redis_server: RedisServer) -> None:
    assert sorted(seen(port)) == sorted(seen(redis_server.port))


def test_bytes_that_are_no_text_are_escaped(port: int) -> None:
    with RawClient(port) as monitor, RawClient(port) as client:
        monitor.ask("MONITOR")
        client.socket.sendall(b"*2\r\n$4\r\nECHO\r\n$6\r\n\x00\xff\r\n\a\b\r\n")
        assert monitor.frame().endswith(rb'"ECHO" "\x00\xff\r\n\a\b"' + b"\r\n")


def test_once_nobody_looks_commands_are_quick_again(port: int) -> None:
    with RawClient(port) as client:
        with RawClient(port) as monitor:
            monitor.ask("MONITOR")
            client.ask("PING")
            assert b'"PING"' in monitor.frame()
        wait_until(lambda: b"flags=O" not in client.ask("CLIENT LIST"))
        assert client.ask("SET short:k v") == b"+OK\r\n"
