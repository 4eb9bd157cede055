"""What operators are told over HTTP: whether the server is alive, whether its backends are, its metrics."""

from __future__ import annotations

import json
import socket
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from typing import Any

import pytest
import redis
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from proxy.resp import encode_command
from proxy.tally import LATENCY_BUCKETS
from tests.faultproxy import Direction, FaultProxy
from tests.servers import TREE, TREES, RedisServer, RedtierServer, free_port, wait_until

pytestmark = pytest.mark.once

CONFIG = """
[http]
listen = "{listen}"
[backends.hot]
type = "memory"
max_bytes = "1mb"
[backends.local]
type = "sqlite"
[backends.main]
type = "redis"
url = "redis://127.0.0.1:{upstream}"
[[routes]]
prefix = ""
backend = "hot"
[[routes]]
prefix = "long:"
backend = "local"
[[routes]]
prefix = "plain:"
backend = "local"
cache = false
[[routes]]
prefix = "work:"
backend = "main"
"""


class Watched(RedtierServer):
    """A redtier with a backend of each kind, and its HTTP side."""

    def __init__(self, upstream: int) -> None:
        self.http = free_port()
        super().__init__(CONFIG.format(listen=f"127.0.0.1:{self.http}", upstream=upstream))

    def get(self, path: str, accept: str = "*/*") -> tuple[int, str, bytes]:
        """Status, content type, body."""
        connection = HTTPConnection("127.0.0.1", self.http, timeout=10)
        try:
            connection.request("GET", path, headers={"Accept": accept})
            response = connection.getresponse()
            return response.status, response.headers["Content-Type"], response.read()
        finally:
            connection.close()

    def readiness(self) -> tuple[int, dict[str, str]]:
        """Status, and each backend's state."""
        status, _, body = self.get("/readyz")
        answer = json.loads(body)
        assert answer["ready"] == (status == 200)
        return status, {backend["name"]: backend["state"] for backend in answer["backends"]}

    def breaker(self) -> tuple[str, str, float]:
        """The state of the Redis' breaker, as /readyz, INFO and /metrics tell it."""
        [state] = [
            each["breaker"] for each in json.loads(self.get("/readyz")[2])["backends"] if "breaker" in each
        ]
        with self.client() as client:
            [told] = [
                tier["breaker"] for tier in client.info("tiers").values() if tier.get("type") == "redis"
            ]
        return state, told, self.scrape()["redtier_upstream_breaker_open{backend=main}"]

    def scrape(self) -> dict[str, float]:
        """The value of each sample, by its name and labels: ``redtier_errors_total{code=ERR}``."""
        status, _, body = self.get("/metrics")
        assert status == 200
        return {
            titled(sample.name, sample.labels): sample.value
            for family in parse_text(body.decode())
            for sample in family.samples
        }


def titled(name: str, labels: dict[str, str]) -> str:
    return name + "{" + ",".join(f"{label}={labels[label]}" for label in sorted(labels)) + "}"


@pytest.fixture(scope="module")
def server(redis_server: RedisServer) -> Iterator[Watched]:
    with Watched(redis_server.port) as server:
        yield server


@pytest.fixture
def client(server: Watched) -> Iterator[redis.Redis]:
    with server.client() as client:
        client.ping()  # what it asks when it connects is counted too
        yield client


def test_it_is_healthy_while_it_serves(server: Watched) -> None:
    assert server.get("/healthz") == (200, "text/plain; charset=utf-8", b"ok")
    assert server.get("/")[0] == 404


