"""What ``redtier copy`` promises: 100,000 keys of all types go from a Redis to Postgres while they change.

    python -m bench.copy [--keys N] [--changes N] [--markdown FILE]

The copy is killed twice in its first pass and taken up again; a client changes keys, makes new ones and
deletes some all the while, up to the middle of the second pass.  When the copy says that both sides are the
same, what is in Postgres is copied to an empty Redis, and the two servers' own digests of all that they hold
are compared.

Printed are how long it took, the memory that the copy held at most, and what each pass found.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from bench.measure import markdown
from tests.copies import DEBUG, Copies, facts, fill, writing
from tests.servers import PostgresServer, RedisServer, wait_until

PATIENCE: Final = 1800  # seconds that a step may take
KILLS: Final = (0.3, 0.6)  # of the first pass


class Watched:
    """A copy at work: how far it is, and the most memory that it held (bytes)."""

    def __init__(self, copies: Copies, *arguments: str) -> None:
        self.memory = 0
        self._copies = copies
        self._process = copies.start("main", "archive", *arguments)
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def reach(self, number: int, keys: int) -> None:
        """Return once it has compared so many keys in a pass, or is in a later one."""

        def is_there() -> bool:
            assert self._process.poll() is None, "it ended"
            state = self._copies.state()
            return state is not None and (state["number"], state["compared"]) >= (number, keys)

        wait_until(is_there, PATIENCE)

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()
        self._thread.join()

    def end(self) -> str:
        """What it said on stderr, when it is done and both sides are equal."""
        _, err = self._process.communicate(timeout=PATIENCE)
        self._thread.join()
        if self._process.returncode:
            raise RuntimeError(f"the copy ended with {self._process.returncode}:\n{err}")
        return err

    def _watch(self) -> None:
        while self._process.poll() is None:
            with suppress(OSError):
                for line in Path(f"/proc/{self._process.pid}/status").read_text().splitlines():
                    if line.startswith("VmHWM:"):
                        self.memory = max(self.memory, int(line.split()[1]) * 1024)
            time.sleep(0.1)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--keys", type=int, default=100_000)
    parser.add_argument("--changes", type=int, default=500, help="a second, at most")
    parser.add_argument("--markdown", type=Path)
    options = parser.parse_args()
    with (
        RedisServer(*DEBUG) as main,
        RedisServer(*DEBUG) as again,
        PostgresServer(fast=True) as postgres,
        tempfile.TemporaryDirectory() as directory,
        main.client(socket_timeout=PATIENCE) as client,
        again.client(socket_timeout=PATIENCE) as other,
    ):
        copies = Copies(
            Path(directory),
            {
                "main": {"type": "redis", "url": main.url},
                "archive": {"type": "postgres", "url": postgres.url},
                "again": {"type": "redis", "url": again.url},
            },
        )
        for first in range(0, options.keys, 10_000):
            fill(client, min(10_000, options.keys - first), first=first)
        rows = _copy(copies, main, options.keys, options.changes)
        copies.copy("archive", "again", patience=PATIENCE)
        if facts(client) != facts(other):
            raise SystemExit("the two sides are not equal")
        rows.append(["keys at both ends, equal by Redis' own digest", f"{client.dbsize():,}"])
    table = markdown("redtier copy, Redis to Postgres", ["what", "figure"], rows)
    print(table)
    if options.markdown:
        options.markdown.write_text(table)


def _copy(copies: Copies, server: RedisServer, keys: int, changes: int) -> list[list[str]]:
    """The copy as described above; what was measured."""
    arguments = ["--delete", "--passes", "20"]
    memory = []
    with writing(server, keys, 1 / changes) as stop_writing:
        started = time.monotonic()
        for share in KILLS:
            copy = Watched(copies, *arguments)
            copy.reach(1, int(keys * share))
            copy.kill()
            memory.append(copy.memory)
        copy = Watched(copies, *arguments)
        copy.reach(2, 0)
        first = time.monotonic() - started
        copy.reach(2, keys // 2)
        changed = stop_writing()
    err = copy.end()
    memory.append(copy.memory)
    passes = [line for line in err.splitlines() if "is through" in line]
    return [
        ["first pass, killed twice", f"{first:.0f} s, {keys / first:,.0f} keys a second"],
        ["all passes", f"{time.monotonic() - started:.0f} s"],
        ["memory at most", f"{max(memory) / (1 << 20):.0f} MB"],
        ["keys changed meanwhile", f"{changed:,}"],
        *([line.partition(": ")[2].partition(" is through")[0], line.rpartition(": ")[2]] for line in passes),
    ]


if __name__ == "__main__":
    main()
