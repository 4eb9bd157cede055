"""A session's connection without a socket."""

from __future__ import annotations

from proxy.session import Link


class NullLink(Link):
    """Counts the bytes that it is given, and throws them away."""

    def __init__(self) -> None:
        self.written = 0

    def write(self, data: bytes) -> None:
        self.written += len(data)

    def pause(self) -> None:
        pass

    def resume(self) -> None:
        pass

    def close(self) -> None:
        pass

    def abort(self, reason: str) -> None:
        raise AssertionError(reason)

    def unsent(self) -> int:
        return 0


class Collector(NullLink):
    """Keeps them."""

    def __init__(self) -> None:
        super().__init__()
        self.data = b""

    def write(self, data: bytes) -> None:
        self.data += data