class TestReadiness:
    def test_tells_each_backend_by_name_type_and_state(self, server: Watched) -> None:
        status, content_type, body = server.get("/readyz")
        assert (status, content_type) == (200, "application/json; charset=utf-8")
        assert json.loads(body) == {
            "ready": True,
            "backends": [
                {"name": "hot", "type": "memory", "state": "up"},
                {"name": "local", "type": "sqlite", "state": "up"},
                {"name": "main", "type": "redis", "state": "up", "breaker": "closed"},
            ],
        }

    def test_ends_when_a_backend_is_killed_and_comes_back_with_it(self) -> None:
        with RedisServer() as upstream, Watched(upstream.port) as server:
            assert server.readiness()[0] == 200
            assert server.scrape()["redtier_backend_up{backend=main,type=redis}"] == 1
            upstream.kill()
            wait_until(lambda: server.readiness()[0] == 503)
            states = server.readiness()[1]
            assert states == {"hot": "up", "local": "up", "main": states["main"]}
            assert states["main"].startswith(f"down: 127.0.0.1:{upstream.port}: ")
            assert server.scrape()["redtier_backend_up{backend=main,type=redis}"] == 0
            assert server.get("/healthz")[0] == 200
            wait_until(lambda: server.breaker() != ("closed", "closed", 0))
            assert server.scrape()["redtier_upstream_breaker_opened_total{backend=main}"] == 1
            upstream.start()
            wait_until(lambda: server.readiness()[0] == 200)
            assert server.scrape()["redtier_backend_up{backend=main,type=redis}"] == 1
            assert server.breaker() == ("closed", "closed", 0)

    def test_ends_when_a_backend_is_not_there_at_the_start(self) -> None:
        with Watched(free_port()) as server:
            status, states = server.readiness()
            assert status == 503
            assert "connection refused" in states["main"]

    def test_waits_a_second_for_a_silent_backend_and_asks_it_once_however_many_probe(
        self, redis_server: RedisServer
    ) -> None:
        with (
            FaultProxy(redis_server.port) as relay,
            Watched(relay.port) as server,
            ThreadPoolExecutor(20) as probers,
        ):
            wait_until(lambda: server.readiness()[0] == 200)
            relay.stall(Direction.UP)
            wait_until(lambda: server.readiness()[1]["main"] == "down: no answer within 1 s")
            began = time.monotonic()
            answers = list(probers.map(lambda _: server.readiness(), range(20)))
            assert time.monotonic() - began < 3
            assert {status for status, _ in answers} == {503}
            assert relay.held(Direction.UP) == len(encode_command([b"PING"]))
            relay.resume(Direction.UP)
            wait_until(lambda: server.readiness()[0] == 200)

    def test_asks_a_backend_no_more_than_once_a_second(
        self, server: Watched, redis_server: RedisServer
    ) -> None:
        with redis_server.client() as judge:

            def pings() -> int:
                stats: Any = judge.info("commandstats")
                return int(stats["cmdstat_ping"]["calls"])

            server.readiness()
            before, began = pings(), time.monotonic()
            for _ in range(50):
                assert server.readiness()[0] == 200
            assert pings() - before <= 1 + (time.monotonic() - began)


