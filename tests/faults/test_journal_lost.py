"""Write-back under kills and power cuts, and before stores that are away: what was acknowledged is there."""

from __future__ import annotations

import random
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests import s3
from tests.faultproxy import FaultProxy
from tests.faults.load import Client, Load, load
from tests.faults.synced import cut_back
from tests.homes import toml, wait_for_homes
from tests.rawclient import RawClient
from tests.servers import ROOT, MotoServer, PostgresServer, RedtierServer, eventually

pytestmark = [pytest.mark.once, pytest.mark.timeout(400)]

PREFIXES = ("long:", "blob:", "note:")
KILLS = 20


class Noting(RedtierServer):
    """It notes what of its journals is on the disk."""

    def command(self) -> list[str]:
        command = super().command()
        place = command.index("proxy")
        return [*command[:place], "tests.faults.synced", *command[place + 1 :]]

    def environment(self) -> Mapping[str, str]:
        environment = super().environment()
        return {**environment, "PYTHONPATH": f"{environment['PYTHONPATH']}:{ROOT}"}

    @property
    def journals(self) -> list[Path]:
        return [self.directory / name for name in ("postgres", "s3", "sqlite")]


def config(postgres: str, place: Mapping[str, object], **options: object) -> str:
    common = {"journal_max": "1mb", **options}
    return toml(
        {
            "backends.memory": {"type": "memory"},
            "backends.postgres": {"type": "postgres", "url": postgres, "journal": "postgres", **common},
            "backends.s3": {"type": "s3", "timeout": "2s", "journal": "s3", **common, **place},
            "backends.sqlite": {"type": "sqlite", "journal": "sqlite", **common},
        },
        {"long:": "postgres", "blob:": "s3", "note:": "sqlite", "": "memory"},
        {prefix: {"write": "back"} for prefix in PREFIXES},
    )


@pytest.fixture(params=["killed", "cut"])
def redtier(
    request: pytest.FixtureRequest, mortal_postgres: PostgresServer, s3_moto: MotoServer
) -> Iterator[tuple[Noting, bool]]:
    with Noting(config(mortal_postgres.url, s3.place(s3_moto))) as server:
        yield server, request.param == "cut"


async def test_killed_twenty_times_under_load_it_has_lost_nothing(redtier: tuple[Noting, bool]) -> None:
    server, cut = redtier
    when = random.Random(5)
    before: list[Load] = []
    for _ in range(KILLS):
        async with load(server.port, PREFIXES, mortal=True) as at_work:
            await at_work.progress(*PREFIXES, rounds=when.randrange(1, 20))
            server.kill()
        if cut:
            for journal in server.journals:
                cut_back(journal)
        server.start()
        before.append(at_work)
        async with await Client.connect(server.port) as client:
            await client.until_served(*PREFIXES)
        for each in before[-2:]:
            await each.verify(server.port, *PREFIXES)
    for each in before:
        await each.verify(server.port, *PREFIXES)
    # And so it is in the stores themselves.
    await eventually(lambda: _dirty(server) == 0, 60)
    for journal in server.journals:
        assert not list(journal.glob("set-aside-*"))
    server.kill()
    for journal in server.journals:
        for segment in journal.glob("*.journal"):
            segment.unlink()
    server.start()
    async with await Client.connect(server.port) as client:
        await client.until_served(*PREFIXES)
    for each in before:
        await each.verify(server.port, *PREFIXES)


def _dirty(server: RedtierServer) -> int:
    with server.client() as client:
        tiers = client.info("tiers").values()
        return sum(tier["dirty_keys"] for tier in tiers if "dirty_keys" in tier)


async def test_a_store_that_is_away_loses_nothing_even_if_the_proxy_is_killed_meanwhile(
    mortal_postgres: PostgresServer, s3_moto: MotoServer
) -> None:
    place = s3.place(s3_moto)
    with FaultProxy(s3_moto.port) as network:
        place["endpoint_url"] = f"http://127.0.0.1:{network.port}"
        with RedtierServer(config(mortal_postgres.url, place)) as server:
            async with load(server.port, ["blob:"], mortal=True) as at_work:
                await at_work.progress("blob:")
                network.refuse()
                network.cut()
                # New keys can't be looked up now; what is only written, or is dirty, goes on.
                async with await Client.connect(server.port) as client:
                    for number in range(50):
                        assert await client.ask("SET", f"blob:away:{number}", number) == b"OK"
                        assert await client.ask("INCR", f"blob:away:{number}") == number + 1
                assert _dirty(server) >= 50
                server.kill()
            network.refuse(False)
            server.start()
            async with await Client.connect(server.port) as client:
                await client.until_served("blob:")
                replies = await client.pipeline([("GET", f"blob:away:{n}") for n in range(50)])
                assert replies == [b"%d" % (n + 1) for n in range(50)]
            await at_work.verify(server.port, "blob:")


async def test_a_journal_that_fills_slows_writers_then_refuses_them(
    mortal_postgres: PostgresServer, s3_moto: MotoServer
) -> None:
    place = s3.place(s3_moto)
    with FaultProxy(s3_moto.port) as network:
        place["endpoint_url"] = f"http://127.0.0.1:{network.port}"
        settings = config(mortal_postgres.url, place, journal_max="128kb")
        with RedtierServer(settings) as server, RawClient(server.port) as client:
            wait_for_homes(server.port, ["blob:"])
            network.refuse()
            network.cut()
            accepted = 0
            while (reply := client.ask(f"SET blob:{accepted} {secrets.token_hex(500)}")) == b"+OK\r\n":
                accepted += 1
            assert b"-BACKENDDOWN" in reply
            assert b"journal_max" in reply
            network.refuse(False)
            for number in range(accepted):
                assert client.ask(f"STRLEN blob:{number}") == b":1000\r\n"
            await eventually(lambda: client.ask("SET blob:again x") == b"+OK\r\n", 30)


async def test_stopped_in_good_order_it_leaves_nothing_in_the_journal(
    mortal_postgres: PostgresServer, s3_moto: MotoServer
) -> None:
    with RedtierServer(config(mortal_postgres.url, s3.place(s3_moto))) as server:
        async with load(server.port, PREFIXES) as at_work:
            await at_work.progress(*PREFIXES)
        server.stop()
        for name in ("postgres", "s3", "sqlite"):
            assert not list((server.directory / name).glob("*.journal"))
        server.start()
        async with await Client.connect(server.port) as client:
            await client.until_served(*PREFIXES)
        await at_work.verify(server.port, *PREFIXES)
