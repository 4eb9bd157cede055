"""Copies between the backends of one configuration, and keys of all types to be copied."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import redis

from tests.homes import toml
from tests.servers import TREE, RedisServer

DAY: Final = 86_400_000  # ms
# For DEBUG DIGEST, which is the same where two servers hold the same values, in whatever layout.
DEBUG: Final = ("--enable-debug-command", "yes")


class Copies:
    """A configuration, and copies between its backends."""

    def __init__(self, directory: Path, backends: Mapping[str, Mapping[str, Any]], **routes: str) -> None:
        self.directory = directory
        self.file = directory / "my.toml"
        self.backends = {"backends.hot": {"type": "memory"}} | {
            f"backends.{n}": dict(b) for n, b in backends.items()
        }
        self.routes = {"": "hot"} | {f"{prefix}:": name for prefix, name in routes.items()}
        self.options: dict[str, dict[str, Any]] = {}  # of routes, by prefix
        self.write()

    def write(self) -> None:
        self.file.write_text(toml(self.backends, self.routes, self.options) + '[http]\nlisten = ""\n')

    def command(self, source: str, target: str, *options: str) -> list[str]:
        ends = ["--config", str(self.file), "--from", source, "--to", target]
        return [sys.executable, "-P", "-m", "proxy", "copy", *ends, *options]

    def start(
        self, source: str, target: str, *options: str, stderr: int = subprocess.PIPE
    ) -> subprocess.Popen[str]:
        ends_with_us = ["setpriv", "--pdeathsig", "KILL"]
        return subprocess.Popen(
            [*ends_with_us, *self.command(source, target, *options)],
            cwd=self.directory,
            env={**os.environ, "PYTHONPATH": str(TREE)},
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )

    def copy(
        self, source: str, target: str, *options: str, code: int = 0, patience: float = 50
    ) -> tuple[str, str]:
        """What a copy says on stdout and stderr; it must end with ``code``, within ``patience`` (seconds)."""
        process = self.start(source, target, *options)
        try:
            out, err = process.communicate(timeout=patience)
        finally:
            process.kill()
        assert process.returncode == code, out + err
        return out, err

    def state(self) -> dict[str, Any] | None:
        """What the one state file says, if there is one."""
        for file in self.directory.glob("*.json"):
            with suppress(FileNotFoundError):
                state: dict[str, Any] = json.loads(file.read_text())["state"]
                return state
        return None


def fill(client: redis.Redis, count: int, first: int = 0) -> None:
    """``count`` keys ``long:…`` of all types, from a number on, some of which expire, and another one."""
    made = random.Random(first)
    pipe = client.pipeline(transaction=False)
    for number in range(first, first + count):
        change(pipe, made, b"long:%d" % number)
    pipe.set("other:a", "x")
    pipe.execute()


def change(client: Any, made: random.Random, name: bytes) -> None:
    """Give a key another value, and maybe an expiry."""
    size = made.choice([1, 3, 3, 30])
    words = [
        made.choice([b"%d" % made.randrange(1000), made.randbytes(made.randrange(40))]) for _ in range(size)
    ]
    kind = made.randrange(6)
    client.delete(name)
    if kind == 0:
        client.set(name, b"".join(words) * made.choice([1, 30]))
    elif kind == 1:
        client.rpush(name, *words)
    elif kind == 2:
        client.sadd(name, *words)
    elif kind == 3:
        client.hset(name, mapping={b"%d" % at: word for at, word in enumerate(words)})
    elif kind == 4:
        client.zadd(
            name, {word: made.choice([made.random(), at, float("-inf")]) for at, word in enumerate(words)}
        )
    else:
        for at in range(1, 2 + size // 10):
            client.xadd(name, {b"a": words[0], b"b": b"1"}, id=f"{at}-1")
        client.xgroup_create(name, "group", 0)
        client.xreadgroup("group", "me", {name: ">"}, count=3)
        client.xdel(name, "1-1")
    if made.random() < 0.3:
        client.pexpireat(name, 4_000_000_000_000 + made.randrange(DAY))


def facts(client: redis.Redis) -> object:
    """What a server holds: equal where the values are, the groups of streams and all expiries too."""
    names = sorted(client.scan_iter(count=1000))
    pipe = client.pipeline(transaction=False)
    for name in names:
        pipe.pexpiretime(name)
    expiries = pipe.execute()
    streams = [name for name in names if client.type(name) == b"stream"] if len(names) < 1000 else []
    pending = [(client.xinfo_groups(name), client.xpending(name, "group")) for name in streams]
    digest: object = client.execute_command("DEBUG DIGEST")  # type: ignore[no-untyped-call]
    return names, expiries, pending, digest


@contextmanager
def writing(server: RedisServer, count: int, pause: float = 0.002) -> Iterator[Callable[[], int]]:
    """Keys change, go and come all the time, one each ``pause`` (seconds), until what is given is called: it
    returns how many did."""
    end = threading.Event()
    written = 0

    def write() -> None:
        nonlocal written
        made = random.Random(3)
        with server.client() as client:
            while not end.is_set():
                name = b"long:%d" % made.randrange(count + count // 10)
                pipe = client.pipeline(transaction=False)
                if made.random() < 0.2:
                    pipe.delete(name)
                elif made.random() < 0.2:
                    pipe.persist(name)
                else:
                    change(pipe, made, name)
                pipe.execute()
                written += 1
                time.sleep(pause)

    writer = threading.Thread(target=write)
    writer.start()

    def stop() -> int:
        end.set()
        writer.join(10)
        return written

    try:
        yield stop
    finally:
        stop()
