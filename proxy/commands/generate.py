"""Writes ``table.json`` and ``docs.json`` from a running Redis 7.0: ``python -m proxy.commands.generate``.

A development-time script; nothing imports it at run time.  It starts a private redis-server on a
Unix socket, asks for ``COMMAND`` and ``COMMAND DOCS``, and keeps the facts only: arity, flags, key
specs, ACL categories, tips, groups, versions, arguments.  Prose is ours: the summaries come from
``summaries.json``; rows that this Redis lacks come from ``extra.json``, whose two members have the
form of the two files written.  The forms are those of ``spec.Row`` and ``spec.Docs``, one command a
line, sorted by name.

Source of the replies' shapes: redis.io/commands/command and redis.io/commands/command-docs.
"""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, cast

import hiredis

from proxy.commands.spec import Argument, Docs, Row

HERE: Final = Path(__file__).parent
VERSION: Final = "7.0."
START_TIMEOUT: Final = 10.0  # seconds

Reply = Any  # what hiredis makes of a RESP2 reply: strings, integers and lists of them


class GenerateError(Exception):
    """The tables can't be made; the message says what to mend."""


def _mapping(flat: Sequence[Reply]) -> dict[str, Reply]:
    """A RESP2 map is a list in which names and values alternate."""
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _kinded(kind_and_spec: Sequence[Reply]) -> list[str | int]:
    fields = _mapping(kind_and_spec)
    return [fields["type"], *_mapping(fields["spec"]).values()]


def _rows(commands: Sequence[Reply]) -> Iterator[tuple[str, Row]]:
    for name, arity, flags, first, last, step, acl, tips, key_specs, subcommands in commands:
        row: Row = {"arity": arity}
        if flags:
            row["flags"] = " ".join(flags)
        if first:
            row["keys"] = [first, last, step]
        if key_specs:
            specs = [_mapping(spec) for spec in key_specs]
            row["specs"] = [
                {
                    "flags": " ".join(spec["flags"]),
                    "begin": _kinded(spec["begin_search"]),
                    "find": _kinded(spec["find_keys"]),
                }
                for spec in specs
            ]
        row["acl"] = " ".join(category.removeprefix("@") for category in acl)
        if tips:
            row["tips"] = tips
        yield name, row
        yield from _rows(subcommands)


def _argument(flat: Sequence[Reply]) -> Argument:
    fields = _mapping(flat)
    if "arguments" in fields:
        fields["arguments"] = [_argument(nested) for nested in fields["arguments"]]
    return cast(Argument, fields)


def documents(docs: Sequence[Reply]) -> Iterator[tuple[str, dict[str, Reply]]]:
    """Each command and subcommand of a ``COMMAND DOCS`` reply, with its fields."""
    for name, flat in _mapping(docs).items():
        fields = _mapping(flat)
        yield name, fields
        yield from documents(fields.get("subcommands", []))


def _docs(fields: Mapping[str, Reply], names: Mapping[str, Row]) -> Docs:
    docs: Docs = {}
    if "doc_flags" in fields:
        docs["doc_flags"] = fields["doc_flags"]
    if "deprecated_since" in fields:
        docs["deprecated_since"] = fields["deprecated_since"]
    if "replaced_by" in fields:
        quoted = [word.lower().replace(" ", "|") for word in re.findall("`([A-Z ]+)`", fields["replaced_by"])]
        docs["replaced_by"] = [word for word in quoted if word in names]
    if "arguments" in fields:
        docs["arguments"] = [_argument(argument) for argument in fields["arguments"]]
    return docs


def _lines(rows: Mapping[str, object]) -> str:
    return (
        "{\n" + ",\n".join(f"{json.dumps(name)}: {json.dumps(rows[name])}" for name in sorted(rows)) + "\n}\n"
    )


def build(command: Sequence[Reply], command_docs: Sequence[Reply]) -> tuple[str, str]:
    """The texts of ``table.json`` and ``docs.json``.

    ``command`` and ``command_docs`` are the RESP2 replies of ``COMMAND`` and ``COMMAND DOCS``.
    Raises GenerateError for a command without a summary, for a summary without a command, and for an
    extra row that this Redis has too.
    """
    summaries: dict[str, str] = json.loads((HERE / "summaries.json").read_text())
    extra: dict[str, Any] = json.loads((HERE / "extra.json").read_text())
    table = dict(_rows(command))
    docs: dict[str, Docs] = {}
    for name, fields in documents(command_docs):
        table[name]["group"] = fields["group"]
        table[name]["since"] = fields["since"]
        docs[name] = _docs(fields, table)
    if doubled := table.keys() & extra["table"].keys():
        raise GenerateError(f"extra.json repeats what Redis has: {sorted(doubled)}")
    table |= extra["table"]
    if unmatched := table.keys() ^ summaries.keys():
        raise GenerateError(f"summaries.json and the commands differ in {sorted(unmatched)}")
    docs |= extra["docs"]
    documented = {name: {"summary": summary, **docs.get(name, {})} for name, summary in summaries.items()}
    return _lines(table), _lines(documented)


def _ask(connection: socket.socket, *requests: str) -> list[Reply]:
    """The RESP2 replies of inline requests; raises GenerateError where one is an error."""
    reader = hiredis.Reader(encoding="utf-8")
    replies: list[Reply] = []
    connection.sendall("".join(f"{request}\r\n" for request in requests).encode())
    while len(replies) < len(requests):
        reply = reader.gets()
        if reply is False:
            data = connection.recv(65536)
            if not data:
                raise GenerateError("redis-server closed the connection")
            reader.feed(data)
        elif isinstance(reply, hiredis.ReplyError):
            raise GenerateError(f"redis-server answers: {reply}")
        else:
            replies.append(reply)
    return replies


def _connect(path: Path, server: subprocess.Popen[bytes]) -> socket.socket:
    deadline = time.monotonic() + START_TIMEOUT
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(START_TIMEOUT)
    while True:
        try:
            connection.connect(str(path))
            return connection
        except OSError as error:
            if server.poll() is not None or time.monotonic() > deadline:
                raise GenerateError(f"redis-server does not start: {error}") from error
            time.sleep(0.02)


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "redis.sock")
        server = subprocess.Popen(
            ["redis-server", "--port", "0", "--unixsocket", path, "--save", "", "--dir", directory],
            stdout=subprocess.DEVNULL,
        )
        try:
            with _connect(path, server) as connection:
                info, command, docs = _ask(connection, "INFO server", "COMMAND", "COMMAND DOCS")
        finally:
            server.terminate()
            server.wait(START_TIMEOUT)
    if f"redis_version:{VERSION}" not in info:
        raise GenerateError(f"the tables are made from Redis {VERSION}x, this redis-server is another one")
    for name, text in zip(("table.json", "docs.json"), build(command, docs), strict=True):
        (HERE / name).write_text(text)


if __name__ == "__main__":
    try:
        main()
    except GenerateError as error:
        sys.exit(f"generate: {error}")
