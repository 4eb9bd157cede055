"""What a Postgres server, and whatever is between it and us, is like."""

from __future__ import annotations

from typing import Final

from backends.base import Finding, Grade, StoreError
from backends.postgres_pool import Link, Pool

_ROUNDS: Final = 3

_SERVER: Final = """
    select current_setting('server_version'), pg_is_in_recovery(), current_setting('synchronous_commit'),
        current_setting('fsync'), current_setting('full_page_writes')"""


async def examine(pool: Pool, listening: Pool | None, cached: bool) -> list[Finding]:
    """``pool``: two links to where records are kept; ``listening``: to where notifications are to come from.

    ``cached`` says whether prepared statements will be used.
    """
    findings: list[Finding] = []
    try:
        findings += await _server(pool)
        pooled = await _is_pooled(pool)
        if pooled and cached:
            findings.append(
                Finding(
                    Grade.WARNING,
                    "behind a transaction pooler, which may not know prepared statements: if requests fail, "
                    "set statement_cache_size = 0",
                )
            )
        if pooled and listening is None:
            findings.append(
                Finding(
                    Grade.WARNING,
                    "behind a transaction pooler, which lets no notifications through: let listen_url lead "
                    "past it",
                )
            )
        if listening is not None and await _is_pooled(listening):
            findings.append(
                Finding(Grade.MISSING, "listen_url leads to a transaction pooler: let it lead past it")
            )
    except StoreError as error:
        findings.append(Finding(Grade.MISSING, str(error)))
    return findings


async def _server(pool: Pool) -> list[Finding]:
    async with pool.link() as link:
        ((version, standby, synchronous, fsync, full_pages),) = await link.fetch(_SERVER)
    findings = [Finding(Grade.FINE, f"Postgres {version.split()[0]}")]
    if standby:
        findings.append(Finding(Grade.MISSING, "it is a standby: url must lead to the primary"))
    for name, value in (
        ("fsync", fsync),
        ("full_page_writes", full_pages),
        ("synchronous_commit", synchronous),
    ):
        if value == "off":
            findings.append(
                Finding(
                    Grade.WARNING, f"{name} is off: acknowledged writes are lost when the server goes down"
                )
            )
    return findings


async def _is_pooled(pool: Pool) -> bool:
    """Whether transactions of one connection may run in sessions that others use too."""
    async with pool.link() as one, pool.link() as other:
        ones, others = set[int](), set[int]()
        for _ in range(_ROUNDS):
            ones.add(await _session(one))
            others.add(await _session(other))
    # By itself each has a session of its own, always the same.
    return len(ones) > 1 or len(others) > 1 or ones == others


async def _session(link: Link) -> int:
    session: int = (await link.fetch("select pg_backend_pid()"))[0][0]
    return session
