"""A reply that can be awaited."""

from __future__ import annotations

import asyncio

from backends.base import Waiter
from proxy.resp import Reply


class Answer(Waiter):
    """``future`` resolves to a tier's reply value (a CommandError is one), or to an upstream's raw frames."""

    def __init__(self, frames: int = 1, owner: object = None) -> None:
        super().__init__(frames)
        self.owner: object = owner  # the session that it is for, where that matters
        self.future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()

    def alone(self) -> bool:
        return True  # whoever awaits it holds its session

    def done(self, wire: bytes, failed: int) -> None:
        self.resolve(wire)

    def resolve(self, reply: Reply) -> None:
        if not self.future.done():  # whoever waited may be gone
            self.future.set_result(reply)
