"""What redtier is compared with, and redtier itself from either tree; see ``tests.servers``."""

from __future__ import annotations

import os
import shutil
import socket
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import botocore.session

from tests.servers import TREES, RedisServer, RedtierServer, S3Server, Server, free_port

BUCKET: Final = "redtier-bench"


def built_trees() -> list[str]:
    """``compiled``, where ``make build`` has made it, and ``plain``."""
    return [name for name in ("compiled", "plain") if (TREES[name] / "proxy").is_dir()]


class Redtier(RedtierServer):
    """redtier from a tree of its own; it is ready once all of its backends are there."""

    def __init__(self, tree: str, config: str = "", *args: str) -> None:
        super().__init__(config, *args)
        self.tree = tree

    def environment(self) -> Mapping[str, str]:
        return {**os.environ, "PYTHONPATH": str(TREES[self.tree])}

    def ready(self) -> bool:
        if not super().ready():
            return False
        with self.client(protocol=3) as client:
            return all(route[b"state"] == b"up" for route in client.execute_command("TIER ROUTES"))


class RedisProxy(Server):
    """A proxy before ``upstream``, with one thread and its defaults."""

    program: str

    def __init__(self, upstream: RedisServer) -> None:
        super().__init__()
        self.upstream = upstream

    @classmethod
    def found(cls) -> str | None:
        """Where its program is: beside our Python, on PATH or where Debian puts it, or nowhere."""
        places = [str(Path(sys.executable).parent), os.environ["PATH"], "/usr/sbin"]
        return shutil.which(cls.program, path=os.pathsep.join(places))

    def ready(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 5) as connection:
            connection.sendall(b"*1\r\n$4\r\nPING\r\n")
            return connection.recv(5) == b"+PONG"
        return False


class Envoy(RedisProxy):
    program = "envoy"
    settings = "{op_timeout: 5s}"
    kind = "type: STATIC"

    def prepare(self) -> None:
        (self.directory / "envoy.yaml").write_text(
            f"""static_resources:
  listeners:
  - address: {{socket_address: {{address: 127.0.0.1, port_value: {self.port}}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.redis_proxy
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.redis_proxy.v3.RedisProxy
          stat_prefix: redis
          settings: {self.settings}
          prefix_routes: {{catch_all_route: {{cluster: redis}}}}
  clusters:
  - name: redis
    {self.kind}
    load_assignment:
      cluster_name: redis
      endpoints:
      - lb_endpoints:
        - endpoint:
            address: {{socket_address: {{address: 127.0.0.1, port_value: {self.upstream.port}}}}}
"""
        )

    def command(self) -> list[str]:
        program = self.found()
        assert program is not None
        options = "-c envoy.yaml --concurrency 1 --use-dynamic-base-id --log-level warn"
        return [program, *options.split()]


class EnvoyOnCluster(Envoy):
    """``upstream`` is a node of a Redis Cluster."""

    settings = "{op_timeout: 5s, enable_redirection: true, enable_hashtagging: true}"
    kind = """lb_policy: CLUSTER_PROVIDED
    cluster_type:
      name: envoy.clusters.redis
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.clusters.redis.v3.RedisClusterConfig
        cluster_refresh_rate: 1s"""


class Twemproxy(RedisProxy):
    program = "nutcracker"

    def prepare(self) -> None:
        (self.directory / "nutcracker.yml").write_text(
            f"""redis:
  listen: 127.0.0.1:{self.port}
  redis: true
  hash: fnv1a_64
  distribution: ketama
  preconnect: true
  servers:
  - 127.0.0.1:{self.upstream.port}:1
"""
        )

    def command(self) -> list[str]:
        program = self.found()
        assert program is not None
        return [program, "-c", "nutcracker.yml", "-a", "127.0.0.1", "-s", str(free_port())]


def make_bucket(server: S3Server) -> None:
    options: dict[str, Any] = server.client_options
    client: Any = botocore.session.get_session().create_client("s3", **options)
    client.create_bucket(Bucket=BUCKET)
    client.close()


def s3_backend(server: S3Server) -> str:
    """The options of an S3 backend in our bucket, as TOML."""
    return f"""type = "s3"
bucket = "{BUCKET}"
endpoint_url = "{server.url}"
region = "{server.region}"
access_key = "{server.access_key}"
secret_key = "{server.secret_key}"
"""
