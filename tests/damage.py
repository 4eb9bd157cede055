"""Stores that something goes wrong with: their sealed bytes, read and replaced past redtier."""

from __future__ import annotations

import asyncio
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import asyncpg

from backends.s3_layout import OVERHEAD, Names
from tests.s3 import BUCKET, raw_client
from tests.servers import S3Server


class Vault(ABC):
    """A store's records of database 0, by key."""

    @abstractmethod
    def read(self) -> dict[bytes, bytes]:
        """The sealed bytes of every record."""

    @abstractmethod
    def write(self, sealed: Mapping[bytes, bytes]) -> None:
        """Replace the sealed bytes of records, and nothing else of them."""

    def flip(self, key: bytes, bit: int = -1) -> None:
        """Another bit in place of one, counted from the first byte's lowest, or from the end."""
        self.write({key: flipped(self.read()[key], bit)})


def flipped(sealed: bytes, bit: int) -> bytes:
    changed = bytearray(sealed)
    bit %= 8 * len(sealed)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


class SqliteVault(Vault):
    def __init__(self, file: Path) -> None:
        self.file = file

    def read(self) -> dict[bytes, bytes]:
        with closing(sqlite3.connect(self.file)) as database:
            return dict(database.execute("select key, value from redtier where db = 0").fetchall())

    def write(self, sealed: Mapping[bytes, bytes]) -> None:
        rows = [(value, key) for key, value in sealed.items()]
        with closing(sqlite3.connect(self.file)) as database, database:
            database.executemany("update redtier set value = ? where db = 0 and key = ?", rows)


class PostgresVault(Vault):
    def __init__(self, url: str, table: str) -> None:
        self.url, self.table = url, table

    def read(self) -> dict[bytes, bytes]:
        async def read() -> dict[bytes, bytes]:
            connection = await asyncpg.connect(self.url)
            rows = await connection.fetch(f"select key, value from {self.table} where db = 0")
            await connection.close()
            return {row["key"]: row["value"] for row in rows}

        return asyncio.run(read())

    def write(self, sealed: Mapping[bytes, bytes]) -> None:
        async def write() -> None:
            connection = await asyncpg.connect(self.url)
            statement = f"update {self.table} set value = $2 where db = 0 and key = $1"
            await connection.executemany(statement, list(sealed.items()))
            await connection.close()

        asyncio.run(write())


class S3Vault(Vault):
    def __init__(self, server: S3Server, where: Mapping[str, Any]) -> None:
        self.client = raw_client(server)
        self.names = Names(where["prefix"])

    def read(self) -> dict[bytes, bytes]:
        found: dict[bytes, bytes] = {}
        after = ""
        while True:
            prefix = self.names.records(0, b"")
            page = self.client.list_objects_v2(Bucket=BUCKET, Prefix=prefix, StartAfter=after)
            for entry in page.get("Contents", ()):
                after = entry["Key"]
                key = self.names.key(after)
                assert key is not None
                found[key.name] = self._get(after)["Body"].read()[OVERHEAD:]
            if not page["IsTruncated"]:
                return found

    def write(self, sealed: Mapping[bytes, bytes]) -> None:
        for key, value in sealed.items():
            name = self.names.records(0, key)
            old = self._get(name)
            body = old["Body"].read()[:OVERHEAD] + value
            self.client.put_object(Bucket=BUCKET, Key=name, Body=body, Metadata=old["Metadata"])

    def strip(self, key: bytes) -> None:
        """Take a record's metadata, as who copies a bucket without."""
        name = self.names.records(0, key)
        self.client.put_object(Bucket=BUCKET, Key=name, Body=self._get(name)["Body"].read())

    def _get(self, name: str) -> Any:
        return self.client.get_object(Bucket=BUCKET, Key=name)
