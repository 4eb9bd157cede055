"""AUTH, CLIENT, HELLO and the like: byte for byte as redis-server 7.0 answers them."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

import pytest
import redis

from tests.rawclient import RawClient
from tests.servers import RedisServer, RedtierServer, wait_until

HOT = """
[backends.hot]
type = "memory"
[[routes]]
prefix = ""
backend = "hot"
"""


@pytest.fixture(scope="module")
def redtier() -> Iterator[RedtierServer]:
    with RedtierServer(HOT) as server:
        yield server


@pytest.fixture(scope="module")
def small() -> Iterator[RedtierServer]:
    with RedtierServer(HOT.replace('"memory"', '"memory"\nmax_bytes = "1mb"')) as server:
        yield server


@pytest.fixture(scope="module")
def locked() -> Iterator[tuple[RedtierServer, RedisServer]]:
    """Both servers with the password "secret"."""
    with (
        RedtierServer(f'[server]\npassword = "secret"\n{HOT}') as ours,
        RedisServer(password="secret") as theirs,
    ):
        yield ours, theirs


def answers(port: int, lines: str, proto: int) -> list[bytes]:
    """The replies to each line, but for the connection's number, which differs from server to server."""
    with RawClient(port, proto) as client:
        replies = [client.ask(line) for line in lines.strip().splitlines()]
    return [re.sub(rb"(\r\nid\r\n):\d+", rb"\1:1", reply) for reply in replies]


SEQUENCES = {
    "PING and ECHO": """
        PING
        PING ""
        ping hello
        PING a b
        ECHO hello
        ECHO
        ECHO a b
    """,
    "SELECT": """
        SELECT 15
        SELECT 16
        SELECT -1
        SELECT x
        SELECT 99999999999
        SELECT
        SELECT 0
    """,
    "AUTH where there is no password": """
        AUTH
        AUTH any
        AUTH default any
        AUTH other any
        AUTH default any more
    """,
    "HELLO": """
        HELLO
        HELLO 2
        HELLO 3
        HELLO 3 SETNAME me
        CLIENT GETNAME
        HELLO 2 AUTH default any SETNAME you
        CLIENT GETNAME
        hello 3 setname "" auth default any
        CLIENT GETNAME
        HELLO
    """,
    "HELLO refused": """
        HELLO x
        HELLO 1
        HELLO 4
        HELLO 3 AUTH default
        HELLO 3 SETNAME
        HELLO 3 SETNAME "a b"
        HELLO 3 NO option
        HELLO 3 AUTH other any
        HELLO 3 SETNAME me NO
    """,
    "names": """
        CLIENT GETNAME
        CLIENT SETNAME me
        CLIENT GETNAME
        CLIENT SETNAME "a b"
        CLIENT SETNAME "a\tb"
        CLIENT SETNAME é
        CLIENT GETNAME
        CLIENT SETNAME ""
        CLIENT GETNAME
        CLIENT SETNAME
        CLIENT GETNAME x
    """,
    "CLIENT LIST refused": """
        CLIENT LIST TYPE
        CLIENT LIST TYPE other
        CLIENT LIST TYPE normal pubsub
        CLIENT LIST TYPE master
        CLIENT LIST TYPE replica
        CLIENT LIST TYPE SLAVE
        CLIENT LIST TYPE pubsub
        CLIENT LIST ID
        CLIENT LIST ID x
        CLIENT LIST ID 999999
        CLIENT LIST OTHER
        CLIENT INFO x
        CLIENT ID x
    """,
    "CLIENT KILL of nobody": """
        CLIENT KILL 127.0.0.1:1
        CLIENT KILL ID
        CLIENT KILL ID x
        CLIENT KILL ID 0
        CLIENT KILL ID 999999
        CLIENT KILL ID 999999 TYPE normal ADDR 127.0.0.1:1 LADDR 127.0.0.1:1 USER default SKIPME yes
        CLIENT KILL TYPE other
        CLIENT KILL TYPE pubsub
        CLIENT KILL USER other
        CLIENT KILL SKIPME other
        CLIENT KILL OTHER x
        CLIENT KILL ID 1 TYPE
        CLIENT KILL
    """,
    "CLIENT PAUSE": """
        CLIENT PAUSE x
        CLIENT PAUSE 1.5
        CLIENT PAUSE -1
        CLIENT PAUSE 1 other
        CLIENT PAUSE 1 WRITE more
        CLIENT PAUSE
        CLIENT PAUSE 0
        CLIENT PAUSE 10000000 write
        CLIENT UNPAUSE
        CLIENT UNPAUSE x
        SET k v
    """,
    "CLIENT NO-EVICT and REPLY": """
        CLIENT NO-EVICT on
        CLIENT NO-EVICT OFF
        CLIENT NO-EVICT other
        CLIENT NO-EVICT
        CLIENT REPLY on
        CLIENT REPLY other
        CLIENT REPLY
    """,
    "CLIENT without a subcommand that there is": """
        CLIENT
        CLIENT OTHER
        CLIENT HELP x
    """,
    "RESET": """
        HELLO 3 SETNAME me
        SELECT 3
        SET k v
        RESET
        CLIENT GETNAME
        GET k
        HELLO
        RESET x
    """,
    "SCRIPT DEBUG": """
        SCRIPT DEBUG NO
        SCRIPT DEBUG no
        SCRIPT DEBUG other
        SCRIPT DEBUG
    """,
    "ACL WHOAMI": """
        ACL WHOAMI
        ACL WHOAMI x
    """,
}


