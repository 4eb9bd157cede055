"""Scripts: EVAL, EVALSHA, EVALSHA_RO, EVAL_RO, SCRIPT DEBUG, SCRIPT EXISTS, SCRIPT FLUSH, SCRIPT HELP,
SCRIPT KILL, SCRIPT LOAD.

A script is a handler like any other, and its commands are handlers on its own keyspace: an overlay, whose
changes are applied once it has ended.  A script that is stopped, or that finds that a cold tier must load
more, has therefore changed nothing; one that fails has changed what it had changed until then, as in Redis.
"""

from __future__ import annotations

from collections import OrderedDict
from contextlib import suppress
from typing import Any, Final

from proxy import errors
from proxy.commands.args import parse_int
from proxy.commands.help import help_lines
from proxy.commands.scriptcalls import Run, Surroundings
from proxy.commands.spec import keys_command, session_command
from proxy.errors import CommandError
from proxy.keyspace import Keyspace
from proxy.overlay import Changes, Overlay
from proxy.resp import OK, Argv, Reply
from proxy.scripting import Calls, Interpreter, ScriptFailed, TooLong, TooMuchMemory, sha1hex
from proxy.session import Session

DIGEST_SIZE: Final = 40  # of SHA-1, in hexadecimal
SHEBANG: Final = b"#!"
FLAGS: Final = frozenset(
    {b"no-writes", b"allow-oom", b"allow-stale", b"no-cluster", b"allow-cross-slot-keys"}
)


class Script:
    """One script's text, and what its first line says of it."""

    def __init__(self, text: bytes) -> None:
        self.sha: bytes = sha1hex(text)
        self.text: bytes = text
        self.body: bytes = text  # as it is compiled
        self.declared: bool = text.startswith(SHEBANG)  # whether it says what it does
        self.writes: bool = True
        if self.declared:
            first, line_end, rest = text.partition(b"\n")
            self.body = line_end + rest  # lines keep their numbers
            self.writes = b"no-writes" not in _flags(first, bool(line_end))


def _flags(line: bytes, ended: bool) -> set[bytes]:
    words = line.split()
    if not ended or not words:
        raise CommandError(errors.SHEBANG)
    if words[0] != b"#!lua":
        raise errors.shebang_engine(words[0])
    flags: set[bytes] = set()
    for option in words[1:]:
        name, equals, value = option.partition(b"=")
        if name != b"flags" or not equals:
            raise errors.shebang_option(option)
        for flag in value.split(b","):
            if flag and flag not in FLAGS:
                raise errors.shebang_flag(flag)
            flags.add(flag)
    return flags


class Scripts:
    """The scripts of this server: known by their digests, the least recently used forgotten first."""

    def __init__(self) -> None:
        self.timeout: int = 5000  # ms
        self.max_memory: int = 64 << 20  # bytes
        self.cache_max: int = 10_000
        self.around: Surroundings = Surroundings()
        self._known: OrderedDict[bytes, Script] = OrderedDict()
        self._compiled: dict[bytes, Any] = {}  # functions of the interpreter, which has no types for them
        self._interpreter: Interpreter | None = None

    def configure(self, timeout: int, max_memory: int, cache_max: int) -> None:
        self.timeout, self.max_memory, self.cache_max = timeout, max_memory, cache_max
        self.flush()

    def flush(self) -> None:
        self._known.clear()
        self._compiled.clear()
        self._interpreter = None

    def has(self, sha: bytes) -> bool:
        return sha.lower() in self._known

    def get(self, sha: bytes) -> Script:
        script = self._known.get(sha.lower())
        if script is None:
            raise CommandError(errors.NO_SCRIPT)
        self._known.move_to_end(script.sha)
        return script

    def load(self, text: bytes) -> Script:
        """The script of a text, compiled and known from now on; raises CommandError."""
        sha = sha1hex(text)
        if sha in self._known:
            return self.get(sha)
        script = Script(text)
        self._function(script)
        self._known[sha] = script
        while len(self._known) > self.cache_max:
            oldest, _ = self._known.popitem(last=False)
            self._compiled.pop(oldest, None)
        return script

    # Any: a function of Lua's.
    def _function(self, script: Script) -> tuple[Interpreter, Any]:
        interpreter = self._interpreter
        if interpreter is None or not interpreter.usable:
            interpreter = self._interpreter = Interpreter(self.timeout, self.max_memory)
            self._compiled.clear()
        function = self._compiled.get(script.sha)
        if function is None:
            function = self._compiled[script.sha] = interpreter.compile(script.body)
        return interpreter, function

    def run(self, script: Script, keys: Argv, argv: Argv, calls: Calls) -> Reply:
        interpreter, function = self._function(script)
        try:
            return interpreter.run(function, script.sha, keys, argv, calls)
        except TooLong:
            raise errors.script_too_long(f"{self.timeout} ms") from None
        except TooMuchMemory:
            raise errors.script_too_large(f"{self.max_memory} bytes") from None


