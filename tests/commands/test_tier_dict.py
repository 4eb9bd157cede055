"""TIER DICT, and that values sealed with a dictionary are read, listed and moved as any others."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
import redis

from tests.chats import messages
from tests.copies import Copies
from tests.homes import toml
from tests.servers import PostgresServer, RedtierServer, free_port, wait_until

pytestmark = pytest.mark.once  # what trains dictionaries is not compiled

COUNT = 300  # keys of a test
SAMPLES = 200


def told(client: redis.Redis) -> list[dict[bytes, Any]]:
    return client.execute_command("TIER", "DICT")


def fill(client: redis.Redis, prefix: str, seed: int = 0) -> dict[str, bytes]:
    values = {f"{prefix}{number}": each for number, each in enumerate(messages(COUNT, seed))}
    pipeline = client.pipeline(transaction=False)
    for name, value in values.items():
        pipeline.set(name, value)
    pipeline.execute()
    return values


def where(client: redis.Redis, name: str) -> dict[bytes, Any]:
    return client.execute_command("TIER", "WHERE", name)


@pytest.fixture
def config(tmp_path: Path, postgres: PostgresServer) -> str:
    trained = {"cache": False, "dictionary": "auto", "dictionary_samples": SAMPLES}
    return toml(
        {
            "backends.hot": {"type": "memory"},
            "backends.local": {"type": "sqlite", "path": str(tmp_path / "local.db")},
            "backends.archive": {
                "type": "postgres",
                "url": postgres.url,
                "table": f"dict_{tmp_path.name}"[:60],
            },
        },
        {"": "hot", "long:": "archive", "note:": "local", "plain:": "local"},
        {"long:": trained, "note:": trained},
    )


def test_dictionaries_are_trained_as_values_are_written_and_told_of(config: str) -> None:
    http = free_port()
    config += f'[http]\nlisten = "127.0.0.1:{http}"\n'
    with RedtierServer(config) as server, server.client(protocol=3) as client:
        rows = told(client)
        assert [(row[b"route"], row[b"id"]) for row in rows] == [(b"long:", 0), (b"note:", 0)]
        fill(client, "long:")
        wait_until(lambda: told(client)[0][b"id"] == 1)
        values = fill(client, "long:", 1)
        [row] = [row for row in told(client) if row[b"route"] == b"long:"]
        assert row | {b"size": 0, b"trained_at": 0, b"gain": b"", b"payload_bytes": 0, b"ratio": b""} == {
            b"route": b"long:",
            b"backend": b"archive",
            b"id": 1,
            b"in_use": 1,
            b"size": 0,
            b"trained_at": 0,
            b"samples": SAMPLES * 3 // 4,
            b"gain": b"",
            b"records": COUNT,
            b"raw_bytes": sum(map(len, values.values())),
            b"payload_bytes": 0,
            b"ratio": b"",
        }
        assert float(row[b"gain"]) > 1.5
        assert float(row[b"ratio"]) > 2.5
        assert 0 < row[b"size"] <= 64 * 1024
        assert where(client, "long:7")[b"codec"] == b"zstd_dictionary_block"
        assert where(client, "long:7")[b"dictionary"] == 1
        assert client.mget(values) == list(values.values())
        with urlopen(f"http://127.0.0.1:{http}/metrics", timeout=10) as answer:
            metrics = answer.read().decode()
        assert 'redtier_dictionary_id{backend="archive",route="long:*"} 1.0' in metrics
        assert (
            f'redtier_dictionary_records_total{{backend="archive",route="long:*"}} {2.0 * COUNT}' in metrics
        )


def test_one_is_trained_at_a_wish_and_found_after_a_restart(config: str) -> None:
    with RedtierServer(config) as server, server.client(protocol=3) as client:
        client.mset({f"note:{number}": each for number, each in enumerate(messages(120))})
        row = client.execute_command("TIER", "DICT", "TRAIN", "note:")
        assert (row[b"id"], row[b"in_use"], row[b"samples"]) == (1, 1, 90)
        values = fill(client, "note:")
    with RedtierServer(config) as server, server.client(protocol=3) as client:
        assert client.mget(values) == list(values.values())
        assert [row[b"in_use"] for row in told(client) if row[b"route"] == b"note:"] == [1]
        client.set("note:new", values["note:0"])
        assert where(client, "note:new")[b"dictionary"] == 1


def test_values_are_read_though_no_route_trains_any_more(config: str) -> None:
    with RedtierServer(config) as server, server.client(protocol=3) as client:
        client.mset({f"note:{number}": each for number, each in enumerate(messages(120))})
        client.execute_command("TIER", "DICT", "TRAIN", "note:")
        values = fill(client, "note:")
    without = config.replace('dictionary = "auto"', 'dictionary = "none"')
    with RedtierServer(without) as server, server.client(protocol=3) as client:
        assert client.mget(values) == list(values.values())
        [row] = told(client)
        assert (row[b"route"], row[b"id"], row[b"in_use"]) == (b"note:", 1, 0)


def test_what_can_not_be_done_is_refused(config: str) -> None:
    cases = {
        "TRAIN": "syntax error",
        "TRAIN note: x": "syntax error",
        "LIST": "syntax error",
        "TRAIN plain:": "no route of a store has the prefix 'plain:' and 'dictionary = \"auto\"'",
        "TRAIN note:user:": "no route of a store has the prefix 'note:user:'",
        "TRAIN other:": "no route of a store has the prefix 'other:'",
        "TRAIN note:": "there are 0 values to train a dictionary for 'note:' from, and it takes 100",
    }
    with RedtierServer(config) as server, server.client() as client:
        for line, error in cases.items():
            with pytest.raises(redis.ResponseError, match=re.escape(error)):
                client.execute_command("TIER", "DICT", *line.split())


def test_a_copy_to_another_backend_unseals_and_seals_anew(tmp_path: Path, postgres: PostgresServer) -> None:
    copies = Copies(
        tmp_path,
        {
            "archive": {"type": "postgres", "url": postgres.url, "table": f"dict_copy_{tmp_path.name}"[:60]},
            "local": {"type": "sqlite", "path": str(tmp_path / "local.db")},
        },
        long="archive",
    )
    copies.options = {"long:": {"dictionary": "auto", "dictionary_samples": SAMPLES}}
    copies.write()
    with RedtierServer(copies.file.read_text()) as server, server.client(protocol=3) as client:
        fill(client, "long:")
        wait_until(lambda: told(client)[0][b"in_use"])
        values = fill(client, "long:", 1)
        assert where(client, "long:0")[b"dictionary"] > 0
    out, _ = copies.copy("archive", "local")
    assert out == f"{COUNT} keys of archive are the same in local\n"
    copies.routes["long:"] = "local"
    copies.write()
    with RedtierServer(copies.file.read_text()) as server, server.client(protocol=3) as client:
        assert client.mget(values) == list(values.values())
