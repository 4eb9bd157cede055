"""What commands there are: COMMAND and its subcommands.

They tell of what is served: a command without a handler is one only where a route leads to a Redis that it
can be forwarded to.  Shapes: redis.io/commands/command and redis.io/commands/command-docs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final, TypeAlias

from proxy import errors
from proxy.commands.help import help_lines
from proxy.commands.keyspecs import KeyUse
from proxy.commands.spec import (
    Argument,
    CommandSpec,
    by_name,
    every_spec,
    key_flags,
    load_table,
    lookup,
    session_command,
)
from proxy.errors import SYNTAX, CommandError
from proxy.glob import Glob
from proxy.resp import Argv, Reply, Set, Simple
from proxy.session import Session

Fields: TypeAlias = dict[str, Any]  # a map of reply values


@session_command("command")
def command(session: Session, argv: Argv) -> Reply:
    return [_describe(session, spec) for spec in _commands(session)]


@session_command("command|count")
def command_count(session: Session, argv: Argv) -> Reply:
    return len(_commands(session))


@session_command("command|info")
def command_info(session: Session, argv: Argv) -> Reply:
    if len(argv) == 2:
        return command(session, argv)
    found = (_named(session, name) for name in argv[2:])
    return [None if spec is None else _describe(session, spec) for spec in found]


@session_command("command|docs")
def command_docs(session: Session, argv: Argv) -> Reply:
    found = _commands(session) if len(argv) == 2 else (_named(session, name) for name in argv[2:])
    return {spec.title: _document(session, spec) for spec in found if spec is not None}


@session_command("command|list")
def command_list(session: Session, argv: Argv) -> Reply:
    fits: Filter = _everything
    if len(argv) != 2:
        if len(argv) != 5 or argv[2].upper() != b"FILTERBY" or argv[3].upper() not in FILTERS:
            raise CommandError(SYNTAX)
        fits = FILTERS[argv[3].upper()](argv[4].lower())
    return [spec.name for spec in _served(session) if fits(spec)]


Filter: TypeAlias = Callable[[CommandSpec], bool]


def _everything(spec: CommandSpec) -> bool:
    return True


def _of_module(name: bytes) -> Filter:
    return lambda spec: False  # there are no modules


def _in_category(name: bytes) -> Filter:
    return lambda spec: name in map(str.encode, spec.categories)


def _like(pattern: bytes) -> Filter:
    glob = Glob(pattern)
    return lambda spec: glob.matches(spec.name)


FILTERS: Final[dict[bytes, Callable[[bytes], Filter]]] = {
    b"MODULE": _of_module,
    b"ACLCAT": _in_category,
    b"PATTERN": _like,
}


@session_command("command|getkeys")
def command_getkeys(session: Session, argv: Argv) -> Reply:
    return [argv[2 + position] for position, _ in _key_uses(argv[2:])]


@session_command("command|getkeysandflags")
def command_getkeysandflags(session: Session, argv: Argv) -> Reply:
    return [[argv[2 + position], _words(flags)] for position, flags in _key_uses(argv[2:])]


def _key_uses(request: Argv) -> list[KeyUse]:
    """The keys of a request, by the table: whether it would be served here is another question."""
    spec = lookup(load_table(), request)
    if spec is None:
        raise CommandError(errors.GETKEYS_UNKNOWN)
    if not spec.has_keys:
        raise CommandError(errors.GETKEYS_NO_KEYS)
    if not spec.arity_fits(len(request)):
        raise CommandError(errors.GETKEYS_ARITY)
    return key_flags(spec, request)


@session_command("command|help")
def command_help(session: Session, argv: Argv) -> Reply:
    return help_lines(b"command")


def _is_served(session: Session, spec: CommandSpec) -> bool:
    if spec.handler is not None or (spec.forwardable and session.server.forwards):
        return True
    return any(_is_served(session, subcommand) for subcommand in spec.subcommands.values())


def _served(session: Session) -> Iterator[CommandSpec]:
    """All served commands, each followed by its subcommands."""
    return (spec for spec in every_spec(load_table()) if _is_served(session, spec))


def _commands(session: Session) -> list[CommandSpec]:
    """All served commands that are no subcommands."""
    return [spec for spec in _served(session) if spec.parent is None]


def _subcommands(session: Session, spec: CommandSpec) -> list[CommandSpec]:
    return [subcommand for subcommand in spec.subcommands.values() if _is_served(session, subcommand)]


def _named(session: Session, name: bytes) -> CommandSpec | None:
    spec = by_name(load_table(), name)
    return spec if spec is not None and _is_served(session, spec) else None


def _describe(session: Session, spec: CommandSpec) -> Reply:
    """A command as COMMAND has it.  Subcommands are an array, but none of them an empty set, as in Redis."""
    first, last, step = spec.legacy_keys
    return [
        spec.name,
        spec.arity,
        _words(spec.flag_names()),
        first,
        last,
        step,
        _words([f"@{category}" for category in spec.categories]),
        Set(list(spec.tips)),
        Set([key_spec.facts() | {"flags": _words(key_spec.flags)} for key_spec in spec.key_specs]),
        [_describe(session, subcommand) for subcommand in _subcommands(session, spec)] or Set([]),
    ]


def _words(words: list[str] | tuple[str, ...]) -> Set:
    return Set([Simple(word.encode()) for word in words])


def _document(session: Session, spec: CommandSpec) -> Fields:
    docs = spec.docs()
    fields: Fields = {"summary": docs["summary"]}
    if spec.since:
        fields["since"] = spec.since
    fields["group"] = spec.group
    if "doc_flags" in docs:
        fields["doc_flags"] = _words(docs["doc_flags"])
    if "deprecated_since" in docs:
        fields["deprecated_since"] = docs["deprecated_since"]
    if "replaced_by" in docs:
        fields["replaced_by"] = " or ".join(f"`{_spoken(name)}`" for name in docs["replaced_by"])
    if "arguments" in docs:
        fields["arguments"] = [_argument(argument) for argument in docs["arguments"]]
    if spec.subcommands:
        subcommands = _subcommands(session, spec)
        fields["subcommands"] = {each.title: _document(session, each) for each in subcommands}
    return fields


def _spoken(name: str) -> str:
    return name.replace("|", " ").upper()


def _argument(argument: Argument) -> Fields:
    fields: Fields = dict(argument)
    if "flags" in argument:
        fields["flags"] = _words(argument["flags"])
    if "arguments" in argument:
        fields["arguments"] = [_argument(nested) for nested in argument["arguments"]]
    return fields
