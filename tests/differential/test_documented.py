"""Commands newer than the judge of all else: every target answers what their documentation says.

``corpus/documented/*.txt``: as ``corpus/*.txt``, but that behind each request there is ``=>`` and the reply:
a Python literal without blanks, ``OK``, or the beginning of an error, its ``-`` included.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from itertools import chain
from typing import Any, NamedTuple

import pytest

from proxy.resp import Argv
from tests.differential.compare import Open
from tests.differential.frames import decode
from tests.differential.targets import SERVER_SESSIONS
from tests.differential.test_corpus import CORPUS, sequences

OLD = ("redis", "near", "sealed", "mixed")  # keys that may be at a Redis that has none of these commands
LEFT = {b"HTTL": 5, b"HPTTL": 5000}  # what they answer passes meanwhile: by so much at most


class Step(NamedTuple):
    argv: Argv
    reply: bytes  # as it is written

    def frame(self, proto: int) -> bytes:
        """The reply; of an error, its beginning."""
        if self.reply.startswith(b"-") and not self.reply[1:].isdigit():
            return self.reply
        if self.reply == b"OK":
            return b"+OK\r\n"
        return encode(ast.literal_eval(self.reply.decode()), proto)


def encode(value: Any, proto: int) -> bytes:
    if value is None:
        return b"$-1\r\n" if proto == 2 else b"_\r\n"
    if isinstance(value, int):
        return b":%d\r\n" % value
    if isinstance(value, list):
        return b"*%d\r\n" % len(value) + b"".join(encode(item, proto) for item in value)
    return b"$%d\r\n%b\r\n" % (len(value.encode()), value.encode())


def step(line: Argv) -> Step:
    *argv, arrow, reply = line
    assert arrow == b"=>", line
    return Step(argv, reply)


DOCUMENTED = {
    title: [step(line) for line in lines]
    for title, lines in chain.from_iterable(map(sequences, sorted(CORPUS.glob("documented/*.txt"))))
}


def fits(step: Step, frame: bytes, proto: int) -> bool:
    expected = step.frame(proto)
    most = LEFT.get(step.argv[0])
    if most is None or expected.startswith(b"-"):
        return frame.startswith(expected)
    pairs = zip(decode(expected), decode(frame), strict=True)
    return all(theirs - most <= ours <= theirs if theirs > 0 else ours == theirs for theirs, ours in pairs)


@pytest.mark.parametrize(("target", "proto"), [each for each in SERVER_SESSIONS if each.values[0] not in OLD])
@pytest.mark.parametrize("title", DOCUMENTED)
async def test_a_sequence_is_answered_as_documented(
    opener: Callable[[str], Open], title: str, target: str, proto: int
) -> None:
    """Not where a Redis 7.0 answers: it knows nothing of them."""
    async with opener(target)(proto) as session:
        frames = await session.send_all([step.argv for step in DOCUMENTED[title]])
    for step, frame in zip(DOCUMENTED[title], frames, strict=True):
        assert fits(step, frame, proto), (step, frame)