@pytest.mark.parametrize("proto", [2, 3])
@pytest.mark.parametrize("title", SEQUENCES)
def test_answers_are_those_of_redis(
    title: str, proto: int, redtier: RedtierServer, redis_server: RedisServer
) -> None:
    lines = SEQUENCES[title]
    assert answers(redtier.port, lines, proto) == answers(redis_server.port, lines, proto)


LOCKED = {
    "a stranger may do nothing but authenticate": """
        PING
        HELLO
        HELLO 3
        CLIENT ID
        NOSUCH
        GET
        GET k
        RESET
        AUTH wrong
        AUTH default wrong
        AUTH other secret
        AUTH default
        AUTH secret secret secret
        PING
    """,
    "AUTH": """
        AUTH secret
        PING
        AUTH wrong
        PING
        AUTH default secret
    """,
    "HELLO with AUTH": """
        HELLO 3 AUTH default wrong
        PING
        HELLO 3 AUTH default secret SETNAME me
        CLIENT GETNAME
        HELLO 2
    """,
    "RESET takes the authentication away": """
        AUTH secret
        RESET
        PING
        AUTH secret
        PING
    """,
}


@pytest.mark.parametrize("title", LOCKED)
def test_a_password_is_asked_for_as_redis_asks(title: str, locked: tuple[RedtierServer, RedisServer]) -> None:
    ours, theirs = locked
    lines = LOCKED[title]
    assert answers(ours.port, lines, 2) == answers(theirs.port, lines, 2)


def everything(port: int, lines: list[str]) -> bytes:
    """All that comes back for a pipeline."""
    with RawClient(port) as client:
        client.send(*lines, "CLIENT REPLY ON", "QUIT", "PING")
        data = client.data
        while chunk := client.socket.recv(65536):
            data += chunk
    return data


@pytest.mark.parametrize(
    "lines",
    [
        ["CLIENT REPLY OFF", "PING", "NOSUCH", "CLIENT REPLY ON", "PING"],
        ["CLIENT REPLY SKIP", "PING", "ECHO a"],
        ["CLIENT REPLY SKIP", "SET k v", "GET k"],
        ["CLIENT REPLY SKIP", "CLIENT REPLY SKIP", "ECHO a", "ECHO b"],
        ["CLIENT REPLY SKIP", "CLIENT REPLY OFF", "ECHO a", "CLIENT REPLY SKIP", "ECHO b", "ECHO c"],
        ["CLIENT REPLY SKIP", "DBSIZE", "ECHO a"],
        ["CLIENT REPLY OFF", "KEYS *", "RESET", "ECHO a"],
        ["CLIENT REPLY OFF", "CLIENT REPLY other", "GET", "NOSUCH"],
    ],
)
def test_replies_are_kept_back_as_redis_does(
    lines: list[str], redtier: RedtierServer, redis_server: RedisServer
) -> None:
    assert everything(redtier.port, lines) == everything(redis_server.port, lines)


def described(client: RawClient, line: str) -> list[dict[str, str]]:
    """CLIENT LIST's or INFO's clients by field."""
    text = client.ask(line).split(b"\r\n", 1)[1].decode()
    return [
        dict(field.split("=", 1) for field in client_line.split(" "))
        for client_line in text.strip().splitlines()
    ]


