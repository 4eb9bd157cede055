"""A Redis Cluster of primaries with a replica each, which fails over within a few seconds."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, Final, Self

from proxy.slots import SLOTS, key_slot
from tests.servers import RedisServer, Server, free_port, wait_until

NODE_TIMEOUT: Final = 1500  # ms; where all share a machine that is busy, less makes failovers of its own


class Cluster:
    """``primaries``, each with a share of the slots in their order, and ``replicas`` in the same order."""

    def __init__(self, primaries: int = 3, replicas: bool = True, *options: str) -> None:
        self._stack = ExitStack()
        self._counts = primaries, primaries * replicas
        self._options = options
        self.primaries: list[RedisServer] = []
        self.replicas: list[RedisServer] = []

    def __enter__(self) -> Self:
        try:
            primaries, replicas = self._counts
            self.primaries = [self._start() for _ in range(primaries)]
            self.replicas = [self._start() for _ in range(replicas)]
            self._join()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def _start(self) -> RedisServer:
        options = ["--cluster-enabled", "yes", "--cluster-port", str(free_port())]
        options += ["--cluster-node-timeout", str(NODE_TIMEOUT), "--repl-diskless-sync-delay", "0"]
        options += ["--cluster-replica-validity-factor", "0"]
        return self._stack.enter_context(RedisServer(*options, *self._options))

    def _join(self) -> None:
        first = self.primaries[0]
        for number, node in enumerate(self.nodes):
            asked = [f"SET-CONFIG-EPOCH {number + 1}"]
            if number < len(self.primaries):
                at, end = number * SLOTS // len(self.primaries), (number + 1) * SLOTS // len(self.primaries)
                asked.append(f"ADDSLOTSRANGE {at} {end - 1}")
            if node is not first:
                bus = first.args[first.args.index("--cluster-port") + 1]
                asked.append(f"MEET 127.0.0.1 {first.port} {bus}")
            for each in asked:
                self.cluster(node, each)
        wait_until(lambda: all(len(self.view(node)) == len(self.nodes) for node in self.nodes), 30)
        for primary, replica in zip(self.primaries, self.replicas, strict=False):
            self.cluster(replica, f"REPLICATE {self.id(primary)}")
        wait_until(self.settled, 30)

    def cluster(self, node: RedisServer, command: str) -> Any:
        with node.client() as client:
            return client.execute_command("CLUSTER", *command.split())

    def ok(self, node: RedisServer) -> bool:
        """Whether it serves, as far as the cluster lets it."""
        return b"cluster_state:ok\r\n" in self.cluster(node, "INFO")

    def id(self, node: RedisServer) -> str:
        return str(self.cluster(node, "MYID").decode())

    def view(self, node: RedisServer) -> list[list[str]]:
        """The fields of each line of CLUSTER NODES, but for nodes that it has not shaken hands with yet."""
        with node.client() as client:
            client.response_callbacks.clear()
            text = client.execute_command("CLUSTER NODES").decode()
        lines = [line.split(" ") for line in text.splitlines()]
        return [line for line in lines if "handshake" not in line[2]]

    def settled(self) -> bool:
        """Whether all nodes that run agree, and every replica follows."""
        running = [node for node in self.nodes if node in Server.running]
        views = [self.view(node) for node in running]
        owners = [sorted((line[0], tuple(line[8:])) for line in view if len(line) > 8) for view in views]
        for node in running:
            with node.client() as client:
                facts = client.info("replication")
                if not self.ok(node):
                    return False
            if facts["role"] == "slave" and facts["master_link_status"] != "up":
                return False
        replicas = sum("slave" in line[2] and "fail" not in line[2] for line in views[0])
        return all(each == owners[0] for each in owners) and replicas >= self._counts[1] - self._lost

    @property
    def _lost(self) -> int:
        return sum(node not in Server.running for node in self.nodes)

    @property
    def nodes(self) -> Sequence[RedisServer]:
        return [*self.primaries, *self.replicas]

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)

    def owner(self, key: bytes | int) -> RedisServer:
        """The node that has a key, or a slot."""
        slot = key if isinstance(key, int) else key_slot(key)
        return self.owner_by(next(node for node in self.nodes if node in Server.running), slot)

    def owner_by(self, asked: RedisServer, slot: int) -> RedisServer:
        """The node that has a slot, as one sees it."""
        for line in self.view(asked):
            for word in line[8:]:
                first, _, last = word.partition("-")
                if not word.startswith("[") and int(first) <= slot <= int(last or first):
                    return self._node(line)
        raise LookupError(f"nobody has slot {slot}")

    def replica_of(self, primary: RedisServer) -> RedisServer:
        identity = self.id(primary)
        return next(self._node(line) for line in self.view(primary) if line[3] == identity)

    def has_slots(self, node: RedisServer) -> bool:
        return any(self._node(line) is node and len(line) > 8 for line in self.view(node))

    def _node(self, line: list[str]) -> RedisServer:
        port = int(line[1].partition("@")[0].rpartition(":")[2])
        return next(node for node in self.nodes if node.port == port)

    # Moving slots

    def begin_move(self, slot: int, source: RedisServer, target: RedisServer) -> None:
        self.cluster(target, f"SETSLOT {slot} IMPORTING {self.id(source)}")
        self.cluster(source, f"SETSLOT {slot} MIGRATING {self.id(target)}")

    def move_keys(self, slot: int, source: RedisServer, target: RedisServer, count: int = 1000) -> int:
        """Move so many of its keys; how many there were."""
        names = self.cluster(source, f"GETKEYSINSLOT {slot} {count}")
        if names:
            with source.client() as client:
                client.execute_command("MIGRATE", "127.0.0.1", target.port, "", 0, 10_000, "KEYS", *names)
        return len(names)

    def end_move(self, slot: int, source: RedisServer, target: RedisServer) -> None:
        for node in (target, source):  # the others hear of it
            self.cluster(node, f"SETSLOT {slot} NODE {self.id(target)}")

    def move(self, slot: int, source: RedisServer, target: RedisServer) -> None:
        self.begin_move(slot, source, target)
        while self.move_keys(slot, source, target):
            pass
        self.end_move(slot, source, target)
