"""What ``CLIENT HELP`` and its like answer, derived from the table and the documentation."""

from __future__ import annotations

from collections.abc import Sequence

from proxy.commands.spec import Argument, CommandSpec, load_table
from proxy.resp import Reply, Simple


def help_lines(container: bytes) -> Reply:
    """The served subcommands of a container, each with its arguments and what it does."""
    spec = load_table()[container]
    lines = [f"{spec.title.upper()} <subcommand> [<argument> ...], where the subcommand is one of:"]
    if spec.handler is not None:
        lines += _lines("(none)", spec)
    for name, subcommand in spec.subcommands.items():
        if subcommand.handler is not None:
            lines += _lines(name.decode().upper(), subcommand)
    return [Simple(line.encode()) for line in lines]


def _lines(name: str, spec: CommandSpec) -> list[str]:
    docs = spec.docs()
    return [f"{name} {syntax(docs.get('arguments', []))}".rstrip(), f"    {docs['summary']}"]


def syntax(arguments: Sequence[Argument]) -> str:
    """Arguments as a line: ``[optional]``, ``(one|of)``, ``<value>``, ``repeated ...``, ``WORD``."""
    return " ".join(map(_argument, arguments))


def _argument(argument: Argument) -> str:
    flags = argument.get("flags", [])
    parts = argument.get("arguments", [])
    if argument["type"] == "oneof":
        text = "|".join(map(_argument, parts))
        if "optional" not in flags or "token" in argument:
            text = f"({text})"
    elif argument["type"] == "block":
        text = syntax(parts)
    else:
        text = f"<{argument['name']}>"
    token = argument.get("token", "")
    if argument["type"] == "pure-token":
        text = token
    elif token:
        text = f"{token} {text}"
    if "multiple" in flags:
        text += f" [{text} ...]"
    return f"[{text}]" if "optional" in flags else text
