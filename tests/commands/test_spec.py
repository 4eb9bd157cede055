"""The command table against a running redis-server, and what must fail at load and at bind."""

from __future__ import annotations

import json
import random
import socket
from collections.abc import Iterator, Sequence
from typing import Any

import hiredis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.base import Want
from proxy.commands import generate, keyspecs, spec
from proxy.commands.keyspecs import SpecError
from proxy.commands.spec import Argument, CommandSpec, InvalidKeys, Registered, Row
from tests.servers import RedisServer

TABLE = spec.load_table()
SPECS = {each.title: each for each in spec.every_spec(TABLE)}
EXTRA: dict[str, Row] = json.loads((generate.HERE / "extra.json").read_text())["table"]
KEYED = [name for name, each in SPECS.items() if each.has_keys and name not in EXTRA]
Reply = Any  # what hiredis makes of a RESP2 reply


@pytest.fixture(scope="module")
def redis(redis_server: RedisServer) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", redis_server.port), 10) as connection:
        yield connection


def ask(redis: socket.socket, requests: Sequence[Sequence[bytes]]) -> list[Reply]:
    """RESP2 replies of the requests; an error is a hiredis.ReplyError among them."""
    reader = hiredis.Reader(encoding="utf-8")
    for argv in requests:
        bulks = b"".join(b"$%d\r\n%b\r\n" % (len(argument), argument) for argument in argv)
        redis.sendall(b"*%d\r\n%b" % (len(argv), bulks))
    replies: list[Reply] = []
    while len(replies) < len(requests):
        reply = reader.gets()
        if reply is False:
            reader.feed(redis.recv(1 << 16))
        else:
            replies.append(reply)
    return replies


def mapping(flat: Sequence[Reply]) -> dict[str, Reply]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


def walk(commands: Sequence[Reply]) -> Iterator[Reply]:
    for command in commands:
        yield command
        yield from walk(command[9])


# The facts.


def test_every_row_says_what_redis_says(redis: socket.socket) -> None:
    def half(kind_and_spec: Sequence[Reply]) -> dict[str, Reply]:
        fields = mapping(kind_and_spec)
        return {"type": fields["type"], "spec": mapping(fields["spec"])}

    def key_spec(flat: Sequence[Reply]) -> dict[str, Reply]:
        fields = mapping(flat)
        begin, find = half(fields["begin_search"]), half(fields["find_keys"])
        return {"flags": fields["flags"], "begin_search": begin, "find_keys": find}

    (commands,) = ask(redis, [[b"COMMAND"]])
    theirs = {
        command[0]: {
            "arity": command[1],
            "flags": command[2],
            "legacy_keys": command[3:6],
            "categories": [category.removeprefix("@") for category in command[6]],
            "tips": command[7],
            "key_specs": [key_spec(each) for each in command[8]],
            "subcommands": {subcommand[0] for subcommand in command[9]},
        }
        for command in walk(commands)
    }
    ours = {
        name: {
            "arity": each.arity,
            "flags": each.flag_names(),
            "legacy_keys": each.legacy_keys,
            "categories": each.categories,
            "tips": each.tips,
            "key_specs": [key_spec.facts() for key_spec in each.key_specs],
            "subcommands": {sub.title for sub in each.subcommands.values() if sub.title not in EXTRA},
        }
        for name, each in SPECS.items()
        if name not in EXTRA
    }
    assert ours == theirs


def test_the_files_are_what_the_generator_writes(redis: socket.socket) -> None:
    table, docs = generate.build(*ask(redis, [[b"COMMAND"], [b"COMMAND", b"DOCS"]]))
    assert (generate.HERE / "table.json").read_text() == table
    assert (generate.HERE / "docs.json").read_text() == docs


def test_every_summary_is_one_line_and_our_own(redis: socket.socket) -> None:
    def words(sentence: str) -> str:
        return sentence.casefold().strip(" .")

    (docs,) = ask(redis, [[b"COMMAND", b"DOCS"]])
    theirs = {words(fields["summary"]) for _, fields in generate.documents(docs)}
    for each in SPECS.values():
        summary = each.docs()["summary"]
        assert summary.endswith(".")
        assert "\n" not in summary
        assert words(summary) not in theirs