class TestMetrics:
    def test_are_prometheus_text_or_openmetrics_as_is_asked_for(self, server: Watched) -> None:
        def names(accept: str, content_type: str, parse: Callable[[str], Iterable[Metric]]) -> set[str]:
            status, answered, body = server.get("/metrics", accept)
            assert status == 200
            assert answered.startswith(content_type)
            return {sample.name for family in parse(body.decode()) for sample in family.samples}

        openmetrics = "application/openmetrics-text; version=1.0.0"
        plain = names("*/*", "text/plain; version=0.0.4", parse_text)
        assert names(openmetrics, openmetrics, parse_openmetrics) == plain
        assert {name for name in plain if not name.startswith("redtier_")} == {
            "process_cpu_seconds_total",
            "process_max_fds",
            "process_open_fds",
            "process_resident_memory_bytes",
            "process_start_time_seconds",
            "process_virtual_memory_bytes",
        }

    def test_name_the_build(self, server: Watched) -> None:
        (build,) = [name for name in server.scrape() if name.startswith("redtier_build_info{")]
        assert f"compiled={'yes' if TREES['compiled'] == TREE else 'no'}," in build

    def test_count_the_commands_of_each_route(self, server: Watched, client: redis.Redis) -> None:
        before = server.scrape()
        client.set("text", "abc")
        with pytest.raises(redis.ResponseError):
            client.incrby("text")
        client.get("text")
        client.get("nothing")
        client.set("long:a", "x" * 1000)
        client.get("long:a")
        with pytest.raises(redis.ResponseError):
            client.execute_command("GET", "text", "extra")
        with client.pipeline(transaction=False) as pipeline:
            for number in range(100):
                pipeline.set(f"work:{number}", number)
            pipeline.execute()
        after = server.scrape()

        def grown(title: str) -> float:
            return after[title] - before.get(title, 0)

        assert grown("redtier_route_commands_total{backend=hot,route=*}") == 4
        assert grown("redtier_route_errors_total{backend=hot,route=*}") == 1
        assert grown("redtier_route_commands_total{backend=local,route=long:*}") == 2
        assert grown("redtier_route_commands_total{backend=main,route=work:*}") == 100
        assert grown("redtier_command_calls_total{command=get}") == 3
        assert grown("redtier_command_calls_total{command=set}") == 102
        assert grown("redtier_command_failures_total{command=incrby}") == 1
        assert grown("redtier_command_rejections_total{command=get}") == 1
        assert grown("redtier_errors_total{code=ERR}") == 2
        assert grown("redtier_upstream_replies_total{backend=main}") >= 100
        assert grown("redtier_upstream_sent_bytes_total{backend=main}") > 100 * len("SET work:0 0")

    def test_put_every_command_of_a_route_into_its_histogram(
        self, server: Watched, client: redis.Redis
    ) -> None:
        for prefix in ("", "long:", "work:"):
            with client.pipeline(transaction=False) as pipeline:
                for number in range(20):
                    pipeline.set(f"{prefix}{number}", "value")
                    pipeline.get(f"{prefix}{number}")
                pipeline.execute()
        samples = server.scrape()
        bounds = [*(str(us / 1e6) for us in LATENCY_BUCKETS), "+Inf"]
        for route, backend in ("*", "hot"), ("long:*", "local"), ("work:*", "main"):
            labels = {"route": route, "backend": backend}
            calls = samples[titled("redtier_route_commands_total", labels)]
            assert calls >= 40
            assert samples[titled("redtier_route_latency_seconds_count", labels)] == calls
            assert 0 < samples[titled("redtier_route_latency_seconds_sum", labels)] < calls
            buckets = [
                samples[titled("redtier_route_latency_seconds_bucket", labels | {"le": bound})]
                for bound in bounds
            ]
            assert buckets == sorted(buckets)
            assert buckets[-1] == calls

    def test_show_memory_at_work(self, server: Watched, client: redis.Redis) -> None:
        before = server.scrape()
        client.set("one", "x" * 1000)
        client.set("brief", "x", px=1)
        client.get("one")
        client.get("none")
        title = "redtier_memory_expirations_total{backend=hot}"
        wait_until(lambda: server.scrape()[title] == before[title] + 1)
        after = server.scrape()
        for title, least, most in ("keys", 1, 1), ("used_bytes", 1000, 2000):
            title = f"redtier_memory_{title}{{backend=hot}}"
            assert least <= after[title] - before[title] <= most
        assert after["redtier_memory_max_bytes{backend=hot}"] == 1 << 20
        for title, more in ("hits", 1), ("misses", 1), ("evictions", 0):
            title = f"redtier_memory_{title}_total{{backend=hot}}"
            assert after[title] == before[title] + more
        for number in range(20):
            client.set(f"large:{number}", "x" * 100_000)
        title = "redtier_memory_evictions_total{backend=hot}"
        assert server.scrape()[title] >= before[title] + 10

    def test_show_what_compression_saves_and_what_the_near_cache_answers(
        self, server: Watched, client: redis.Redis
    ) -> None:
        before = server.scrape()
        client.set("long:b", "x" * 10_000)
        client.get("long:b")
        after = server.scrape()
        raw, stored = (f"redtier_cold_{size}_bytes_total{{backend=local}}" for size in ("raw", "stored"))
        assert after[raw] == before[raw] + 10_000
        assert before[stored] < after[stored] < before[stored] + 1000
        assert after["redtier_cache_hits_total{}"] == before["redtier_cache_hits_total{}"] + 1
        assert after["redtier_cache_used_bytes{}"] >= before["redtier_cache_used_bytes{}"] + 10_000
        client.delete("long:b")
        assert server.scrape()["redtier_cache_copies{}"] == after["redtier_cache_copies{}"] - 1

    def test_count_a_value_that_was_damaged(self, server: Watched, client: redis.Redis) -> None:
        client.set("plain:c", "value")
        title = "redtier_cold_integrity_failures_total{backend=local}"
        before = server.scrape()[title]
        with sqlite3.connect(server.directory / "redtier.db") as database:
            database.execute("update redtier set value = x'00' where key = ?", [b"plain:c"])
        database.close()
        with pytest.raises(redis.ResponseError, match=r"^INTEGRITY"):
            client.get("plain:c")
        after = server.scrape()
        assert after[title] == before + 1
        assert after["redtier_errors_total{code=INTEGRITY}"] == 1

    def test_count_connections_even_when_there_is_no_place_for_one_more(
        self, server: Watched, client: redis.Redis
    ) -> None:
        client.config_set("maxclients", 1)
        try:
            before = server.scrape()
            assert before["redtier_connections{}"] == before["redtier_connections_max{}"] == 1
            with pytest.raises(redis.ConnectionError), server.client(retry=None) as stranger:
                stranger.ping()
            after = server.scrape()
            title = "redtier_connections_rejected_total{}"
            assert after[title] == before[title] + 1
            title = "redtier_connections_received_total{}"
            assert after[title] == before[title]
        finally:
            client.config_set("maxclients", 10_000)


class TestStartAndStop:
    def test_a_port_in_use_ends_the_start_with_one_line(self, redis_server: RedisServer) -> None:
        server = Watched(redis_server.port)
        line = (
            rf"redtier: can't listen on 127.0.0.1:{server.http} \(\[http\] listen\): address already in use"
        )
        with (
            socket.create_server(("127.0.0.1", server.http)),
            pytest.raises(RuntimeError, match=rf"ended with 1:\n{line}\n$"),
        ):
            server.__enter__()

    def test_a_prober_that_stays_connected_does_not_hold_up_the_stop(self, redis_server: RedisServer) -> None:
        with Watched(redis_server.port) as server:
            connection = HTTPConnection("127.0.0.1", server.http, timeout=10)
            connection.request("GET", "/healthz")
            assert connection.getresponse().read() == b"ok"
            began = time.monotonic()
            assert server.stop() == 0
            assert time.monotonic() - began < 5
            connection.close()

    def test_it_can_be_a_unix_socket_that_a_killed_server_has_left(self, redis_server: RedisServer) -> None:
        with RedtierServer(CONFIG.format(listen="unix:http", upstream=redis_server.port)) as server:
            server.kill()
            server.start()
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(10)
                connection.connect(str(server.directory / "http"))
                connection.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
                answer = b""
                while chunk := connection.recv(65536):
                    answer += chunk
            assert answer.startswith(b"HTTP/1.0 200 OK\r\n")
            assert answer.endswith(b"\r\n\r\nok")
