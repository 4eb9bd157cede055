"""Scripts, functions and modules at the Redis backends.

A script that is loaded here is loaded at every Redis too, and so is forgotten.  What runs there does not
depend on it: a forwarded EVALSHA carries the text of a script that is known here.  Functions live at Redis
backends alone: what changes them goes to all, what asks for them to the first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import chain
from typing import Final

from backends.frames import ReplyFramer
from proxy import errors
from proxy.answers import Answer
from proxy.errors import CommandError
from proxy.homes import UpstreamHome
from proxy.resp import Argv, Raw, Reply, encode_command
from proxy.router import Router
from proxy.scripting import script_error
from proxy.session import Deferred, Told

ASKED: Final = (b"dump", b"list", b"stats")
"""Subcommands of FUNCTION that change nothing."""
BUSY: Final = (b"kill", b"stats")
"""Those that a Redis answers while a script or function is at work, on a connection other than that one's."""


class UpstreamScripts:
    """What is asked of the Redis backends beside their keys."""

    def __init__(self, router: Router) -> None:
        self._upstreams: list[UpstreamHome] = [
            home for home in router.homes if isinstance(home, UpstreamHome)
        ]

    @property
    def _homes(self) -> list[UpstreamHome]:
        """Every server that has keys."""
        return [server for home in self._upstreams for server in home.servers]

    def tell(self, argv: Argv, reply: Reply) -> Reply:
        """Send a request to every Redis that is up; the reply is given all the same when one refuses it."""
        if not self._homes:
            return reply
        return Told(lambda: self._tell(argv, reply), reply)

    async def _tell(self, argv: Argv, reply: Reply) -> Reply:
        await asyncio.gather(*[home.call(0, argv) for home in self._homes], return_exceptions=True)
        return reply

    def kill(self, argv: Argv) -> Reply:
        """SCRIPT KILL or FUNCTION KILL: OK where one Redis has stopped something."""
        if not self._homes:
            raise CommandError(errors.NO_RUNNING_SCRIPT)
        return Deferred(lambda: self._kill(argv))

    async def _kill(self, argv: Argv) -> Reply:
        await asyncio.sleep(0)  # EXEC refuses what waits: nothing may have begun by then
        replies = await asyncio.gather(*[_ask_apart(home, 2, argv) for home in self._homes])
        for start in (b"+", b"-UNKILLABLE"):
            for wire in replies:
                if wire.startswith(start):
                    return _reply(wire)
        return _reply(replies[0])

    def function(self, proto: int, argv: Argv) -> Reply:
        """FUNCTION, but for HELP."""
        if not self._homes:
            raise errors.no_functions("function|" + argv[1].decode("utf-8", "replace").lower())
        action = argv[1].lower()
        if action == b"kill":
            return self.kill(argv)
        homes = self._homes[:1] if action in ASKED else self._homes
        return Deferred(lambda: self._function(homes, proto, action, argv))

    async def _function(self, homes: list[UpstreamHome], proto: int, action: bytes, argv: Argv) -> Reply:
        await asyncio.sleep(0)  # as above
        ask = _ask_apart if action in BUSY else _ask
        replies = await asyncio.gather(*[ask(home, proto, argv) for home in homes])
        refused = [wire for wire in replies if wire.startswith(b"-")]
        if refused and len(refused) < len(homes):
            return errors.partly_loaded(script_error(refused[0][1:-2]))
        return _reply(refused[0] if refused else replies[0])

    def modules(self, proto: int) -> Reply:
        """MODULE LIST: what any of the Redis backends has."""
        if not self._upstreams:
            return []
        return Deferred(lambda: self._modules(proto))

    async def _modules(self, proto: int) -> Reply:
        await asyncio.sleep(0)  # as above
        request = [b"MODULE", b"LIST"]
        replies = await asyncio.gather(*[_ask(home.servers[0], proto, request) for home in self._upstreams])
        listed = [wire for wire in replies if wire.startswith(b"*")]
        if not listed:
            return _reply(replies[0])
        return [Raw(module) for module in dict.fromkeys(chain.from_iterable(map(_elements, listed)))]


async def _ask(home: UpstreamHome, proto: int, argv: Argv) -> bytes:
    """The raw reply, by the lane of clients' own commands."""
    answer = Answer()
    home.shared(0, proto).send(encode_command(argv), answer)
    return await _wire(answer)


async def _ask_apart(home: UpstreamHome, proto: int, argv: Argv) -> bytes:
    """The raw reply, or the error, by a connection that nothing else waits on."""
    try:
        own = await home.dedicated(0, proto, False)
    except CommandError as error:
        return error.wire
    answer = Answer()
    clean = False
    try:
        own.send(encode_command(argv), answer)
        wire = await _wire(answer)
        clean = not wire.startswith((b"-UPSTREAM", b"-BACKENDDOWN"))
        return wire
    finally:
        own.release(clean)


async def _wire(answer: Answer) -> bytes:
    wire = await answer.future
    assert isinstance(wire, bytes)
    return wire


def _elements(array: bytes) -> Iterator[bytes]:
    """The frames of an array."""
    framer = ReplyFramer(len(array))
    framer.feed(array.partition(b"\r\n")[2])
    while (frame := framer.take(1)) is not None:
        yield frame


def _reply(wire: bytes) -> Reply:
    return script_error(wire[1:-2]) if wire.startswith(b"-") else Raw(wire)
