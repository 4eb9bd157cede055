"""A TCP relay on loopback that does to connections what networks do: cut, stall, truncate, refuse."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from enum import Enum
from typing import Final, Self, TypeVar

T = TypeVar("T")

RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER: close with RST, and throw away what was not sent


class Direction(Enum):
    UP = "to the server"
    DOWN = "to the client"


class _Flow:
    """One direction of all connections."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.open.set()
        self.left: int | None = None  # bytes until the connections are closed
        self.held = 0  # bytes that were read and wait at a stall


class FaultProxy:
    """Relays ``port`` to the server at ``target``, both on 127.0.0.1.

    It runs in a thread of its own, so that it serves tests with and without an event loop alike; every
    method returns when its effect is there.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault proxy", daemon=True)
        self._flows = {direction: _Flow() for direction in Direction}
        self._connections: dict[asyncio.Task[None], list[asyncio.StreamWriter]] = {}
        self._refusing = False

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(
            asyncio.start_server(self._accept, "127.0.0.1", 0), self._loop
        ).result(10)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *exception: object) -> None:
        asyncio.run_coroutine_threadsafe(self._shut_down(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def cut(self) -> None:
        """Reset every connection; what is on its way is lost."""
        self._call(self._end, True)

    def refuse(self, refusing: bool = True) -> None:
        """Reset new connections as soon as they are made, until ``refuse(False)``."""
        self._call(setattr, self, "_refusing", refusing)

    def stall(self, direction: Direction) -> None:
        """Hold what comes, and take no more of it, until ``resume``."""
        self._call(self._flows[direction].open.clear)

    def resume(self, direction: Direction) -> None:
        self._call(self._flows[direction].open.set)

    def truncate(self, direction: Direction, after: int) -> None:
        """Let ``after`` more bytes pass, then close every connection; new ones are relayed again."""
        self._call(setattr, self._flows[direction], "left", after)

    def truncating(self, direction: Direction) -> bool:
        """Whether the bytes that ``truncate`` lets pass have not all passed yet."""
        return self._flows[direction].left is not None

    def held(self, direction: Direction) -> int:
        """How many bytes wait at a stall."""
        return self._flows[direction].held

    @property
    def connections(self) -> int:
        return len(self._connections)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers = [writer]
        task = self._loop.create_task(self._relay(reader, writers))
        self._connections[task] = writers
        task.add_done_callback(self._connections.pop)

    async def _relay(self, reader: asyncio.StreamReader, writers: list[asyncio.StreamWriter]) -> None:
        [writer] = writers
        try:
            if self._refusing:
                _close(writer, reset=True)
                return
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self.target)
            writers.append(up_writer)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(self._flows[Direction.UP], reader, up_writer))
                group.create_task(self._pump(self._flows[Direction.DOWN], up_reader, writer))
        except* OSError:
            pass  # an end went away: so does the other
        finally:
            for each in writers:
                each.close()

    async def _pump(self, flow: _Flow, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.set_write_buffer_limits(0)  # so that drain waits until all is sent
        while data := await reader.read(65536):
            flow.held += len(data)
            try:
                await flow.open.wait()
            finally:
                flow.held -= len(data)
            if flow.left is not None:
                data = data[: flow.left]
                flow.left -= len(data)
            writer.write(data)
            await writer.drain()
            if flow.left == 0:
                flow.left = None
                self._end(reset=False)
                return
        writer.write_eof()

    def _end(self, reset: bool) -> None:
        for task, writers in self._connections.items():
            for writer in writers:
                _close(writer, reset)
            task.cancel()

    async def _shut_down(self) -> None:
        self._server.close()
        tasks = list(self._connections)
        self._end(reset=True)
        await asyncio.gather(*tasks, return_exceptions=True)

    def _call(self, function: Callable[..., object], *args: object) -> None:
        async def run() -> None:
            function(*args)

        asyncio.run_coroutine_threadsafe(run(), self._loop).result(10)


def _close(writer: asyncio.StreamWriter, reset: bool) -> None:
    if reset:
        with suppress(OSError):  # closed already
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        writer.transport.abort()
    else:
        writer.close()
