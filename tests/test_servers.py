"""Each server that tests run against does what tests rely on."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
import redis
from aiobotocore.session import get_session
from botocore.exceptions import ClientError

from tests.faultproxy import Direction, FaultProxy
from tests.servers import (
    MotoServer,
    PostgresServer,
    RedisServer,
    RedtierServer,
    S3Server,
    SwiftServer,
    eventually,
    free_port,
    wait_until,
)

pytestmark = pytest.mark.once


def test_a_free_port_is_given_once_and_can_be_listened_on() -> None:
    ports = [free_port() for _ in range(50)]
    assert len(set(ports)) == 50
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", ports[0]))
    with socket.create_server(("127.0.0.1", ports[0])), socket.create_connection(("127.0.0.1", ports[0])):
        pass


def test_redis_answers_and_starts_empty_again_on_the_same_port(redis_server: RedisServer) -> None:
    with RedisServer() as server, server.client() as client:
        assert server.port != redis_server.port
        client.set("key", "value")
        server.kill()
        with pytest.raises(redis.ConnectionError):
            server.client(retry=None).ping()
        server.start()
        assert client.get("key") is None


def test_redis_asks_for_its_password() -> None:
    with RedisServer(password="secret") as server, server.client() as client:
        assert client.ping()
        with pytest.raises(redis.AuthenticationError), redis.Redis(port=server.port, retry=None) as stranger:
            stranger.ping()


def test_redis_speaks_tls_with_a_certificate_that_verifies() -> None:
    with RedisServer(tls=True) as server, server.client() as client:
        assert client.ping()
        context = ssl.create_default_context(cafile=server.certificate.cert)
        with (
            socket.create_connection(("127.0.0.1", server.port)) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
        ):
            assert connection.version() == "TLSv1.3"


def test_redis_listens_on_a_unix_socket_and_takes_further_options() -> None:
    with (
        RedisServer("--databases", "3", unixsocket=True) as server,
        redis.Redis(unix_socket_path=server.unixsocket) as client,
    ):
        assert client.config_get("databases") == {"databases": "3"}


def test_a_server_that_does_not_start_says_what_it_logged() -> None:
    with pytest.raises(RuntimeError, match=r"(?s)RedisServer on \d+ ended with 1:.*no-such-option"):
        RedisServer("--no-such-option", "1").__enter__()


async def test_postgres_runs_queries(postgres: PostgresServer) -> None:
    connection = await asyncpg.connect(postgres.url)
    assert await connection.fetchval("select 1") == 1
    assert await connection.fetchval("show fsync") == "off"
    await connection.close()


async def test_postgres_keeps_what_was_committed_when_it_is_killed() -> None:
    with PostgresServer() as server:
        connection = await asyncpg.connect(server.url)
        await connection.execute("create table kept (id int); insert into kept values (1)")
        server.kill()
        await eventually(connection.is_closed)
        server.start()
        connection = await asyncpg.connect(server.url)
        assert await connection.fetchval("select id from kept") == 1
        await connection.close()


@asynccontextmanager
async def bucket_of(server: S3Server) -> AsyncIterator[Any]:
    async with get_session().create_client("s3", **server.client_options) as client:
        await client.create_bucket(Bucket="bucket")
        yield client
        await client.delete_object(Bucket="bucket", Key="key")
        await client.delete_bucket(Bucket="bucket")


async def test_moto_honours_conditional_writes(s3_moto: MotoServer) -> None:
    async with bucket_of(s3_moto) as client:
        first = await client.put_object(Bucket="bucket", Key="key", Body=b"1", IfNoneMatch="*")
        with pytest.raises(ClientError, match="PreconditionFailed"):
            await client.put_object(Bucket="bucket", Key="key", Body=b"2", IfNoneMatch="*")
        await client.put_object(Bucket="bucket", Key="key", Body=b"2", IfMatch=first["ETag"])
        with pytest.raises(ClientError, match="PreconditionFailed"):
            await client.put_object(Bucket="bucket", Key="key", Body=b"3", IfMatch=first["ETag"])
        answer = await client.get_object(Bucket="bucket", Key="key")
        assert await answer["Body"].read() == b"2"


async def test_swift_checks_signatures_and_stores_objects(s3_swift: SwiftServer) -> None:
    async with bucket_of(s3_swift) as client:
        await client.put_object(Bucket="bucket", Key="key", Body=b"1", Metadata={"a": "b"})
        answer = await client.get_object(Bucket="bucket", Key="key")
        assert await answer["Body"].read() == b"1"
        assert answer["Metadata"] == {"a": "b"}
    wrong = {**s3_swift.client_options, "aws_secret_access_key": "wrong"}
    async with get_session().create_client("s3", **wrong) as client:
        with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
            await client.list_buckets()


def test_redtier_serves_its_defaults_and_is_killed_and_started_again() -> None:
    with RedtierServer() as server, server.client() as client:
        client.set("hot", "lost")
        client.set("long:cold", "kept")
        server.kill()
        server.start()
        assert client.get("hot") is None
        assert client.get("long:cold") == b"kept"
        assert server.stop() == 0


def test_redtier_takes_a_configuration() -> None:
    with RedtierServer('[server]\npassword = "secret"') as server:
        with server.client(password="secret") as client:
            assert client.ping()
        with pytest.raises(redis.AuthenticationError), server.client(retry=None) as stranger:
            stranger.ping()


class TestFaultProxy:
    @pytest.fixture
    def relay(self, redis_server: RedisServer) -> Iterator[FaultProxy]:
        with FaultProxy(redis_server.port) as relay:
            yield relay

    @pytest.fixture
    def connection(self, relay: FaultProxy) -> Iterator[socket.socket]:
        with socket.create_connection(("127.0.0.1", relay.port), 10) as connection:
            connection.sendall(b"PING\r\n")
            assert connection.recv(100) == b"+PONG\r\n"
            yield connection

    def test_relays_both_ways_until_either_end_closes(
        self, relay: FaultProxy, connection: socket.socket
    ) -> None:
        connection.sendall(b"QUIT\r\n")
        assert connection.recv(100) == b"+OK\r\n"
        assert connection.recv(100) == b""
        connection.close()
        wait_until(lambda: relay.connections == 0)

    def test_cut_resets(self, relay: FaultProxy, connection: socket.socket) -> None:
        relay.cut()
        with pytest.raises(ConnectionResetError):
            connection.recv(100)
        wait_until(lambda: relay.connections == 0)

    def test_stall_holds_an_answer_that_a_cut_then_loses(
        self, relay: FaultProxy, connection: socket.socket, redis_server: RedisServer
    ) -> None:
        relay.stall(Direction.DOWN)
        connection.sendall(b"SET stalled yes\r\n")
        wait_until(lambda: relay.held(Direction.DOWN) == len(b"+OK\r\n"))
        relay.cut()
        with pytest.raises(ConnectionResetError):
            connection.recv(100)
        with redis_server.client() as client:
            assert client.getdel("stalled") == b"yes"

    def test_resume_sends_what_was_held(self, relay: FaultProxy, connection: socket.socket) -> None:
        relay.stall(Direction.UP)
        connection.sendall(b"PING\r\n")
        wait_until(lambda: relay.held(Direction.UP) == len(b"PING\r\n"))
        relay.resume(Direction.UP)
        assert connection.recv(100) == b"+PONG\r\n"

    def test_truncate_closes_within_an_answer(self, relay: FaultProxy, connection: socket.socket) -> None:
        relay.truncate(Direction.DOWN, 3)
        connection.sendall(b"PING\r\n")
        assert connection.recv(100) == b"+PO"
        assert connection.recv(100) == b""

    def test_refuse_resets_new_connections_only(self, relay: FaultProxy, connection: socket.socket) -> None:
        relay.refuse()
        with (
            pytest.raises(ConnectionResetError),
            socket.create_connection(("127.0.0.1", relay.port)) as refused,
        ):
            refused.recv(100)
        connection.sendall(b"PING\r\n")
        assert connection.recv(100) == b"+PONG\r\n"
