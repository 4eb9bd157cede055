"""A Redis with replicas and sentinels, which fail over within a few seconds."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, Final, Self

import redis

from tests.servers import RedisServer, Server, wait_until

SERVICE: Final = "main"
DOWN_AFTER: Final = 1500  # ms; where all share a machine that is busy, less makes failovers of its own


class SentinelServer(Server):
    """A redis-server that watches ``primary``, and agrees with at least another one."""

    def __init__(self, primary: RedisServer, *lines: str) -> None:
        super().__init__()
        self.primary, self.lines = primary, lines

    def prepare(self) -> None:
        port = f"port {self.port}"
        if self.primary.tls:
            cert, key = self.primary.certificate
            files = [f"tls-cert-file {cert}", f"tls-key-file {key}", f"tls-ca-cert-file {cert}"]
            port = "\n".join(
                ["port 0", f"tls-port {self.port}", "tls-replication yes", "tls-auth-clients no", *files]
            )
        lines = [
            port,
            "bind 127.0.0.1",
            f"dir {self.directory}",
            f"sentinel monitor {SERVICE} 127.0.0.1 {self.primary.port} 2",
            f"sentinel down-after-milliseconds {SERVICE} {DOWN_AFTER}",
            f"sentinel failover-timeout {SERVICE} 3000",
            *self.lines,
        ]
        (self.directory / "sentinel.conf").write_text("\n".join(lines) + "\n")

    def command(self) -> list[str]:
        return ["redis-server", "sentinel.conf", "--sentinel"]

    def client(self, **options: Any) -> redis.Redis:
        if self.primary.tls:
            options |= {"ssl": True, "ssl_ca_certs": str(self.primary.certificate.cert)}
        return redis.Redis(port=self.port, **options)

    def ready(self) -> bool:
        with suppress(redis.ConnectionError), self.client(retry=None) as client:
            try:
                return bool(client.ping())
            except redis.AuthenticationError:
                return True
        return False


class Watched:
    """``nodes``, of which one is the primary, and three ``sentinels``."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self.nodes: list[RedisServer] = []
        self.sentinels: list[SentinelServer] = []

    def __enter__(self) -> Self:
        try:
            for _ in range(3):
                of = ["--replicaof", "127.0.0.1", str(self.nodes[0].port)] if self.nodes else []
                node = RedisServer("--repl-diskless-sync-delay", "0", *of)
                self.nodes.append(self._stack.enter_context(node))
            for _ in range(3):
                self.sentinels.append(self._stack.enter_context(SentinelServer(self.nodes[0])))
            self.settle()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *exception: Any) -> None:
        self._stack.__exit__(*exception)

    @property
    def url(self) -> str:
        at = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis+sentinel://{at}/{SERVICE}"

    @property
    def primary(self) -> RedisServer:
        # At its leader, a failover ends only when all replicas follow; of this it tells earlier.
        with self.sentinels[0].client() as client:
            _, port = client.sentinel_get_master_addr_by_name(SERVICE)
        return next(node for node in self.nodes if node.port == port)

    def settle(self) -> None:
        """Return once all is well: everybody is there and knows everybody."""
        wait_until(self._settled, 30)

    def fail_over(self) -> None:
        """Have the sentinels make another node the primary; returns before that is done."""
        with self.sentinels[0].client() as client:
            client.execute_command("SENTINEL", "FAILOVER", SERVICE)

    def _settled(self) -> bool:
        seen = [self._seen(sentinel) for sentinel in self.sentinels]
        if len({facts["port"] for facts in seen}) > 1:
            return False
        for facts in seen:
            if (facts["flags"], facts["num-slaves"], facts["num-other-sentinels"]) != ("master", 2, 2):
                return False
        with self.primary.client() as client:
            facts = client.info("replication")
        replicas = [facts.get(f"slave{number}", {}) for number in range(2)]
        return facts["role"] == "master" and all(each.get("state") == "online" for each in replicas)

    def _seen(self, sentinel: SentinelServer) -> dict[str, Any]:
        with sentinel.client() as client:
            return dict(client.sentinel_master(SERVICE))


@contextmanager
def hung(server: Server) -> Iterator[None]:
    """It is there, and does nothing."""
    os.kill(server.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server.pid, signal.SIGCONT)
