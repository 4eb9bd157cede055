"""``redtier verify`` looks after the dictionaries of a store, too."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from backends.dictionaries import Dictionaries, Trained
from backends.documents import read_document, write_document
from backends.sqlite import SqliteStore
from proxy.clock import Clock
from tests.homes import toml
from tests.servers import TREE

pytestmark = pytest.mark.once  # what verifies is not compiled


def verify(directory: Path) -> tuple[int, str]:
    """The exit code, and what was told."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "proxy", "verify", "--config", "my.toml"],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(TREE)},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    return done.returncode, done.stdout


async def test_one_copy_of_a_dictionary_is_made_anew_of_the_other_and_both_lost_are_told_of(
    tmp_path: Path,
) -> None:
    backends = {"backends.hot": {"type": "memory"}, "backends.archive": {"type": "sqlite", "path": "my.db"}}
    config = toml({**backends, "http": {"listen": ""}}, {"": "hot", "long:": "archive"})
    (tmp_path / "my.toml").write_text(config)
    store = SqliteStore("archive", str(tmp_path / "my.db"), Clock())
    await store.open()
    await Dictionaries(store).add(Trained(b"long:", 1, 1, 1, 2, 1, b"words that are common"))
    nothing = "archive: 0 records verified (0)\n"
    assert verify(tmp_path) == (0, nothing)
    good = await read_document(store, "dictionary/1")
    assert good is not None
    await write_document(store, "dictionary/1", good.value[:-1], None)
    code, told = verify(tmp_path)
    assert code == 0
    assert told.startswith("archive: dictionary/1: dictionary 1 is damaged: ")
    assert told.endswith(f"; made anew of the other copy\n{nothing}")
    mended = await read_document(store, "dictionary/1")
    assert mended is not None
    assert mended.value == good.value
    for name in ("dictionary/1", "dictionary-copy/1"):
        await write_document(store, name, good.value[:-1], None)
    code, told = verify(tmp_path)
    assert code == 1
    assert told.endswith(f", and so is its copy: what was sealed with it can't be read\n{nothing}")
    await store.close()
