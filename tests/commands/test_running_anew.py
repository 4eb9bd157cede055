"""Handlers on a keyspace that has not everything: they may run several times, and say the same."""

from __future__ import annotations

from itertools import pairwise

import pytest

from proxy.clock import ManualClock
from proxy.commands.spec import InvalidKeys, key_positions, lookup
from proxy.errors import NeedKeys
from proxy.keyspace import Keyspace
from proxy.resp import Argv, Reply
from tests.commands.keyspaces import PartlyLoaded
from tests.differential.targets import HandlerTarget
from tests.differential.test_corpus import SEQUENCES

pytestmark = pytest.mark.plain  # no interpreted keyspace can stand in for a compiled one


class ColdTarget(HandlerTarget):
    """Loads what the command's row says, then what the handler asks for, and runs it anew each time."""

    def __init__(self) -> None:
        super().__init__(2, ManualClock())
        self.runs = 0

    def call(self, keyspace: Keyspace, argv: Argv) -> Reply:
        command = lookup(self.table, argv)
        assert command is not None
        assert command.handler is not None
        try:
            names = [argv[position] for position in key_positions(command, argv)]
        except InvalidKeys:
            names = []
        known = {(keyspace.db, name): command.need for name in names}
        asked = [NeedKeys(-1, [], 0)]
        while True:
            self.runs += 1
            try:
                return command.handler(PartlyLoaded(keyspace, known), argv)
            except NeedKeys as need:
                asked.append(need)
                for name in need.names:
                    known[need.db, name] = need.want
                for one, other in pairwise(asked):
                    assert (one.db, one.names, one.want) != (other.db, other.names, other.want)


@pytest.mark.parametrize("title", SEQUENCES)
async def test_a_handler_that_runs_anew_answers_the_same(title: str) -> None:
    once = HandlerTarget(2, ManualClock())
    assert await ColdTarget().send_all(SEQUENCES[title]) == await once.send_all(SEQUENCES[title])


@pytest.mark.parametrize(
    ("argv", "runs"),
    [
        ("SET k v", 1),  # a blind write loads nothing
        ("SET k v EX 10", 1),
        ("SET k v NX", 2),  # metadata
        ("SET k v KEEPTTL", 2),
        ("SET k v GET", 2),
        ("MSET a 1 b 2", 1),
        ("SETNX k v", 1),
        ("GET k", 1),
        ("DEL a b", 1),
        ("TTL k", 1),
        ("TOUCH k", 1),
        ("EXPIRE k 10 GT", 1),
        ("RENAME k b", 1),
        ("COPY k b DB 1 REPLACE", 1),
        ("COPY k b DB 1", 2),  # the other database's key is not among the request's
        ("OBJECT ENCODING k", 1),
    ],
)
async def test_no_more_is_loaded_than_is_needed(argv: str, runs: int) -> None:
    target = ColdTarget()
    await target.send([b"SET", b"k", b"v"])
    target.runs = 0
    await target.send(argv.encode().split())
    assert target.runs == runs
