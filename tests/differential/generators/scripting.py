"""Scripts that run a few commands on keys, some of which fail, and commands beside them."""

from __future__ import annotations

from proxy.resp import Argv
from tests.differential import making
from tests.differential.generators import ANY_TYPE, strings

# The replies of four hang on the time of day; OBJECT ENCODING of what INCRBYFLOAT has made differs.
LEFT_OUT = (b"TTL", b"PTTL", b"EXPIRETIME", b"PEXPIRETIME", b"OBJECT")
PLAY = b"""
    redis.setresp(tonumber(ARGV[1]))
    local replies, at = {}, 3
    while at <= #ARGV do
        local size = tonumber(ARGV[at])
        local reply = redis[ARGV[2]](unpack(ARGV, at + 1, at + size))
        replies[#replies + 1] = reply == nil and 'nil' or reply
        at = at + size + 1
    end
    return replies
"""
NAMES = [b"4", b"a", b"b", b"c", b""]


def script(name: bytes, resp: bytes, call: bytes, commands: list[Argv]) -> Argv:
    played = [word for argv in commands for word in (b"%d" % len(argv), *argv)]
    return [name, PLAY, *NAMES, resp, call, *played]


BESIDE = ANY_TYPE.filter(lambda argv: argv[0].upper() not in LEFT_OUT)
WITHIN = making.one_of(strings.COMMANDS.filter(lambda argv: argv[0].upper() not in LEFT_OUT), BESIDE)
COMMANDS = making.one_of(
    making.builds(
        script,
        making.sampled_from([b"EVAL", b"EVAL", b"EVAL", b"EVAL_RO"]),
        making.sampled_from([b"2", b"3"]),
        making.sampled_from([b"call", b"pcall"]),
        making.lists(WITHIN, max_size=6),
    ),
    BESIDE,
)
START = strings.START
