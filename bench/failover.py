"""What clients of a Redis route see while the servers behind it change.

    python -m bench.failover [--only resharding,cluster,sentinel] [--tree compiled|plain] [--slots N]
                             [--rounds N] [--markdown FILE]

50 clients count, each on a key of its own, and read every count back, through redtier.  A count that was
never reached, or one that goes back though its server has not failed, ends the run with an error.

- resharding: in a Redis Cluster of three primaries and three replicas so many slots move to other nodes, with
  their keys, those of the clients among them;
- cluster: one of its primaries is killed;
- sentinel: a primary with two replicas and three sentinels is killed.

Reported are the seconds from the kill until the new primary is there (the failover), from then until the last
error that any client got, and how many clients found that the new primary had not got their last count.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from bench.measure import markdown, some_of
from bench.servers import Redtier, built_trees
from proxy.slots import SLOTS, key_slot
from tests.clusters import Cluster
from tests.faults.counters import Counter, counting
from tests.faults.load import CODES
from tests.sentinels import Watched
from tests.servers import RedisServer, eventually

ALLOWED: Final = 1.0  # seconds of errors beyond the failover
CLUSTER_CODES: Final = {*CODES, "CLUSTERDOWN", "TRYAGAIN"}
CONFIG: Final = '[backends.main]\ntype = "redis"\nurl = "{}"\n[[routes]]\nprefix = ""\nbackend = "main"\n'

Rows = list[list[str]]


def now() -> float:
    return asyncio.get_running_loop().time()


async def resharding(stack: ExitStack, options: argparse.Namespace) -> Rows:
    cluster = stack.enter_context(Cluster())
    redtier = stack.enter_context(Redtier(options.tree, CONFIG.format(cluster.url)))
    async with counting(redtier.port, CLUSTER_CODES) as counters:
        slots = {key_slot(counter.name.encode()) for counter in counters}
        slots.update(range(0, SLOTS, SLOTS // max(options.slots - len(slots), 1)))
        began, before = now(), sum(len(counter.answered) for counter in counters)
        for slot in sorted(slots)[: options.slots]:
            source = cluster.owner(slot)
            target = next(node for node in cluster.primaries if node is not source)
            await asyncio.to_thread(cluster.move, slot, source, target)
        took = now() - began
        counts = sum(len(counter.answered) for counter in counters) - before
    errors = sum(counter.failed_at > 0 for counter in counters)
    assert not errors, "a move of a slot cost an error"
    assert not any(counter.setbacks for counter in counters), "a move of a slot cost an answer"
    return [[f"{options.slots} slots moved in {took:.0f} s", f"{counts:,} counts", "0", "0"]]


async def cluster(stack: ExitStack, options: argparse.Namespace) -> Rows:
    nodes = stack.enter_context(Cluster())
    redtier = stack.enter_context(Redtier(options.tree, CONFIG.format(nodes.url)))
    rows = []
    for number in range(options.rounds):
        await eventually(nodes.settled, 60)
        slot = number * SLOTS // 3 % SLOTS
        primary = nodes.owner(slot)
        replica = nodes.replica_of(primary)

        def over(replica: RedisServer = replica, slot: int = slot) -> bool:
            running = [node for node in nodes.nodes if node in RedisServer.running]
            return all(nodes.ok(node) and nodes.owner_by(node, slot) is replica for node in running)

        async with counting(redtier.port, CLUSTER_CODES) as counters:
            rows.append(await failover("a cluster's primary killed", primary, over, counters))
            on_lost = [nodes.owner(counter.name.encode()) is replica for counter in counters]
        others = [c.setbacks for c, failed in zip(counters, on_lost, strict=True) if not failed]
        assert not any(others), "a server that has not failed answered wrongly"
        primary.start()
    return rows


async def sentinel(stack: ExitStack, options: argparse.Namespace) -> Rows:
    watched = stack.enter_context(Watched())
    redtier = stack.enter_context(Redtier(options.tree, CONFIG.format(watched.url)))
    rows = []
    for _ in range(options.rounds):
        await asyncio.to_thread(watched.settle)
        primary = watched.primary

        def over(primary: RedisServer = primary) -> bool:
            return watched.primary is not primary

        async with counting(redtier.port) as counters:
            rows.append(await failover("a primary with sentinels killed", primary, over, counters))
        primary.start()
    return rows


async def failover(
    title: str, primary: RedisServer, over: Callable[[], object], counters: list[Counter]
) -> list[str]:
    await asyncio.sleep(1)
    assert not any(counter.failed_at or counter.setbacks for counter in counters)
    began = now()
    await asyncio.to_thread(primary.kill)
    while not await asyncio.to_thread(over):
        assert now() - began < 60, "no failover"
        await asyncio.sleep(0.02)
    at = now()
    await asyncio.sleep(ALLOWED + 1)
    beyond = max(0.0, max(counter.failed_at for counter in counters) - at)
    assert beyond <= ALLOWED, f"errors for {beyond:.2f} s more than the failover took"
    assert all(counter.answered[-1] > at for counter in counters), "a client is not served any more"
    setbacks = [counter.setbacks for counter in counters]
    assert max(setbacks) <= 1
    return [title, f"{at - began:.2f} s", f"{beyond:.2f} s", str(sum(setbacks))]


SECTIONS: Final[dict[str, Callable[[ExitStack, argparse.Namespace], Awaitable[Rows]]]] = {
    section.__name__: section for section in (resharding, cluster, sentinel)
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.failover", description="clients while servers change")
    sections, tree = ",".join(SECTIONS), built_trees()[0]
    parser.add_argument("--only", type=some_of(SECTIONS), default=sections, help="default: %(default)s")
    parser.add_argument("--tree", choices=built_trees(), default=tree, help="default: %(default)s")
    parser.add_argument("--slots", type=int, default=1000, help="to move; default: %(default)s")
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--markdown", metavar="FILE", type=Path, help="write the table there too")
    options = parser.parse_args()
    rows: Rows = []
    for name in options.only:
        with ExitStack() as stack:
            rows += asyncio.run(asyncio.wait_for(_rows(name, stack, options), 600))
    table = markdown("failover", ["", "failover", "errors beyond", "setbacks"], rows)
    print(table)
    if options.markdown:
        options.markdown.write_text(table)


async def _rows(name: str, stack: ExitStack, options: argparse.Namespace) -> Rows:
    return await SECTIONS[name](stack, options)


if __name__ == "__main__":
    main()
