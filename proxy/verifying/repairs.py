"""A damaged record's value, taken from another backend that has the key: a mirror, or a copy.

The record is replaced only while it is the one that was found damaged, and after a copy of it was kept in
quarantine.  How new the other backend's value is, nobody can tell: whoever names it answers for that.
"""

from __future__ import annotations

from backends.base import Want
from proxy.answers import Answer
from proxy.cells import WorkingSet
from proxy.datatypes.collection import Collection
from proxy.datatypes.values import unpack
from proxy.errors import CommandError
from proxy.homes import ColdHome, UpstreamHome
from proxy.keyspace import Keyspace
from proxy.moves import Value
from proxy.resp import Argv, Reply
from proxy.sides import Away, side_of
from proxy.verifying.walk import Finding


class Repairs:
    """From ``source`` to ``home``, which are both open; values are sealed as their routes say."""

    def __init__(self, home: ColdHome, source: ColdHome | UpstreamHome) -> None:
        self._home = home
        self._source = source

    async def mend(self, finding: Finding) -> str:
        """Empty once the record is replaced, else why it is not."""
        key = finding.key
        try:
            [value] = await side_of(self._source, key.db).read_whole([key.name])
        except Away as error:
            return str(error)
        if isinstance(value, CommandError):
            return f"{self._source.name}: {value.text}"
        if not isinstance(value, Value):
            return f"{self._source.name} has no such key"
        return await self._replace(finding, value)

    async def _replace(self, finding: Finding, value: Value) -> str:
        db, name = finding.key

        def replace(keyspace: Keyspace, argv: Argv) -> Reply:
            assert isinstance(keyspace, WorkingSet)
            if keyspace.token(name) != finding.token:
                return False
            made = unpack(value.kind, value.data)
            if isinstance(made, Collection):
                keyspace.reserve(name, None, made.size)
            keyspace.put(name, value.kind, made, value.expire_at)
            return True

        answer = Answer()
        self._home.submit(answer, replace, [name], db, Want.META, [name])
        reply = await answer.future
        if isinstance(reply, CommandError):
            return reply.text
        return "" if reply else "it was written, or removed, meanwhile"