SCRIPTS: Final = Scripts()


def to_upstream(argv: Argv) -> Argv:
    """A request to run a script, as a Redis is to get it.

    EVALSHA of a script that is known here becomes EVAL: the Redis may have forgotten it, and what the client
    has sent behind it must not run before it.  As in Redis, EVAL makes a script known.
    """
    name = argv[0].lower()
    if name in (b"eval", b"eval_ro"):
        with suppress(CommandError):  # what is wrong with it the Redis says
            _count(argv)
            SCRIPTS.load(argv[1])
    elif name in (b"evalsha", b"evalsha_ro") and SCRIPTS.has(argv[1]):
        return [name.replace(b"sha", b""), SCRIPTS.get(argv[1]).text, *argv[2:]]
    return argv


def _count(argv: Argv) -> int:
    """The number of keys; what it may not be is refused before a script is looked for."""
    count = parse_int(argv[2])
    if count > len(argv) - 3:
        raise CommandError(errors.TOO_MANY_KEYS)
    if count < 0:
        raise CommandError(errors.NEGATIVE_KEYS)
    return count


def _count_of_known(argv: Argv) -> int:
    """As ``_count``, where argv[1] is a digest; before all else it must be long enough."""
    if len(argv[1]) != DIGEST_SIZE:
        raise CommandError(errors.NO_SCRIPT)
    return _count(argv)


def _run(ks: Keyspace, argv: Argv, script: Script, count: int, read_only: bool) -> Reply:
    if read_only and script.declared and script.writes:
        raise CommandError(errors.SCRIPT_MAY_WRITE)
    overlay = Overlay(ks, Changes())
    run = Run(overlay, script.writes and not read_only, SCRIPTS.around)
    reply: Reply
    overlay.begin(SCRIPTS.max_memory)
    try:
        reply = SCRIPTS.run(script, argv[3 : 3 + count], argv[3 + count :], run)
    except ScriptFailed as failed:
        reply = failed.error  # an answer, and no failure of the step: what it changed before it stays changed
    except BaseException:
        overlay.undo()
        raise
    overlay.apply()
    return reply


@keys_command("eval")
def eval_(ks: Keyspace, argv: Argv) -> Reply:
    count = _count(argv)
    return _run(ks, argv, SCRIPTS.load(argv[1]), count, False)


@keys_command("eval_ro")
def eval_ro(ks: Keyspace, argv: Argv) -> Reply:
    count = _count(argv)
    return _run(ks, argv, SCRIPTS.load(argv[1]), count, True)


@keys_command("evalsha")
def evalsha(ks: Keyspace, argv: Argv) -> Reply:
    count = _count_of_known(argv)
    return _run(ks, argv, SCRIPTS.get(argv[1]), count, False)


@keys_command("evalsha_ro")
def evalsha_ro(ks: Keyspace, argv: Argv) -> Reply:
    count = _count_of_known(argv)
    return _run(ks, argv, SCRIPTS.get(argv[1]), count, True)


@session_command("script|load")
def script_load(session: Session, argv: Argv) -> Reply:
    return session.server.tell_upstreams(argv, SCRIPTS.load(argv[2]).sha)


@session_command("script|exists")
def script_exists(session: Session, argv: Argv) -> Reply:
    return [int(SCRIPTS.has(sha)) for sha in argv[2:]]


@session_command("script|flush")
def script_flush(session: Session, argv: Argv) -> Reply:
    if len(argv) > 3 or (len(argv) == 3 and argv[2].upper() not in (b"ASYNC", b"SYNC")):
        raise CommandError(errors.SCRIPT_FLUSH_MODE)
    SCRIPTS.flush()
    return session.server.tell_upstreams(argv, OK)


@session_command("script|kill")
def script_kill(session: Session, argv: Argv) -> Reply:
    """Of ours none is ever found at work: one holds up all else until it has ended or was stopped."""
    return session.server.kill_scripts(argv)


@session_command("script|debug")
def script_debug(session: Session, argv: Argv) -> Reply:
    mode = argv[2].upper()
    if mode in (b"YES", b"SYNC"):
        raise errors.no_debugger()
    if mode != b"NO":
        raise CommandError(errors.SCRIPT_DEBUG_MODE)
    return OK


@session_command("script|help")
def script_help(session: Session, argv: Argv) -> Reply:
    return help_lines(b"script")
