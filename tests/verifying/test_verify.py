"""``redtier verify`` as a user runs it: a process of its own, over stores that something went wrong with."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
import redis

from tests.copies import DAY, fill
from tests.damage import PostgresVault, S3Vault, SqliteVault, Vault
from tests.homes import toml, wait_for_homes
from tests.s3 import place
from tests.servers import (
    TREE,
    MotoServer,
    PostgresServer,
    RedtierServer,
    SwiftServer,
    free_port,
    wait_until,
)

pytestmark = [
    pytest.mark.once,  # what verifies is not compiled
    pytest.mark.timeout(180),  # many processes, of which each imports much
]


class Archive:
    """A redtier whose keys ``long:…`` are in the backend ``archive``, mirrored in ``second``."""

    def __init__(self, directory: Path, backend: dict[str, Any], vault: Vault) -> None:
        self.directory, self.vault = directory, vault
        self.second = SqliteVault(directory / "second.db")
        backends = {
            "backends.hot": {"type": "memory"},
            "backends.archive": backend,
            "backends.second": {"type": "sqlite", "path": str(self.second.file)},
            "http": {"listen": ""},
        }
        self.config = toml(backends, {"": "hot", "long:": "archive"})
        self.config += '[routes.mirror]\nbackend = "second"\n'  # of the last route
        (directory / "my.toml").write_text(self.config)

    @contextmanager
    def serve(self) -> Iterator[RedtierServer]:
        with RedtierServer(self.config) as server:
            wait_for_homes(server.port, ["long:"])
            yield server

    def command(self, *options: str) -> list[str]:
        return [sys.executable, "-P", "-m", "proxy", "verify", "--config", "my.toml", *options]

    def verify(self, *options: str, code: int = 0) -> tuple[list[str], str]:
        """The lines on stdout, and stderr; it must end with ``code``."""
        done = subprocess.run(
            self.command(*options),
            cwd=self.directory,
            env={**os.environ, "PYTHONPATH": str(TREE)},
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout.splitlines(), done.stderr


@pytest.fixture(params=["sqlite", "postgres", "s3-moto", "s3-swift"])
def archive(request: pytest.FixtureRequest, tmp_path: Path) -> Archive:
    return _archive(request, request.param, tmp_path)


@pytest.fixture
def local(request: pytest.FixtureRequest, tmp_path: Path) -> Archive:
    return _archive(request, "sqlite", tmp_path)


def _archive(request: pytest.FixtureRequest, kind: str, directory: Path) -> Archive:
    if kind == "sqlite":
        file = directory / "local.db"
        return Archive(directory, {"type": "sqlite", "path": str(file)}, SqliteVault(file))
    if kind == "postgres":
        server: PostgresServer = request.getfixturevalue("postgres")
        table = f"verify_{abs(hash(directory))}"
        backend = {"type": "postgres", "url": server.url, "table": table}
        return Archive(directory, backend, PostgresVault(server.url, table))
    s3: MotoServer | SwiftServer = request.getfixturevalue(kind.replace("-", "_"))
    where = place(s3)
    return Archive(directory, {"type": "s3", **where}, S3Vault(s3, where))


def test_what_is_damaged_is_named_kept_aside_and_repaired_from_the_mirror(archive: Archive) -> None:
    with archive.serve() as server, server.client() as client:
        client.set("long:flipped", "words " * 50, px=DAY)
        client.rpush("long:swapped", "a", "b")
        client.set("long:other", "sound")
        client.set("long:large", os.urandom(300_000))
        client.set("long:lost", "not in the mirror")
        client.select(3)
        client.hset("long:elsewhere", "field", "value")
        client.select(0)
        values = {key: client.dump(key) for key in sorted(client.keys("long:*"))}
    lines, err = archive.verify("--backend", "archive")
    assert lines[0].startswith("archive: 6 records verified (")
    assert lines[0].endswith(")")
    assert "redtier:" not in err  # but on a busy machine how far it is
    archive.verify("--backend", "second")

    sealed = archive.vault.read()
    archive.vault.flip(b"long:flipped")
    archive.vault.write({b"long:swapped": sealed[b"long:other"], b"long:large": sealed[b"long:large"][:-1]})
    archive.vault.flip(b"long:lost", 7)
    archive.second.write({b"long:lost": b"?"})
    lines, _ = archive.verify("--backend", "archive", code=1)
    assert [line.partition("': damaged: ")[0] for line in sorted(lines)[-4:]] == [
        "archive: db 0 'long:flipped",
        "archive: db 0 'long:large",
        "archive: db 0 'long:lost",
        "archive: db 0 'long:swapped",
    ]
    assert ", 4 damaged" in lines[-1] or ", 4 damaged" in lines[0]

    lines, _ = archive.verify("--backend", "archive", "--repair-from", "second", code=1)
    assert lines[-1].endswith(", 4 damaged, 3 repaired from second")
    assert sum(line.endswith("; repaired from second") for line in lines) == 3
    assert any("long:lost" in line and "; not repaired: second: INTEGRITY" in line for line in lines)
    with archive.serve() as server, server.client() as client:
        for key, dump in values.items():
            if key != b"long:lost":
                assert client.dump(key) == dump, key
        assert 0 < client.pttl("long:flipped") <= DAY
        with pytest.raises(redis.ResponseError, match="INTEGRITY"):
            client.get("long:lost")
        client.delete("long:lost")
    lines, _ = archive.verify("--backend", "archive", "--repair-from", "second")
    assert lines[0].startswith("archive: 5 records verified (")
    assert lines[0].endswith(")")


def test_an_object_without_its_metadata_is_told_though_it_is_no_record(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    archive = _archive(request, "s3-moto", tmp_path)
    assert isinstance(archive.vault, S3Vault)
    with archive.serve() as server, server.client() as client:
        client.mset({"long:a": "1", "long:b": "2"})
    archive.vault.strip(b"long:b")
    lines, _ = archive.verify("--backend", "archive", "--repair-from", "second", code=1)
    assert lines[0].startswith("archive: db 0 'long:b': unknown: the object ")
    assert lines[0].endswith("has no metadata of redtier's; was it copied without?")
    assert lines[1].startswith("archive: 2 records verified")
    assert lines[1].endswith(", 1 that this release can not read")


def test_every_cold_backend_is_verified_unless_one_is_named(local: Archive) -> None:
    with local.serve() as server, server.client() as client:
        fill(client, 40)
    local.vault.flip(b"long:7")
    lines, err = local.verify(code=1)
    assert len(lines) == 3
    assert lines[0].startswith("archive: db 0 'long:7': damaged: ")
    assert lines[1].startswith("archive: 40 records verified")
    assert lines[2].startswith("second: 40 records verified")
    assert "redtier:" not in err  # but on a busy machine how far it is
    assert local.verify("--match", "long:1*")[0][0].startswith("archive: 11 records verified")
    assert local.verify("--match", "*:[7]", "--backend", "archive", code=1)[0][1].endswith(", 1 damaged")


def test_records_without_a_digest_are_counted_since_their_bits_can_not_be_judged(local: Archive) -> None:
    local.config = local.config.replace('prefix = "long:"', 'prefix = "long:"\nintegrity = "none"')
    with local.serve() as server, server.client() as client:
        client.mset({"long:a": "1", "long:b": "2"})
    lines, _ = local.verify("--backend", "archive")
    assert lines[0].endswith(", 2 without a digest")
    assert ", " not in local.verify("--backend", "second", "--match", "nosuch")[0][0]


def test_a_walk_that_is_told_to_end_does(local: Archive) -> None:
    """On a terminal, where it shows a bar."""
    with local.serve() as server, server.client() as client:
        fill(client, 40)
    terminal, stderr = pty.openpty()
    process = subprocess.Popen(
        local.command("--rate", "8kb"),
        cwd=local.directory,
        env={**os.environ, "PYTHONPATH": str(TREE), "TERM": "xterm"},
        stdout=subprocess.PIPE,
        stderr=stderr,
    )
    os.close(stderr)
    try:
        shown = b""
        while b"verified, 0 damaged" not in shown:
            shown += os.read(terminal, 4096)
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=20)
    finally:
        process.kill()
        os.close(terminal)
    assert (process.returncode, out) == (143, b"")


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--backend", "nosuch"], '--backend: unknown backend "nosuch"'),
        (["--backend", "hot"], '--backend: "hot" is a memory backend: postgres, s3 and sqlite keep records'),
        (["--repair-from", "second"], "--repair-from: name by --backend which backend is to be repaired"),
        (["--backend", "second", "--repair-from", "hot"], '--repair-from: "hot" is a memory backend'),
        (
            ["--backend", "second", "--repair-from", "second"],
            "--backend and --repair-from are the same place",
        ),
        (["--rate", "fast"], 'argument --rate: must be a size such as 4096, "64kb"'),
    ],
)
def test_what_makes_no_sense_is_refused(options: list[str], error: str, local: Archive) -> None:
    assert local.verify(*options, code=2)[1].startswith(f"redtier: {error}")


def test_a_backend_that_is_not_there_is_no_sound_one(local: Archive) -> None:
    (local.directory / "second.db").write_text("no database")
    _, err = local.verify("--backend", "second", code=1)
    assert err.startswith("redtier: second: ")
    assert "it is no SQLite database" in err


def test_a_server_scrubs_its_stores_and_tells_how_far_it_is(local: Archive) -> None:
    port = free_port()
    local.config = local.config.replace('listen = ""', f'listen = "127.0.0.1:{port}"')
    with local.serve() as server, server.client() as client:
        fill(client, 40)
        assert "scrub0" not in client.info("tiers")
    local.vault.flip(b"long:7")
    scrub = 'scrub = "1gb"\nscrub_interval = "7d"'
    for name in ("archive", "second"):  # the mirror's store has no route
        local.config = local.config.replace(f"[backends.{name}]", f"[backends.{name}]\n{scrub}")
    with local.serve() as server, server.client() as client:
        for name, backend, damaged in (("scrub0", "second", 0), ("scrub1", "archive", 1)):
            wait_until(lambda name=name: client.info("tiers")[name]["state"] == "idle")
            line = client.info("tiers")[name]
            assert line["backend"] == backend
            assert [line[each] for each in ("checked", "last_checked", "damaged")] == [40, 40, damaged]
            assert 0 < line["began_at"] <= line["finished_at"]
        assert client.info("tiers")["tier1"]["damaged"] == 1
        [kept] = client.execute_command("TIER QUARANTINE")
        assert kept[b"key"] == b"long:7"
        with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as reply:
            metrics = reply.read().decode()
        assert 'redtier_scrub_records_total{backend="archive"} 40.0' in metrics
        assert 'redtier_scrub_damaged_total{backend="archive"} 1.0' in metrics
        assert 'redtier_scrub_finished_time_seconds{backend="archive"} 0.0' not in metrics
