"""Scripts beyond what is compared with redis-server: limits, what they undo, and the tiers they run on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from proxy.commands import load as load_commands
from proxy.commands.scriptcalls import Run, Surroundings
from proxy.commands.scripting import SCRIPTS
from proxy.commands.spec import bind, load_table
from proxy.errors import CommandError, NeedKeys
from proxy.keyspace import STRING, KeyPolicy, Keyspace
from proxy.overlay import Changes, Overlay
from proxy.resp import Reply, Simple
from proxy.scripting import Interpreter, TooLong, TooMuchMemory, keep_frames
from tests.commands.keyspaces import make_memory

MB = 1 << 20


@pytest.fixture(autouse=True)
def limits() -> Iterator[None]:
    load_commands()
    bind(load_table())
    SCRIPTS.configure(100, 8 * MB, 10)
    yield
    SCRIPTS.configure(5000, 64 * MB, 10_000)


def run(ks: Keyspace, text: str, *keys: str, argv: tuple[str, ...] = ()) -> Reply:
    words = ["EVAL", text, str(len(keys)), *keys, *argv]
    handler = load_table()[b"eval"].handler
    assert handler is not None
    return handler(ks, [word.encode() for word in words])


def value(ks: Keyspace, key: bytes) -> object:
    entry = ks.find(key)
    return None if entry is None else entry.value


ENDLESS = {
    "a loop": "while true do end",
    "a loop that catches errors": "while true do pcall(function() while true do end end) end",
    "a handler of errors": "xpcall(function() while true do end end, function() while true do end end)",
    "a recursion that catches errors": "local function f() pcall(f) f() end f()",
    "a coroutine": "coroutine.wrap(function() while true do end end)()",
    "coroutines that catch errors": """
        local function endless() while true do end end
        while true do
            coroutine.resume(coroutine.create(function() while true do pcall(endless) end end))
        end
    """,
    "a metamethod": "local t = setmetatable({}, {__index = function(t, k) while true do end end}) return t.x",
    "a comparison for sort": "table.sort({3, 2, 1, 4}, function() while true do end end)",
    "a replacement": "return (('x'):gsub('x', function() while true do end end))",
    "commands": "while true do redis.call('set', KEYS[1], 'y') end",
    "commands whose errors are caught": "while true do pcall(redis.call, 'nosuch') redis.pcall('nosuch') end",
    "a loaded chunk": "loadstring('while true do end')()",
    "a reader": "load(function() while true do end end)",
    "json": "local t = {} for i = 1, 20000 do t[i] = i end while true do cjson.decode(cjson.encode(t)) end",
}


@pytest.mark.parametrize("title", ENDLESS)
def test_an_endless_script_is_stopped_and_its_changes_are_undone(title: str) -> None:
    ks, _ = make_memory()
    ks.put(b"k", STRING, b"old")
    before = "redis.call('set', KEYS[1], 'new') redis.call('set', KEYS[2], 'new') "
    with pytest.raises(CommandError, match="was stopped after 100 ms"):
        run(ks, before + ENDLESS[title], "k", "l")
    assert (value(ks, b"k"), value(ks, b"l")) == (b"old", None)
    assert run(ks, "return redis.call('get', KEYS[1])", "k") == b"old"


GREEDY = {
    "many values": "local t = {} for i = 1, 1e9 do t[i] = ('x'):rep(100) .. i end",
    "one value": "return ('x'):rep(1e9)",
    "doubling": "local s = 'x' while true do s = s .. s end",
    "caught": "while true do pcall(string.rep, 'x', 1e9) end",
    "caught by a handler": "while true do xpcall(function() return ('x'):rep(1e9) end, function() end) end",
    "in coroutines": "while true do coroutine.wrap(function() return ('x'):rep(1e9) end)() end",
    "replies": "local t = {} while true do t[#t + 1] = redis.call('get', KEYS[2]) .. #t end",
    "json": "return cjson.encode(('x'):rep(5 * 2^20)) .. cjson.encode(('y'):rep(5 * 2^20))",
    "what undoes it": "for i = 1, 1e9 do redis.call('rpush', KEYS[3], i) redis.call('lpop', KEYS[3]) end",
    "its reply": "local t = {} for i = 1, 100000 do t[i] = 'aaaaaaaaaaaaaaaaaaaaaaa' .. i end return t",
}


def test_a_string_that_is_written_to_again_and_again_is_kept_once_to_be_undone() -> None:
    SCRIPTS.configure(60_000, 8 * MB, 10)
    ks, _ = make_memory()
    ks.put(b"k", STRING, b"old" * 100_000)
    patches = (
        "for i = 1, 100 do redis.call('setrange', KEYS[1], i, ('x'):rep(200000)) "
        "redis.call('setbit', KEYS[1], i, 1) end "
    )
    assert run(ks, patches + "return 1", "k") == 1
    ks.put(b"k", STRING, bytearray(b"old" * 100_000))
    with pytest.raises(CommandError, match="was stopped at"):
        run(ks, patches + "local t = {} while true do t[#t + 1] = ('y'):rep(1000) .. #t end", "k")
    assert value(ks, b"k") == b"old" * 100_000


@pytest.mark.parametrize("title", GREEDY)
def test_a_script_that_holds_too_much_is_stopped_and_its_changes_are_undone(title: str) -> None:
    SCRIPTS.configure(60_000, 8 * MB, 10)
    ks, _ = make_memory()
    ks.put(b"k", STRING, b"old")
    ks.put(b"l", STRING, b"x" * 100_000)
    with pytest.raises(CommandError, match="was stopped at 8388608 bytes"):
        run(ks, "redis.call('set', KEYS[1], 'new') " + GREEDY[title], "k", "l", "m")
    assert (value(ks, b"k"), value(ks, b"m")) == (b"old", None)
    assert run(ks, "return redis.call('get', KEYS[1])", "k") == b"old"


def test_what_other_scripts_have_left_does_not_count() -> None:
    ks, _ = make_memory()
    for _ in range(30):
        assert run(ks, "return #('x'):rep(1024 * 1024)") == MB


def test_no_script_reaches_what_lies_outside() -> None:
    ks, _ = make_memory()
    for name in (
        "os",
        "io",
        "debug",
        "package",
        "require",
        "python",
        "setfenv",
        "getfenv",
        "newproxy",
        "dofile",
    ):
        found = run(ks, f"return type({name})")
        assert isinstance(found, CommandError)
        assert "nonexistent global variable" in found.text
    assert run(ks, "return {loadstring(string.dump(function() return 1 end))}") == []
    assert (
        run(ks, "local n = 0 return type(load(function() n = n + 1 return n == 1 and '\\27Lua' or nil end))")
        == b"nil"
    )


def test_nothing_that_a_script_leaves_is_seen_by_the_next() -> None:
    SCRIPTS.configure(10_000, 8 * MB, 10)  # what is timed here is nothing
    ks, _ = make_memory()
    run(ks, "table.insert(redis, 'left') table.insert(_G, 'left') KEYS.x = 1")
    assert run(ks, "return {rawget(redis, 1), rawget(_G, 1), KEYS.x}") == []
    run(ks, "getmetatable('').__index = nil")
    assert run(ks, "return ('x'):upper()") == b"X"
    run(ks, "redis.setresp(3)")
    assert run(ks, "return true") == 1
    run(ks, "collectgarbage('stop')")
    assert run(ks, "for i = 1, 6000 do local s = ('x'):rep(1000) .. i end return 1") == 1


def test_the_least_recently_used_script_is_forgotten_first() -> None:
    shas = [SCRIPTS.load(b"return %d" % number).sha for number in range(10)]
    SCRIPTS.get(shas[0])
    SCRIPTS.load(b"return 10")
    assert [SCRIPTS.has(sha) for sha in shas] == [True, False, *[True] * 8]


def test_a_script_that_needs_an_unloaded_key_has_changed_nothing() -> None:
    inner, _ = make_memory()
    overlay = Overlay(inner, Changes())
    seen: list[str] = []

    class Calls(Run):
        def call(self, argv: list[bytes]) -> Reply:
            seen.append(argv[0].decode())
            if argv[0] == b"get":
                raise NeedKeys(0, [argv[1]], 1)
            return Simple(b"OK")

    interpreter = Interpreter(100, 8 * MB)
    text = b"redis.call('set', 'a', 1) while true do pcall(redis.pcall, 'get', 'b') redis.pcall('late') end"
    with pytest.raises(NeedKeys) as raised:
        interpreter.run(interpreter.compile(text), b"", [], [], Calls(overlay, True, Surroundings()))
    assert raised.value.names == [b"b"]
    assert seen == ["set", "get"]
    assert interpreter.usable
    assert (
        interpreter.run(interpreter.compile(b"return 7"), b"", [], [], Calls(overlay, True, Surroundings()))
        == 7
    )


def test_an_interpreter_is_not_used_again_once_it_met_a_limit() -> None:
    ks, _ = make_memory()
    interpreter = Interpreter(50, 8 * MB)
    with pytest.raises(TooLong):
        interpreter.run(
            interpreter.compile(b"while true do end"),
            b"",
            [],
            [],
            Run(Overlay(ks, Changes()), True, Surroundings()),
        )
    assert not interpreter.usable
    interpreter = Interpreter(5000, 8 * MB)
    with pytest.raises(TooMuchMemory):
        interpreter.run(
            interpreter.compile(b"return ('x'):rep(1e9)"),
            b"",
            [],
            [],
            Run(Overlay(ks, Changes()), True, Surroundings()),
        )
    assert not interpreter.usable


def test_a_key_of_another_backend_is_not_touched() -> None:
    ks, _ = make_memory(routes=[(b"far:", KeyPolicy(0, 2**40, foreign=True))])
    for command in ("get", "del", "incr", "ttl"):
        reply = run(ks, f"redis.call('set', 'near', 1) return redis.call('{command}', 'far:x')", "near")
        assert isinstance(reply, CommandError)
        assert reply.code == "CROSSTIER"
    assert isinstance(run(ks, "return redis.call('set', 'far:x', 1)"), CommandError)
    assert ks.peek(b"far:x") is None
    assert value(ks, b"near") == b"1"  # as after any error


def test_what_does_not_fit_is_refused_before_anything_is_changed() -> None:
    ks, _ = make_memory(max_bytes=20_000, policy="noeviction")
    text = "for i = 1, 100 do redis.call('set', KEYS[1] .. i, ('x'):rep(1000)) end"
    reply = run(ks, text, "k")
    assert isinstance(reply, CommandError)
    assert reply.code == "OOM"
    stored = [i for i in range(1, 101) if ks.peek(b"k%d" % i)]
    assert 10 < len(stored) < 20
    assert stored == list(range(1, len(stored) + 1))


def test_tail_calls_keep_the_line_that_an_error_names() -> None:
    ks, _ = make_memory()
    reply = run(ks, "local function f()\n return cjson.decode('x')\nend\nreturn f()")
    assert isinstance(reply, CommandError)
    assert reply.text.startswith("ERR user_script:2: Expected value")
    assert reply.text.endswith("on @user_script:2.")
    assert keep_frames(b"\x1bLua" + bytes(8) + bytes(8 + 8 + 4) + bytes(24)) == b"\x1bLua" + bytes(52)
