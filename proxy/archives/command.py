"""What ``redtier backup`` and ``redtier restore`` start, and how it ended; exit codes: ``proxy.offline``."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import BinaryIO

import uvloop

from backends.archive import About, ArchiveError, ArchiveReader, ArchiveWriter, Totals
from backends.base import StoreError
from proxy.archives.backup import Backup, Progress
from proxy.archives.restore import Restore, Restored, verified
from proxy.clock import Clock
from proxy.config import Config, in_backend, reading
from proxy.glob import Glob
from proxy.homes import ColdHome, UpstreamHome
from proxy.keyspace import DATABASES
from proxy.offline import (
    Refused,
    check_reachable,
    check_writable,
    default_state,
    has_journal,
    say,
    the_home,
    unseen,
    until_told,
)
from proxy.sides import Away, Side, side_of
from proxy.statefile import BadState, StateFile
from proxy.views import View, view


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupOrder:
    """What is to be kept, as the command line has it."""

    source: str  # a backend's name
    file: str
    match: bytes
    db: int | None  # None: all
    rate: int  # keys a second, 0: any


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreOrder:
    """What is to be written back, as the command line has it."""

    file: str
    target: str  # a backend's name
    match: bytes
    db: int | None  # None: all
    rate: int  # keys a second, 0: any
    state: str  # a file; empty: one beside the configuration


def backup(config: Config, order: BackupOrder) -> int:
    """Write an archive; the exit code."""

    def run() -> int:
        check_reachable(config, "--from", order.source)
        if Path(order.file).exists():
            raise Refused(f"--to: {order.file} is there already: name a new file, or move it away")
        return uvloop.run(_backup(config, order))

    return _told(run)


def restore(config: Config, order: RestoreOrder) -> int:
    """Write an archive's keys to a backend; the exit code."""

    def run() -> int:
        check_writable(config, "--to", order.target)
        with _opened(order.file) as file:
            return uvloop.run(_restore(config, order, file))

    return _told(run)