def test_categories_are_those_of_redis_in_its_order(redis: socket.socket) -> None:
    (categories,) = ask(redis, [[b"ACL", b"CAT"]])
    assert list(spec.CATEGORIES) == categories


def test_every_exception_names_a_command() -> None:
    exceptions = {*spec.FORWARD_ONLY, *spec.NOT_SHARED, *keyspecs.FINDERS, *keyspecs.VARIABLE_FLAGS}
    assert exceptions <= {each.name for each in SPECS.values()}


def test_rows_that_redis_lacks_are_in_the_table() -> None:
    where = spec.by_name(TABLE, b"TIER|WHERE")
    assert where is not None
    assert where.parent is TABLE[b"tier"]
    assert spec.key_positions(where, [b"tier", b"where", b"long:a"]) == [2]


# Keys.

VALUES = {
    "string": b"v",
    "integer": b"2",
    "double": b"0.5",
    "pattern": b"*",
    "unix-time": b"1700000000",
}
WORDS = [b"STORE", b"storedist", b"KEYS", b"get", b"GET", b"streams", b"limit", b"BY", b"auth", b"auth2"]
WORDS += [b"overflow", b"0", b"-1", b"3", b"999", b"x", b""]
NUMKEYS = b"<numkeys>"


def arguments(described: Sequence[Argument], dice: random.Random) -> list[bytes]:
    """Some request's arguments that fit the description."""
    argv: list[bytes] = []
    for argument in described:
        flags = argument.get("flags", [])
        if "optional" in flags and dice.random() < 0.5:
            continue
        repeats = dice.randint(1, 3) if "multiple" in flags else 1
        token = [argument["token"].replace('""', "").encode()] if "token" in argument else []
        kind = argument["type"]
        for repeat in range(repeats):
            if repeat == 0 or "multiple_token" in flags:
                argv += token
            if kind == "oneof":
                argv += arguments([dice.choice(argument["arguments"])], dice)
            elif kind == "block":
                argv += arguments(argument["arguments"], dice)
            elif kind == "key":
                argv.append(b"key%d" % dice.randint(0, 99))
            elif argument["name"] == "numkeys":
                argv.append(NUMKEYS)
            elif kind != "pure-token":
                argv.append(VALUES[kind])
    return argv


def request(each: CommandSpec, dice: random.Random) -> list[bytes]:
    argv = each.name.split(b"|") + arguments(each.docs().get("arguments", []), dice)
    if NUMKEYS in argv:
        at = argv.index(NUMKEYS)
        end = at + 1
        while end < len(argv) and argv[end].startswith(b"key"):
            end += 1
        argv[at] = b"%d" % (end - at - 1)
    return argv


def spoiled(argv: list[bytes], names: int, dice: random.Random) -> list[bytes]:
    """The request with one argument lost, repeated or replaced."""
    at = dice.randrange(names, len(argv)) if len(argv) > names else names
    change = dice.choice(([], argv[at : at + 1] * 2, [dice.choice(WORDS)]))
    return argv[:at] + change + argv[at + 1 :]


def has_arity(each: CommandSpec, argv: Sequence[bytes]) -> bool:
    return len(argv) == each.arity if each.arity > 0 else len(argv) >= -each.arity


def ours(each: CommandSpec, argv: list[bytes]) -> list[list[object]] | str:
    """What COMMAND GETKEYSANDFLAGS answers, made from the spec."""
    try:
        keys = spec.key_flags(each, argv)
    except InvalidKeys as error:
        with pytest.raises(InvalidKeys):
            spec.key_positions(each, argv)
        return error.text
    assert spec.key_positions(each, argv) == [position for position, _ in keys]
    return [[argv[position].decode(), list(flags)] for position, flags in keys]


