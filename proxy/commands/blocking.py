"""Commands that wait for an element: BLMOVE BLMPOP BLPOP BRPOP BRPOPLPUSH BZMPOP BZPOPMAX BZPOPMIN, and for
replicas: WAIT WAITAOF.  XREAD and XREADGROUP are among the streams.

Each does what its namesake without B does; where there is nothing to do it answers ``Block``.
"""

from __future__ import annotations

from math import ceil, inf

from proxy import errors
from proxy.commands import lists, zsets
from proxy.commands.args import INT64_MAX, parse_double, parse_int, parse_int_or
from proxy.commands.spec import Handler, keys_command, session_command
from proxy.datatypes import longdouble
from proxy.errors import CommandError
from proxy.keyspace import Block, Keyspace
from proxy.resp import NULL_ARRAY, Argv, Reply
from proxy.session import Deferred, Session


def parse_timeout(text: bytes) -> int:
    """Seconds, with a fraction or without, as milliseconds; 0 is no bound."""
    try:
        seconds = parse_double(text, errors.TIMEOUT_NOT_FLOAT)
    except CommandError:
        try:
            longdouble.parse(text)
        except ValueError:
            raise CommandError(errors.TIMEOUT_NOT_FLOAT) from None
        seconds = inf  # more than a double can hold
    if seconds < 0 or seconds > INT64_MAX // 1000:  # Redis' own text for both
        raise CommandError(errors.TIMEOUT_NEGATIVE)
    return ceil(seconds * 1000)


@keys_command("blpop")
def blpop(ks: Keyspace, argv: Argv) -> Reply:
    return _pop_first(ks, argv, lists.lpop)


@keys_command("brpop")
def brpop(ks: Keyspace, argv: Argv) -> Reply:
    return _pop_first(ks, argv, lists.rpop)


@keys_command("bzpopmin")
def bzpopmin(ks: Keyspace, argv: Argv) -> Reply:
    return _pop_first(ks, argv, zsets.zpopmin)


@keys_command("bzpopmax")
def bzpopmax(ks: Keyspace, argv: Argv) -> Reply:
    return _pop_first(ks, argv, zsets.zpopmax)


def _pop_first(ks: Keyspace, argv: Argv, pop: Handler) -> Reply:
    """Pop one element of the first key that has any; the reply begins with that key."""
    timeout = parse_timeout(argv[-1])
    for key in argv[1:-1]:
        if ks.edit_part(key) is not None:
            popped = pop(ks, [argv[0], key])
            return [key, *popped] if isinstance(popped, list) else [key, popped]
    return Block(timeout, NULL_ARRAY, argv)


@keys_command("blmpop")
def blmpop(ks: Keyspace, argv: Argv) -> Reply:
    return _pop_some(ks, argv, lists.lmpop)


@keys_command("bzmpop")
def bzmpop(ks: Keyspace, argv: Argv) -> Reply:
    return _pop_some(ks, argv, zsets.zmpop)


def _pop_some(ks: Keyspace, argv: Argv, pop: Handler) -> Reply:
    timeout = parse_timeout(argv[1])
    reply = pop(ks, [argv[0], *argv[2:]])
    return Block(timeout, NULL_ARRAY, argv) if reply is NULL_ARRAY else reply


@keys_command("blmove")
def blmove(ks: Keyspace, argv: Argv) -> Reply:
    lists.check_ends(argv)
    timeout = parse_timeout(argv[5])
    return _move(ks, argv, timeout, lists.lmove)


@keys_command("brpoplpush")
def brpoplpush(ks: Keyspace, argv: Argv) -> Reply:
    return _move(ks, argv, parse_timeout(argv[3]), lists.rpoplpush)


def _move(ks: Keyspace, argv: Argv, timeout: int, move: Handler) -> Reply:
    if ks.edit_part(argv[1]) is None:
        return Block(timeout, None, argv)
    return move(ks, argv[:-1])


# Replicas: those of a Redis are its own affair, and what lives here has none.


@session_command("wait")
def wait(session: Session, argv: Argv) -> Reply:
    replicas = parse_int(argv[1])
    timeout = _milliseconds(argv[2])
    return _after(session, timeout if replicas > 0 else 0, 0)


@session_command("waitaof")
def waitaof(session: Session, argv: Argv) -> Reply:
    local = parse_int(argv[1])
    replicas = parse_int(argv[2])
    timeout = _milliseconds(argv[3])
    if not 0 <= local <= 1 or replicas < 0:
        raise CommandError(errors.NOT_AN_INTEGER)
    if local:
        raise CommandError(errors.WAITAOF_NO_FILE)
    return _after(session, timeout if replicas else 0, [0, 0])


def _milliseconds(text: bytes) -> int:
    timeout = parse_int_or(text, errors.TIMEOUT_NOT_AN_INTEGER)
    if timeout < 0:
        raise CommandError(errors.TIMEOUT_NEGATIVE)
    return timeout


def _after(session: Session, ms: int, reply: Reply) -> Reply:
    """The reply once the time is over; at once where it has no bound, since no replica will ever come."""
    return Deferred(lambda: session.server.after(ms, reply)) if ms else reply
