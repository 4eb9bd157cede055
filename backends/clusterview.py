"""How one node of a cluster sees it, from what ``CLUSTER NODES`` answers.

Source: https://redis.io/docs/latest/commands/cluster-nodes/
"""

from __future__ import annotations

from typing import NamedTuple

UNUSABLE = ("handshake", "noaddr")


class Member(NamedTuple):
    """One node; ``of`` is the id of its primary, empty for a primary."""

    id: str
    address: str  # host:port
    names: tuple[str, ...]  # all that it may be called by others
    of: str
    failed: bool  # as most primaries say
    epoch: int  # of the configuration: where two claim a slot, the later one has it
    slots: tuple[range, ...]


def parse_nodes(text: str, asked: str, by_hostname: bool) -> tuple[Member, ...]:
    """The nodes that can be reached, by id; ``asked`` is the address of the one that answered.

    ``by_hostname``: where they announce one, which their certificates may be for.
    """
    members = [_member(line.split(" "), asked, by_hostname) for line in text.splitlines() if line]
    return tuple(sorted(member for member in members if member is not None))


def _member(fields: list[str], asked: str, by_hostname: bool) -> Member | None:
    identity, where, flags, primary, _, _, epoch, _, *slots = fields
    marks = flags.split(",")
    if any(mark in marks for mark in UNUSABLE):
        return None
    where, *announced = where.split(",")
    host, _, port = where.partition("@")[0].rpartition(":")
    if not host:  # it has not been told yet what it is called
        host = asked.rpartition(":")[0]
    elif ":" in host:
        host = f"[{host}]"
    hostname = announced[0] if announced else ""
    names = tuple(f"{name}:{port}" for name in (host, hostname) if name)
    return Member(
        identity,
        names[-1] if by_hostname else names[0],
        names,
        "" if primary == "-" else primary,
        "fail" in marks,
        int(epoch),
        tuple(_slots(word) for word in slots if not word.startswith("[")),  # those are on their way
    )


def _slots(word: str) -> range:
    first, _, last = word.partition("-")
    return range(int(first), int(last or first) + 1)