@pytest.mark.parametrize("name", KEYED)
def test_keys_and_their_flags_are_those_of_redis(name: str, redis: socket.socket) -> None:
    each = SPECS[name]
    dice = random.Random(name)
    whole = [request(each, dice) for _ in range(60)]
    requests = whole + [spoiled(argv, name.count("|") + 1, dice) for argv in whole]
    requests = [argv for argv in requests if has_arity(each, argv)]
    if name in ("georadius", "georadiusbymember", "sort"):  # see test_the_key_that_is_written_is_found
        requests = [argv for argv in requests if sum(word.upper().startswith(b"STORE") for word in argv) < 2]
    if name == "pfmerge":  # see test_a_merge_without_a_source_has_a_key
        requests = [argv for argv in requests if len(argv) > 2]
    replies = ask(redis, [[b"COMMAND", b"GETKEYSANDFLAGS", *argv] for argv in requests])
    assert any(isinstance(reply, list) and reply for reply in replies), "no request had a key"
    for argv, reply in zip(requests, replies, strict=True):
        theirs = str(reply) if isinstance(reply, hiredis.ReplyError) else reply
        assert ours(each, argv) == theirs, argv


def test_a_merge_without_a_source_has_a_key() -> None:
    """It is served by Redis, whose COMMAND GETKEYS says that it is malformed."""
    assert spec.key_positions(SPECS["pfmerge"], [b"PFMERGE", b"k"]) == [1]


@given(st.sampled_from(KEYED), st.lists(st.sampled_from(WORDS) | st.binary(max_size=20), max_size=12))
def test_no_request_yields_a_position_outside_of_it(name: str, rest: list[bytes]) -> None:
    each = SPECS[name]
    argv = each.name.split(b"|") + rest
    if has_arity(each, argv):
        try:
            positions = spec.key_positions(each, argv)
        except InvalidKeys:
            return
        assert all(0 < position < len(argv) for position in positions)


@pytest.mark.parametrize(
    ("line", "written"),
    [
        (b"GEORADIUS places 1 1 1 m STORE x STORE y", b"y"),
        (b"GEORADIUS places 1 1 1 m STOREDIST x STORE y", b"y"),
        (b"GEORADIUSBYMEMBER places here 1 m STORE store ASC", b"store"),
        (b"SORT places STORE store ASC ALPHA", b"store"),
        (b"SORT places BY STORE STORE x ALPHA", b"x"),
    ],
)
def test_the_key_that_is_written_is_found(line: bytes, written: bytes, redis: socket.socket) -> None:
    """With several STORE words COMMAND GETKEYS does not tell what Redis then does; the finders do."""
    argv = line.split()
    each = TABLE[argv[0].lower()]
    assert [argv[position] for position in spec.key_positions(each, argv)] == [b"places", written]
    *_, keys = ask(redis, [[b"FLUSHALL"], b"GEOADD places 1 1 here".split(), argv, [b"KEYS", b"*"]])
    assert sorted(keys) == sorted(["places", written.decode()])


def test_a_number_of_keys_too_long_for_an_integer_is_malformed() -> None:
    with pytest.raises(InvalidKeys):
        spec.key_positions(TABLE[b"zunion"], [b"zunion", b"9" * 5000, b"a"])


def test_the_hot_path_needs_no_search() -> None:
    assert TABLE[b"set"].first_key == 1
    assert SPECS["object|encoding"].first_key == 2
    assert [TABLE[name].first_key for name in (b"mget", b"ping", b"sort", b"spublish", b"rename")] == [0] * 5


# Names.


def test_lookup_goes_into_containers() -> None:
    assert spec.lookup(TABLE, [b"GeT", b"a"]) is TABLE[b"get"]
    assert spec.lookup(TABLE, [b"CLIENT", b"Id"]) is SPECS["client|id"]
    assert spec.lookup(TABLE, [b"client"]) is TABLE[b"client"]
    assert spec.lookup(TABLE, [b"client", b"nope"]) is None
    assert spec.lookup(TABLE, [b"client|id"]) is None
    assert spec.lookup(TABLE, [b"nope"]) is None


def test_by_name_takes_the_written_form() -> None:
    assert spec.by_name(TABLE, b"Client|ID") is SPECS["client|id"]
    assert spec.by_name(TABLE, b"client|nope") is None
    assert spec.by_name(TABLE, b"get|a") is None


# Forwarding.


def test_keyed_commands_that_stay_off_shared_connections() -> None:
    kept = {each.title for each in SPECS.values() if each.has_keys and not each.forwardable}
    lists = {"blmove", "blmpop", "blpop", "brpop", "brpoplpush"}
    others = {"bzmpop", "bzpopmax", "bzpopmin", "xread", "xreadgroup"}
    assert kept == lists | others | {
        "migrate",
        "pfdebug",
        "restore-asking",
        "tier|url",
        "tier|verify",
        "tier|where",
        "watch",
    }


