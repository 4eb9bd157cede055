"""A module's command that names no key, run on every server of a cluster.

Its tips say whether it is to be, and how the replies become one
(https://redis.io/docs/latest/develop/reference/command-tips/).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Final

from proxy.answers import Answer
from proxy.commands.spec import CommandSpec
from proxy.homes import UpstreamHome, parse_reply
from proxy.resp import Argv, Raw, Reply, encode_command, encode_reply
from proxy.session import Session

EVERYWHERE: Final = ("request_policy:all_shards", "request_policy:all_nodes")
FOLDS: Final[dict[str, Callable[[Iterable[int]], int]]] = {
    "agg_sum": sum,
    "agg_min": min,
    "agg_max": max,
    "agg_logical_and": all,
    "agg_logical_or": any,
}
AGGREGATES: Final = (b"*", b"~", b"%")


def runs_everywhere(spec: CommandSpec, home: UpstreamHome) -> bool:
    return home.sharded and any(tip in EVERYWHERE for tip in spec.tips)


async def run_everywhere(session: Session, spec: CommandSpec, argv: Argv, home: UpstreamHome) -> Reply:
    """The servers' replies as one."""
    answers = []
    for server in home.servers:
        answer = Answer()
        server.shared(session.db, session.proto).send(encode_command(argv), answer)
        answers.append(answer.future)
    return Raw(merged(spec.tips, [bytes(wire) for wire in await asyncio.gather(*answers)], session.proto))


def merged(tips: list[str], wires: list[bytes], proto: int) -> bytes:
    """One reply of several, all raw; that of a server that refused it comes before all others."""
    policy = next((tip.partition(":")[2] for tip in tips if tip.startswith("response_policy:")), "")
    refused = [wire for wire in wires if wire.startswith(b"-")]
    if refused:
        served = [wire for wire in wires if not wire.startswith(b"-")]
        return served[0] if policy == "one_succeeded" and served else refused[0]
    fold = FOLDS.get(policy)
    if fold is not None:
        values = [parse_reply(wire) for wire in wires]
        if isinstance(values[0], list):
            return encode_reply([int(fold(each)) for each in zip(*values, strict=True)], proto)
        return encode_reply(int(fold(values)), proto)
    kind = wires[0][:1]
    if policy or kind not in AGGREGATES or any(wire[:1] != kind for wire in wires):
        return wires[0]
    parts = [wire[1:].split(b"\r\n", 1) for wire in wires]
    return b"%b%d\r\n%b" % (kind, sum(int(size) for size, _ in parts), b"".join(body for _, body in parts))
