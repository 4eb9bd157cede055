"""Messages of chats as a chatbot's memory writes them: short, and much alike."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Final
from uuid import UUID

_TEXT: Final = (
    "I would like a small large coffee tea with oat milk and no sugar please to go today is that all can you "
    "bring it your order will be ready soon at the bar thanks what else do have any cake left yes one"
)


def messages(count: int, seed: int = 0) -> Iterator[bytes]:
    draw = random.Random(seed)
    words = _TEXT.split()
    for number in range(count):
        kind = ("human", "ai")[number % 2]
        content = " ".join(draw.choices(words, k=draw.randrange(4, 16)))
        id = str(UUID(int=draw.getrandbits(128), version=4))
        data = {"content": content, "additional_kwargs": {}, "response_metadata": {}, "type": kind, "id": id}
        yield json.dumps({"type": kind, "data": data}).encode()