def test_nothing_without_keys_is_forwarded() -> None:
    assert all(each.has_keys for each in SPECS.values() if each.forwardable)


# What must fail at load and at bind.

ROW: Row = {"arity": 2, "acl": "read fast", "group": "string"}
ONE_KEY: list[str | int] = ["range", 0, 1, 0]


@pytest.mark.parametrize(
    ("name", "wrong", "message"),
    [
        ("get", {"flags": "readonly wild"}, "get: unknown flag 'wild'"),
        ("get", {"acl": "read wild"}, "get: unknown ACL category 'wild'"),
        (
            "get",
            {"specs": [{"flags": "RO wild", "begin": ["index", 1], "find": ONE_KEY}]},
            "get: unknown key spec flag 'wild'",
        ),
        (
            "get",
            {"specs": [{"flags": "RO", "begin": ["wild", 1], "find": ONE_KEY}]},
            "get: unknown begin_search",
        ),
        (
            "get",
            {"specs": [{"flags": "RO", "begin": ["index"], "find": ONE_KEY}]},
            "get: unknown begin_search",
        ),
        (
            "get",
            {"specs": [{"flags": "RO", "begin": ["index", 1], "find": ["wild"]}]},
            "get: unknown find_keys",
        ),
        (
            "get",
            {"specs": [{"flags": "RO", "begin": ["unknown"], "find": ["unknown"]}]},
            "get: a key spec that says nothing",
        ),
        (
            "get",
            {"specs": [{"flags": "RO", "begin": ["keyword", "K", -1], "find": ONE_KEY}]},
            "get: a key spec that says nothing",
        ),
        (
            "get",
            {"specs": [{"flags": "RO variable_flags", "begin": ["index", 1], "find": ONE_KEY}]},
            "get: variable flags need",
        ),
        (
            "get",
            {"specs": [{"flags": "RO", "begin": ["index", 2], "find": ONE_KEY}]},
            "get: its key may be missing",
        ),
        ("client|id", {}, "client|id: a subcommand without its container"),
    ],
)
def test_a_row_that_does_not_fit_fails_at_load(name: str, wrong: Row, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        spec.build_table({name: ROW | wrong})
    assert str(caught.value).startswith(message)


def test_what_may_share_a_connection_and_only_reads_is_flagged_readonly() -> None:
    """Else it would be sent once more where its connection was lost."""
    shared = [each for each in SPECS.values() if each.forwardable and not each.write]
    assert [each.title for each in shared if not each.flags & spec.READONLY] == []


def handler(keyspace: object, argv: list[bytes]) -> None: ...


def test_bind_puts_handlers_into_rows() -> None:
    rows: dict[str, Row] = {"get": ROW, "client": {**ROW, "group": "connection"}, "client|id": ROW}
    table = spec.build_table(rows)
    get = Registered(handler, spec.KEYS, Want.META)
    client_id = Registered(handler, spec.SESSION, Want.NOTHING)
    spec.bind(table, {b"get": get, b"client|id": client_id})
    bound = table[b"get"], table[b"client"].subcommands[b"id"]
    assert [(each.handler, each.scope, each.need) for each in bound] == [
        (handler, spec.KEYS, Want.META),
        (handler, spec.SESSION, Want.NOTHING),
    ]
    assert table[b"client"].handler is None


def test_a_handler_without_a_row_fails_at_bind() -> None:
    table = spec.build_table({"get": ROW})
    registered = Registered(handler, spec.KEYS, Want.VALUE)
    with pytest.raises(SpecError, match="gte: a handler without a row"):
        spec.bind(table, {b"get": registered, b"gte": registered})


def test_a_row_of_a_complete_family_without_a_handler_fails_at_bind() -> None:
    with pytest.raises(SpecError, match="get: no handler"):
        spec.bind(spec.build_table({"get": ROW}), {})


def test_a_name_is_registered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(spec._registry, b"get", Registered(handler, spec.KEYS, Want.VALUE))
    with pytest.raises(SpecError, match="get: a second handler"):
        spec.session_command("get")(handler)