def test_client_list_has_the_fields_of_redis_7(redtier: RedtierServer, redis_server: RedisServer) -> None:
    with RawClient(redtier.port) as ours, RawClient(redis_server.port) as theirs:
        fields = list(described(theirs, "CLIENT INFO")[0])
        assert list(described(ours, "CLIENT INFO")[0]) == [
            *fields,
            "lib-name",
            "lib-ver",  # of Redis 7.2
            "tot-net-in",
            "tot-net-out",  # of Redis 8
        ]


def test_a_client_is_described(redtier: RedtierServer) -> None:
    with RawClient(redtier.port) as client, RawClient(redtier.port, 3) as other:
        for line in (
            "CLIENT SETNAME me",
            "SELECT 5",
            "CLIENT SETINFO LIB-NAME redis-py(x)",
            "client setinfo lib-ver 8.1",
            "CLIENT NO-EVICT ON",
            "CLIENT NO-TOUCH ON",
        ):
            assert client.ask(line) == b"+OK\r\n"
        own = described(client, "CLIENT INFO")[0]
        assert own | {"age": "0", "idle": "0"} == own | {
            "addr": client.address,
            "laddr": f"127.0.0.1:{redtier.port}",
            "name": "me",
            "age": "0",
            "idle": "0",
            "flags": "eT",
            "db": "5",
            "cmd": "client|info",
            "user": "default",
            "resp": "2",
            "lib-name": "redis-py(x)",
            "lib-ver": "8.1",
        }
        assert int(own["fd"]) > 2
        listed = {each["addr"]: each for each in described(client, "CLIENT LIST")}
        assert listed[client.address]["id"] == own["id"]
        assert listed[other.address]["resp"] == "3"
        ids = f"{listed[other.address]['id']} {own['id']}"
        assert [each["name"] for each in described(client, f"CLIENT LIST ID {ids} 999999")] == ["", "me"]
        assert len(described(client, "CLIENT LIST TYPE normal")) == len(listed)


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (
            "CLIENT SETINFO LIB-NAME 'a b'",
            "LIB-NAME cannot contain spaces, newlines or special characters.",
        ),
        ("CLIENT SETINFO lib-ver 'a\nb'", "lib-ver cannot contain spaces, newlines or special characters."),
        ("CLIENT SETINFO LIB-OTHER x", "Unrecognized option 'LIB-OTHER'"),
        ("CLIENT NO-TOUCH x", "syntax error"),
        ("CLIENT NO-TOUCH", "wrong number of arguments for 'client|no-touch' command"),
        ("CLIENT KILL MAXAGE x", "maxage is not an integer or out of range"),
        ("CLIENT KILL MAXAGE 0", "maxage should be greater than 0"),
    ],
)
def test_what_later_redis_versions_refuse(line: str, error: str, redtier: RedtierServer) -> None:
    with RawClient(redtier.port) as client:
        assert client.ask(line) == f"-ERR {error}\r\n".encode()


@pytest.mark.parametrize(
    ("line", "reply"),
    [
        ("CLIENT KILL {address}", b"+OK\r\n"),
        ("CLIENT KILL ID {id}", b":1\r\n"),
        ("CLIENT KILL ADDR {address}", b":1\r\n"),
        ("CLIENT KILL ADDR 127.0.0.1:1 ADDR {address} USER default TYPE normal", b":1\r\n"),
    ],
)
def test_a_client_is_killed(line: str, reply: bytes, redtier: RedtierServer) -> None:
    with RawClient(redtier.port) as client, RawClient(redtier.port) as doomed:
        id = doomed.ask("CLIENT ID")[1:-2].decode()
        client.send(line.format(address=doomed.address, id=id), f"CLIENT KILL ID {id}", "PING")
        assert client.frame() == reply
        assert client.frame() == b":0\r\n"  # it is killed once
        assert client.frame() == b"+PONG\r\n"
        assert doomed.is_closed()
        assert described(client, f"CLIENT LIST ID {id}") == []


@pytest.mark.parametrize(
    ("line", "reply"),
    [("CLIENT KILL {address}", b"+OK\r\n"), ("CLIENT KILL ADDR {address} SKIPME no", b":1\r\n")],
)
def test_who_kills_itself_is_answered_first(line: str, reply: bytes, redtier: RedtierServer) -> None:
    with RawClient(redtier.port) as client:
        client.send(line.format(address=client.address), "PING")
        assert client.frame() == reply
        assert client.is_closed()


