"""A client that shows replies as they came, byte for byte, and as trees that keep every type."""

from __future__ import annotations

import re
import shlex
import socket
from collections.abc import Iterator
from typing import Any, Final, Self

from proxy.resp import encode_command
from tests.differential.frames import Incomplete, frame_end

QUOTING: Final = re.compile(r"['\"\\]")
WORD: Final = re.compile(r"[^ \t\r\n]+")

Tree = tuple[str, Any]
"""A reply's kind (its first byte) and value: bytes, or a list of trees; a map's keys and values alternate."""


class RawClient:
    def __init__(self, port: int, proto: int = 2) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), 10)
        self.data = b""
        if proto == 3:
            self.ask("HELLO 3")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.socket.close()

    @property
    def address(self) -> str:
        host, port = self.socket.getsockname()
        return f"{host}:{port}"

    def send(self, *lines: str) -> None:
        """Requests, split as a shell does it, in one pipeline."""
        self.socket.sendall(
            b"".join(encode_command([word.encode() for word in _words(line)]) for line in lines)
        )

    def ask(self, line: str) -> bytes:
        self.send(line)
        return self.frame()

    def frame(self) -> bytes:
        """The next reply; raises EOFError."""
        while True:
            try:
                end = frame_end(self.data)
            except Incomplete:
                chunk = self.socket.recv(65536)
                if not chunk:
                    raise EOFError(self.data) from None
                self.data += chunk
            else:
                frame, self.data = self.data[:end], self.data[end:]
                return frame

    def is_closed(self) -> bool:
        """Whether the server closes the connection and sends nothing before."""
        try:
            return self.data + self.socket.recv(1) == b""
        except ConnectionResetError:
            return True


def _words(line: str) -> list[str]:
    # shlex takes a second for a value of 200 KB.
    return shlex.split(line) if QUOTING.search(line) else WORD.findall(line)


def tree(frame: bytes) -> Tree:
    return next(_trees(frame))


def _trees(data: bytes) -> Iterator[Tree]:
    """The trees that lie one after another; those of an aggregate follow its head."""
    at = 0
    while at < len(data):
        eol = data.index(b"\r\n", at)
        end = frame_end(data, at)
        kind, head = data[at : at + 1].decode(), data[at + 1 : eol]
        if kind in "*~%>":
            yield kind, list(_trees(data[eol + 2 : end]))
        elif kind in "$=" and head != b"-1":
            yield kind, data[eol + 2 : end - 2]
        else:
            yield kind, head
        at = end


def mapping(node: Tree) -> dict[bytes, Tree]:
    """A map of RESP3, or an array in its place in RESP2, by its keys."""
    kind, items = node
    assert kind in "*%"
    return {key: value for (_, key), value in zip(items[::2], items[1::2], strict=True)}
