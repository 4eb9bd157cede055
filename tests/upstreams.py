"""What tests of upstreams share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from backends.base import Lane
from backends.lanes import Call
from backends.redis import RedisUpstream
from proxy.resp import encode_command

Connect = Callable[..., RedisUpstream]

DOWN: Final = b"-BACKENDDOWN backend 'main' can't serve now, try again later: "
LOST: Final = b"-UPSTREAM backend 'main': "


def send(lane: Lane, *commands: str | bytes) -> asyncio.Future[tuple[bytes, int]]:
    """One waiter for all of ``commands``, whose arguments are separated by spaces."""
    requests = [command.encode() if isinstance(command, str) else command for command in commands]
    call = Call(len(commands), asyncio.get_running_loop().create_future())
    lane.send(b"".join(encode_command(request.split()) for request in requests), call)
    return call.replies