def test_all_others_are_killed_by_their_local_address(redtier: RedtierServer) -> None:
    with (
        RawClient(redtier.port) as client,
        RawClient(redtier.port) as first,
        RawClient(redtier.port) as second,
    ):
        for each in (first, second):
            each.ask("PING")
        assert int(client.ask(f"CLIENT KILL LADDR 127.0.0.1:{redtier.port}")[1:-2]) >= 2
        assert first.is_closed()
        assert second.is_closed()
        assert client.ask("CLIENT KILL MAXAGE 3600") == b":0\r\n"


def test_quit_is_the_last_that_is_answered(redtier: RedtierServer) -> None:
    with RawClient(redtier.port) as client:
        client.send("PING", "QUIT now", "PING")
        assert [client.frame(), client.frame()] == [b"+PONG\r\n", b"+OK\r\n"]
        assert client.is_closed()


def test_who_quits_without_replies_gets_none(redtier: RedtierServer) -> None:
    with RawClient(redtier.port) as client:
        client.send("CLIENT REPLY OFF", "PING", "QUIT", "PING")
        assert client.is_closed()


def test_a_pause_holds_writes_until_it_is_over(redtier: RedtierServer) -> None:
    with RawClient(redtier.port) as client, RawClient(redtier.port) as writer:
        client.ask("SET k before")
        assert client.ask("CLIENT PAUSE 60000 WRITE") == b"+OK\r\n"
        writer.send("GET k", "SET k after", "GET k")
        assert writer.frame() == b"$6\r\nbefore\r\n"
        assert client.ask("GET k") == b"$6\r\nbefore\r\n"
        assert client.ask("CLIENT UNPAUSE") == b"+OK\r\n"
        assert [writer.frame(), writer.frame()] == [b"+OK\r\n", b"$5\r\nafter\r\n"]
        started = time.monotonic()
        client.ask("CLIENT PAUSE 200")
        assert client.ask("GET k") == b"$5\r\nafter\r\n"
        assert time.monotonic() - started >= 0.19


@pytest.mark.parametrize(
    ("lines", "kept"),
    [
        (["GET k0"], True),
        (["CLIENT NO-TOUCH ON", "GET k0", "APPEND k0 x", "SETRANGE k0 0 x", "MGET k0 k0"], False),
        (["CLIENT NO-TOUCH ON", "TOUCH k0", "GET k1"], True),
        (["CLIENT NO-TOUCH ON", "CLIENT NO-TOUCH off", "GET k0"], True),
        (["CLIENT NO-TOUCH ON", "RESET", "GET k0"], True),
    ],
)
def test_who_touches_nothing_keeps_nothing_from_eviction(
    lines: list[str], kept: bool, small: RedtierServer
) -> None:
    with RawClient(small.port) as client, RawClient(small.port) as other:
        other.ask("FLUSHALL")
        for number in range(4):
            other.ask(f"SET k{number} {'v' * 200_000}")
        for line in lines:
            assert not client.ask(line).startswith(b"-")
        for number in range(4, 6):
            other.ask(f"SET k{number} {'v' * 200_000}")
        assert other.ask("EXISTS k0") == (b":1\r\n" if kept else b":0\r\n")


def test_redis_py_is_told_that_there_are_no_maintenance_notifications(redtier: RedtierServer) -> None:
    with redtier.client(protocol=3, client_name="app") as client:
        assert client.ping()
        own = client.client_info()
        assert (own["name"], own["lib-name"]) == ("app", "redis-py")
        assert client.execute_command("CLIENT MAINT_NOTIFICATIONS OFF") == b"OK"
        with pytest.raises(redis.ResponseError, match="connect with CLIENT MAINT_NOTIFICATIONS OFF"):
            client.execute_command("CLIENT MAINT_NOTIFICATIONS ON moving-endpoint-type internal-ip")


def test_a_name_that_is_gone_is_no_client_any_more(redtier: RedtierServer) -> None:
    with RawClient(redtier.port) as client:
        with RawClient(redtier.port) as other:
            other.ask("CLIENT SETNAME leaving")
        wait_until(lambda: b"leaving" not in client.ask("CLIENT LIST"))


def test_scripts_have_no_debugger(redtier: RedtierServer) -> None:
    with RawClient(redtier.port) as client:
        for line in ("SCRIPT DEBUG YES", "SCRIPT DEBUG SYNC"):
            assert client.ask(line).startswith(b"-ERR scripts can't be debugged here")