def verify(path: str) -> int:
    """Verify an archive and say what it is; the exit code."""

    def run() -> int:
        with _opened(path) as file:
            about = ArchiveReader(Path(path), file).about
            totals = asyncio.run(_verified(path, file))
        moment = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(about.began_at // 1000))
        what = f"keys that match {about.match}" if about.match != "*" else "keys"
        print(f"{path} is whole: {totals.records:,} {what} of {about.backend} ({about.type}), from {moment}")
        _say_unread(path, totals)
        return 0

    return _told(run)


def _told(run: Callable[[], int]) -> int:
    """The exit code, with every error told in a line."""
    try:
        return run()
    except Refused as error:
        say(str(error))
        return 2
    except (ArchiveError, Away, BadState, StoreError) as error:
        say(str(error))
        return 1
    except OSError as error:  # of a file that can't even be looked at, or not be read to its end
        say(f"{error.filename}: {error.strerror}" if error.filename else str(error))
        return 1


def _opened(path: str) -> BinaryIO:
    try:
        return open(path, "rb")  # it is the caller's
    except OSError as error:
        raise ArchiveError(f"{path}: can't be read: {error.strerror}") from None


async def _verified(path: str, file: BinaryIO) -> Totals:
    shows = view(path)
    try:
        return await verified(Path(path), file, shows)
    finally:
        shows.close()


async def _backup(config: Config, order: BackupOrder) -> int:
    shows = view(f"{order.source} to {order.file}")
    clock = Clock()
    home = the_home(reading(config, order.source), clock)
    writer = ArchiveWriter(Path(order.file))
    about = About(
        order.source,
        config.backends[order.source].type,
        order.match.decode("utf-8", "backslashreplace"),
        order.db,
        clock.ms,
    )

    if has_journal(config, order.source):
        shows.note(unseen(order.source, "backup"))

    def stop() -> None:
        shows.close()
        say(f"stopped; the same command goes on from there ({writer.partial})")

    async def close() -> None:
        shows.close()
        await asyncio.to_thread(writer.close)
        await home.close()

    return await until_told(_read(home, writer, about, order, shows, clock), stop, close)


async def _read(
    home: ColdHome | UpstreamHome,
    writer: ArchiveWriter,
    about: About,
    order: BackupOrder,
    shows: View,
    clock: Clock,
) -> int:
    mark = await asyncio.to_thread(writer.begin, about)
    try:
        sides = await _sides(home, order.db)
        if mark is not None:
            shows.note(f"goes on from {writer.records:,} keys, {writer.size:,} bytes of {writer.partial}")
        progress = Progress() if mark is None else Progress.decode(mark)
        work = Backup(sides, Glob(order.match), writer, progress, shows, clock, order.rate)
        await work.run()
    except Away as error:
        shows.close()
        say(f"{error}; the same command goes on from there ({writer.partial})")
        return 1
    shows.close()
    print(f"{writer.records:,} keys of {order.source} are in {order.file}")
    if not work.progress.unread:
        return 0
    say(f"{work.progress.unread:,} keys could not be read and are not in it, among them:")
    for line in work.progress.examples:
        say(f"  {line}")
    return 1


async def _sides(home: ColdHome | UpstreamHome, db: int | None) -> list[Side]:
    """The databases that are to be read; opens the backend.  Raises Away."""
    first = side_of(home, db or 0)
    await first.open()
    if db is not None:
        return [first]
    databases = await first.databases()
    if databases and databases[-1] >= DATABASES:
        raise Away(
            f"backend '{home.name}' has keys in database {databases[-1]}, and only 0 to {DATABASES - 1} "
            "can be reached; name one by --db"
        )
    return [side_of(home, number) for number in databases]


async def _restore(config: Config, order: RestoreOrder, file: BinaryIO) -> int:
    path = Path(order.file)
    job: dict[str, object] = {
        "archive": ArchiveReader(path, file).id.hex(),
        "to": order.target,
        "match": order.match.decode("utf-8", "backslashreplace"),
        "db": order.db,
    }
    states = StateFile(
        Path(order.state) if order.state else default_state(config, "restore", job), Restored, "restore", job
    )
    state = states.load()
    shows = view(f"{order.file} to {order.target}")
    clock = Clock()
    home = the_home(in_backend(config, order.target), clock)
    side = cache(lambda db: side_of(home, db))
    work = Restore(
        path,
        file,
        side,
        Glob(order.match),
        order.db,
        state or Restored(),
        states,
        shows,
        clock,
        order.rate,
    )

    async def write() -> int:
        totals = await verified(path, file, shows)
        if state is not None:
            shows.note(f"goes on from byte {state.end:,}, {state.read:,} keys read")
        try:
            await side(order.db or 0).open()
            await work.run(totals.records)
        except Away as error:
            states.flush()
            shows.close()
            say(f"{error}{_hint(states)}")
            return 1
        states.remove()
        shows.close()
        return _report(work.state, order, totals)

    def stop() -> None:
        shows.close()
        states.flush()
        say(f"stopped{_hint(states)}")

    async def close() -> None:
        shows.close()
        await home.close()

    return await until_told(write(), stop, close)


def _report(done: Restored, order: RestoreOrder, totals: Totals) -> int:
    print(f"{done.written:,} keys of {order.file} are in {order.target}")
    if done.expired:
        print(f"{done.expired:,} more had expired since, and were left out")
    _say_unread(order.file, totals)
    if not done.refused:
        return 0
    say(f"{done.refused:,} keys could not be written, among them:")
    for line in done.refusals:
        say(f"  {line}")
    return 1


def _say_unread(path: str, totals: Totals) -> None:
    if totals.unread:
        say(f"{path} lacks {totals.unread:,} keys that could not be read when it was written")


def _hint(states: StateFile[Restored]) -> str:
    return f"; the same command goes on from there (state: {states.path})" if states.path.exists() else ""
