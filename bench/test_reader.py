"""What it costs to split a client's stream into commands.

pytest bench/test_reader.py
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from proxy.resp import RequestReader, encode_command

COMMANDS = 16_000
READ = 65_536  # bytes in a chunk, at most, as a socket gives them


def stream(value: int) -> bytes:
    return b"".join(
        encode_command([b"SET", b"key:%012d" % number, b"x" * value]) for number in range(COMMANDS)
    )


def chunks(data: bytes, size: int) -> Iterator[bytes]:
    return (data[start : start + size] for start in range(0, len(data), size))


def read(parts: list[bytes]) -> int:
    """How many commands there are in the parts."""
    reader = RequestReader(1 << 30, 512 << 20, True)
    count = 0
    for part in parts:
        reader.feed(part)
        while reader.next_command() is not None:
            count += 1
    return count


@pytest.mark.parametrize("pipeline", [1, 16])
def test_whole_commands(benchmark: BenchmarkFixture, pipeline: int) -> None:
    """Each chunk is what one client sends at once."""
    benchmark.group = f"read {COMMANDS} commands of 100 bytes"
    data = stream(100)
    parts = list(chunks(data, len(data) // COMMANDS * pipeline))
    assert benchmark(read, parts) == COMMANDS


@pytest.mark.parametrize("value", [100, 10_000])
def test_cut_commands(benchmark: BenchmarkFixture, value: int) -> None:
    """Chunks end where they happen to."""
    benchmark.group = f"read {COMMANDS} commands of {value} bytes"
    assert benchmark(read, list(chunks(stream(value), READ))) == COMMANDS
