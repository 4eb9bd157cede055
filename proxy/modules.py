"""Commands that a Redis has and the table has not: what its modules bring.

They are taken from that Redis' own ``COMMAND`` (redis.io/docs/latest/commands/command), whose key specs tell
where the keys stand, and are forwarded to it like any other of its commands.  Where these can't tell, the
Redis is asked about each request: ``COMMAND GETKEYS``.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final

from proxy import errors
from proxy.answers import Answer
from proxy.commands.keyspecs import KEY_FLAGS, SpecError
from proxy.commands.spec import CATEGORIES, FLAGS, CommandSpec, KeySpecRow, Row
from proxy.errors import CommandError
from proxy.fanout import refusal
from proxy.homes import UpstreamHome
from proxy.keyspace import check_size
from proxy.resp import Argv, Raw, Reply, encode_command
from proxy.router import Router
from proxy.session import Session

log = logging.getLogger("redtier.modules")

LEARNED_MAX: Final = 2000  # commands
USES: Final = {True: "RO access", False: "RW access update"}  # of a key, by whether the command only reads


async def learn(home: UpstreamHome, table: Mapping[bytes, CommandSpec]) -> list[CommandSpec]:
    """The specs of the commands that only the Redis knows; none where it can't be asked."""
    try:
        reply = await home.call(0, [b"COMMAND"])
    except CommandError as error:
        log.info("backend '%s' does not tell its commands: %s", home.name, error.text)
        return []
    learned: list[CommandSpec] = []
    for info in reply if isinstance(reply, list) else []:
        name = info[0].lower()
        if name in table or len(learned) == LEARNED_MAX:
            continue
        try:
            spec = _spec(home, info)
        except (SpecError, ValueError, LookupError, TypeError, AttributeError) as error:
            log.warning("backend '%s': the command %r is not understood: %s", home.name, name, error)
            continue
        learned.append(spec)
    if learned:
        log.info("backend '%s' has %d commands of modules", home.name, len(learned))
    return learned


# Any, here and below: a reply has no types; what is not as it should be raises, and the command is left out.
def _spec(home: UpstreamHome, info: list[Any], parent: CommandSpec | None = None) -> CommandSpec:
    """A command with its subcommands, from an item of COMMAND's reply."""
    row = _row(info)
    asks = _asks(row)
    if asks:
        row["specs"] = []
    spec = CommandSpec(info[0].lower(), row, parent, home.name)
    spec.asks = asks
    for inner in info[9] if len(info) > 9 else []:
        own = inner[0].lower().partition(b"|")[2]
        spec.subcommands[own] = _spec(home, inner, spec)
    return spec


def _asks(row: Row) -> bool:
    """Whether key specs do not say all of where the keys stand.

    Redis' ``movablekeys`` also says no more than that first, last and step don't.
    """
    if "movablekeys" not in row["flags"].split():
        return False
    specs = row.get("specs", [])
    whole = all(
        "unknown" not in (each["begin"][0], each["find"][0]) and "incomplete" not in each["flags"].split()
        for each in specs
    )
    moving = any(each["begin"][0] == "keyword" or each["find"][0] == "keynum" for each in specs)
    return not (whole and moving)


def _row(info: list[Any]) -> Row:
    _, arity, flags, first, last, step, *more = info
    words = [flag.decode() for flag in flags]
    row: Row = {"arity": arity, "group": "module", "acl": "slow"}
    reads = "readonly" in words
    if not reads and "write" not in words:
        words.append("write")  # it does not say: for all that is known it writes
    row["flags"] = " ".join(word for word in words if word in FLAGS)
    if first > 0:
        row["keys"] = [first, last, step]
    if len(more) > 2:
        row["specs"] = [_key_spec(_pairs(each)) for each in more[2]]
    elif first > 0:  # a Redis before 7.0
        until = last - first if last >= 0 else last
        row["specs"] = [{"flags": USES[reads], "begin": ["index", first], "find": ["range", until, step, 0]}]
    if more:
        categories = [category.decode().removeprefix("@") for category in more[0]]
        row["acl"] = " ".join(each for each in categories if each in CATEGORIES) or "slow"
    if len(more) > 1:
        row["tips"] = [tip.decode() for tip in more[1]]
    return row


def _key_spec(facts: dict[bytes, Any]) -> KeySpecRow:
    """As ``COMMAND INFO`` nests it (redis.io/docs/latest/develop/reference/key-specs)."""
    uses = [flag.decode() for flag in facts[b"flags"]]
    return {
        "flags": " ".join(use for use in uses if use in KEY_FLAGS and use != "variable_flags") or USES[False],
        "begin": _half(facts[b"begin_search"]),
        "find": _half(facts[b"find_keys"]),
    }


def _half(facts: list[Any]) -> list[str | int]:
    half = _pairs(facts)
    values = _pairs(half[b"spec"]).values()
    return [
        half[b"type"].decode(),
        *(value.decode() if isinstance(value, bytes) else value for value in values),
    ]


def _pairs(flat: list[Any]) -> dict[bytes, Any]:
    """A map of RESP2."""
    return dict(zip(flat[::2], flat[1::2], strict=True))


class Inquiry:
    """A request whose keys only the Redis that knows the command can tell: it is asked first.

    No other request of the session's may be under way.
    """

    def __init__(self, router: Router, session: Session, spec: CommandSpec, argv: Argv) -> None:
        self._router = router
        self._session = session
        self._spec = spec
        self._argv = argv

    async def run(self) -> Reply:
        """The raw reply; raises CommandError."""
        home = self._router.of_backend(self._spec.upstream).home
        assert isinstance(home, UpstreamHome)
        names = await self._keys(home)
        server = self._server(names) if names else home.of_request(self._spec, self._argv)
        answer = Answer()
        server.shared(self._session.db, self._session.proto).send(encode_command(self._argv), answer)
        return Raw(await answer.future)

    async def _keys(self, home: UpstreamHome) -> list[bytes]:
        try:
            reply = await home.call(0, [b"COMMAND", b"GETKEYS", *self._argv])
        except CommandError as error:
            if error.code == "ERR":  # it has none, or is malformed, which the command itself says better
                return []
            raise
        return reply if isinstance(reply, list) else []

    def _server(self, names: list[bytes]) -> UpstreamHome:
        """The server that has all of these keys."""
        self._router.check_sealed(self._spec, self._argv, names)
        first = self._router.find(names[0])
        if not isinstance(first.home, UpstreamHome):
            raise errors.not_served(self._spec.title, first.home.type)
        for name in names:
            route = self._router.find(name)
            if route.home.step(name) != first.home.step(names[0]):
                raise refusal(self._router, self._spec, names)
            if route.limited:
                for arg in self._argv:
                    check_size(route.policy, arg)
        return first.home.of(names[0])
