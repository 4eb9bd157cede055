"""JavaScript clients, through ``tests/node/exercise.mjs``."""

from __future__ import annotations

import subprocess

import pytest

from tests.servers import ROOT

pytestmark = pytest.mark.once


@pytest.mark.parametrize("client", [["ioredis"], ["node-redis", "2"], ["node-redis", "3"]])
def test_a_node_client(client: list[str], port: int) -> None:
    name, *resp = client
    command = ["node", "exercise.mjs", name, str(port), *resp]
    node = ROOT / "tests" / "node"
    done = subprocess.run(command, cwd=node, capture_output=True, text=True, timeout=50)
    assert (done.stdout, done.stderr, done.returncode) == ("done\n", "", 0)
