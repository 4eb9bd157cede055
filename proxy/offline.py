"""What the commands that work on backends' keys without a server have in common.

Exit codes: 0 done; 1 not, or not all; 2 what was asked for makes no sense; 130 and 143 stopped by SIGINT and
SIGTERM.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from proxy.build import build_home
from proxy.clock import Clock
from proxy.config import ColdBackend, Config, MemoryBackend
from proxy.homes import ColdHome, UpstreamHome
from proxy.options import or_known, shown

# How long connections are given to close in good order when the work is told to stop.
CLOSE_PATIENCE: Final = 0.3  # seconds


class Refused(Exception):
    """What was asked for makes no sense; the message is one line."""


def say(line: str) -> None:
    print(f"redtier: {line}", file=sys.stderr, flush=True)


def check_reachable(config: Config, option: str, name: str) -> None:
    """Raises Refused for a backend, named by an option, whose keys can't be reached from another process."""
    backend = config.backends.get(name)
    if backend is None:
        raise Refused(f"{option}: unknown backend {shown(name)}{or_known(name, config.backends)}")
    if isinstance(backend, MemoryBackend):
        raise Refused(
            f"{option}: {shown(name)} is a memory backend: its keys are in the server's own "
            "process and can't be reached from here"
        )


def check_writable(config: Config, option: str, name: str) -> None:
    """As ``check_reachable``, and for one that a server alone may write to."""
    check_reachable(config, option, name)
    if has_journal(config, name):
        raise Refused(
            f"{option}: {shown(name)} is written through a journal, by the one server with its lease: "
            'stop that, and take write = "back" and journal out until this is done'
        )


def has_journal(config: Config, name: str) -> bool:
    backend = config.backends[name]
    return isinstance(backend, ColdBackend) and bool(backend.journal)


def unseen(name: str, what: str) -> str:
    """What is to be said of reading a backend with a journal."""
    return (
        f"{name} has a journal: what its server has not flushed yet is not seen here; the {what} is complete "
        "once the server is stopped, or writes through"
    )


def the_home(config: Config, clock: Clock) -> ColdHome | UpstreamHome:
    """The one backend of a configuration's routes; it is not opened yet."""
    home = build_home(config, clock)
    assert isinstance(home, (ColdHome, UpstreamHome))
    return home


def default_state(config: Config, what: str, job: dict[str, object]) -> Path:
    """Where the state of some work is kept: each of a configuration has a file of its own."""
    digest = sha256(repr(job).encode()).hexdigest()[:8]
    beside = Path(config.source)
    return beside.with_name(f"{beside.stem}.{what}-{digest}.json")


# Any: of the coroutine's other two types nothing is used.
async def until_told(
    work: Coroutine[Any, Any, int], stop: Callable[[], None], close: Callable[[], Awaitable[None]]
) -> int:
    """The exit code of the work.  Told to end by a signal, the process does so at once, after ``stop``."""
    loop = asyncio.get_running_loop()
    stopped: asyncio.Future[int] = loop.create_future()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, _stop, stopped, number)
    task = loop.create_task(work)
    await asyncio.wait((task, stopped), return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        await asyncio.gather(close(), return_exceptions=True)
        return task.result()
    task.cancel()
    stop()
    closing = asyncio.gather(task, close(), return_exceptions=True)
    await asyncio.wait([closing], timeout=CLOSE_PATIENCE)
    # As if it were killed, which such work is made for: what is under way may take longer than anyone waits.
    sys.stdout.flush()
    os._exit(128 + stopped.result())


def _stop(stopped: asyncio.Future[int], number: int) -> None:
    if not stopped.done():
        stopped.set_result(number)
