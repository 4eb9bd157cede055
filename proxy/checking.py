"""``redtier check --connect``: tries out each backend of a configuration, and says what is missing.

What it writes has random names and is deleted again; on a Redis it expires within seconds.  Tables that are
not there are created, as at a start.  Exit codes: 0 nothing is missing, 1 something is.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import uvloop

from backends.base import Finding, Grade, StoreError
from proxy.clock import Clock
from proxy.config import Config, MemoryBackend, in_backend
from proxy.errors import CommandError, quote
from proxy.homes import ColdHome, UpstreamHome
from proxy.offline import the_home

NAMES: Final = {Grade.FINE: "ok", Grade.WARNING: "warning", Grade.MISSING: "missing"}

# A key that is tried with is gone after this, whatever happens.
BRIEFLY: Final = b"10000"  # ms
OLDEST: Final = (7, 0)  # version of a Redis with EVAL_RO and PEXPIRETIME


def main(config: Config) -> int:
    """Try out all backends, one after the other; the exit code."""
    return uvloop.run(_check(config))


async def _check(config: Config) -> int:
    width = max(map(len, config.backends))
    missing = False
    for name in config.backends:
        for finding in await examine(config, name):
            print(f"{name:{width}}  {NAMES[finding.grade]:7}  {finding.text}", flush=True)
            missing = missing or finding.grade is Grade.MISSING
    return int(missing)


async def examine(config: Config, name: str) -> list[Finding]:
    """What is found of one backend."""
    backend = config.backends[name]
    if isinstance(backend, MemoryBackend):
        return _examine_memory(backend)
    home = the_home(in_backend(config, name), Clock())
    if isinstance(home, ColdHome):
        return await home.store.examine()
    # One that is named by mirrors alone, or by nothing yet, with any key.
    prefixes = [route.prefix for route in config.routes if route.backend == name] or [b""]
    try:
        return await _examine_redis(home, prefixes)
    except (CommandError, StoreError) as error:
        return [Finding(Grade.MISSING, str(error))]
    finally:
        await home.close()


def _examine_memory(backend: MemoryBackend) -> list[Finding]:
    findings = [Finding(Grade.FINE, "in the server's own process")]
    if backend.snapshot:
        directory = Path(backend.snapshot).absolute().parent
        if not os.access(directory, os.W_OK | os.X_OK):
            text = f"no snapshot can be written to {directory}: it must exist and be writable for this user"
            findings.append(Finding(Grade.MISSING, text))
    return findings


async def _examine_redis(home: UpstreamHome, prefixes: Sequence[bytes]) -> list[Finding]:
    """Of a Redis, or of each server of a cluster."""
    await home.open()
    findings: list[Finding] = []
    for server in home.servers:
        try:
            findings += _described(await _info(server))
        except CommandError as error:
            findings.append(_refused(error, b"INFO", "it is asked whether it was started anew"))
        findings += await _tried(
            server, (b"SCAN", b"0"), "SCAN, KEYS and DBSIZE over all backends ask for it"
        )
    for prefix in prefixes:
        findings += await _try_keys(home, prefix)
    return findings


async def _info(server: UpstreamHome) -> dict[str, str]:
    reply = await server.call(0, [b"INFO"])
    lines = reply.decode("utf-8", "replace").splitlines() if isinstance(reply, bytes) else []
    return dict(line.split(":", 1) for line in lines if ":" in line)


def _described(info: dict[str, str]) -> list[Finding]:
    version = info.get("redis_version", "unknown")
    findings = [Finding(Grade.FINE, f"Redis {version}, {info.get('redis_mode', 'standalone')}")]
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdecimal())
    if numbers < OLDEST:
        text = "before version 7.0 RENAME and COPY to other backends, mirrors, copies and backups do not work"
        findings.append(Finding(Grade.WARNING, text))
    if info.get("role") == "slave":
        findings.append(
            Finding(Grade.MISSING, "it is a replica and refuses writes: url must lead to its primary")
        )
    policy = info.get("maxmemory_policy", "noeviction")
    if info.get("maxmemory", "0") != "0" and policy != "noeviction":
        text = (
            f"maxmemory-policy is {policy}: it removes keys when its memory is full; set noeviction, unless "
            "its keys may vanish"
        )
        findings.append(Finding(Grade.WARNING, text))
    return findings


async def _try_keys(home: UpstreamHome, prefix: bytes) -> list[Finding]:
    """What each key of a route is used for, with one that is not there."""
    key = prefix + b"redtier-check-" + secrets.token_hex(8).encode()
    where = f"keys {quote(prefix)}* are of no use without" if prefix else "no key is of use without"
    moved = "RENAME and COPY to other backends, mirrors, copies and backups ask for it"
    server = home.of(key)
    findings: list[Finding] = []
    for argv, why in (
        ((b"SET", key, b"tried out", b"PX", BRIEFLY), where),
        ((b"GET", key), where),
        ((b"TYPE", key), "SCAN with a type asks for it"),
        ((b"EVAL_RO", b"return redis.call('PEXPIRETIME', KEYS[1])", b"1", key), moved),
        ((b"DUMP", key), moved),
        ((b"DEL", key), where),
    ):
        findings += await _tried(server, argv, why)
    if not findings:
        findings.append(Finding(Grade.FINE, f"reads, writes and deletes {quote(prefix)}*"))
    return findings


async def _tried(server: UpstreamHome, argv: Sequence[bytes], why: str) -> list[Finding]:
    try:
        await server.call(0, list(argv))
    except CommandError as error:
        return [_refused(error, argv[0], why)]
    return []


def _refused(error: CommandError, command: bytes, why: str) -> Finding:
    return Finding(Grade.MISSING, f"{command.decode()} is refused ({why}): {error.text}")
