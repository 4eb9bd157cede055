"""TIER PURGE: every key that fits a pattern goes, wherever it lives, in bounded steps."""

from __future__ import annotations

import asyncio
from itertools import islice
from typing import Final

from backends.base import Want
from proxy import errors
from proxy.answers import Answer
from proxy.commands.keys import del_
from proxy.errors import CommandError
from proxy.glob import Glob
from proxy.homes import ColdHome, MemoryHome, UpstreamHome
from proxy.resp import Reply
from proxy.router import Home, Router
from proxy.walks import PAGE, Walks

BATCH: Final = 100  # keys that are deleted together


async def purge(router: Router, walks: Walks, db: int, pattern: Glob, force: bool) -> Reply:
    """How many keys went.

    Refused, before any goes, where the pattern reaches a backend that is not ``flushable``, unless ``force``.
    What is written meanwhile may stay.
    """
    walk = walks.start(db, pattern)
    for step in walk.steps:
        if not force and not step.home.flushable:
            raise errors.not_purgeable(step.home.name)
        if step.home.down:
            raise errors.backend_down(step.home.name, step.home.down)
    count = 0
    at: tuple[int, object] | None = (0, None)
    while at is not None:
        infos, at = await walks.page(walk, at, PAGE)
        names: dict[Home, list[bytes]] = {}
        for info in infos:
            if pattern.matches(info.name):
                names.setdefault(router.find(info.name).home, []).append(info.name)
        for home, fitting in names.items():
            rest = iter(fitting)
            while batch := list(islice(rest, BATCH)):
                count += await _delete(router, home, db, batch)
        await asyncio.sleep(0)  # memory's pages come without a pause in which others could be served
    return count


async def _delete(router: Router, home: Home, db: int, names: list[bytes]) -> int:
    argv = [b"UNLINK", *names]
    if isinstance(home, MemoryHome):
        removed = del_(router.find(names[0]).keyspaces[db], argv)
        assert isinstance(removed, int)
        return removed
    if isinstance(home, UpstreamHome):
        return await home.unlink(db, names)
    assert isinstance(home, ColdHome)
    answers = []
    for name in names:  # each by itself: a key that another client is at work on holds up no other
        answer = Answer()
        home.submit(answer, del_, [b"UNLINK", name], db, Want.META, [name])
        answers.append(answer)
    count = 0
    for answer in answers:
        reply = await answer.future
        if isinstance(reply, CommandError):
            raise reply
        count += reply
    return count
