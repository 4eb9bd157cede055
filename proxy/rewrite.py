"""CONFIG REWRITE: what was changed while the server ran, put into its file.

Only the lines of changed options are written anew, or added; all else, comments too, stays as it is.  The new
file is read and checked before it takes the old one's place.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from proxy import errors
from proxy.config import ConfigError, parse
from proxy.errors import CommandError

Place = tuple[str, str]
"""A table's name, as the file has it between brackets, and an option's."""

_HEADER: Final = re.compile(r"\s*\[+([^\[\]]+)\]+")
_OPTION: Final = re.compile(
    r"""(?P<before>\s*(?P<name>[\w-]+)\s*=\s*)"""
    r"""(?:"(?:[^"\\]|\\.)*"|'[^']*'|[^\s#"']+)(?P<after>\s*(?:\#.*)?)"""
)


def rewrite(path: str, changes: Mapping[Place, str]) -> None:
    """Write options, as TOML, into the configuration's file; raises CommandError."""
    file = Path(path)
    if not file.is_file():
        raise CommandError(errors.NO_CONFIG_FILE)
    text = rewritten(file.read_text("utf-8"), changes)
    try:
        parse(text, path)
    except ConfigError as error:
        raise errors.config_not_rewritten(str(error)) from error
    try:
        _replace(file, text)
    except OSError as error:
        raise errors.config_not_rewritten(error.strerror or str(error)) from error


def _replace(file: Path, text: str) -> None:
    """At once, or not at all; a link stays one."""
    file = file.resolve()
    number, name = tempfile.mkstemp(prefix=file.name, dir=file.parent)
    try:
        with open(number, "w", encoding="utf-8") as new:
            new.write(text)
            new.flush()
            os.fsync(new.fileno())
        Path(name).chmod(file.stat().st_mode & 0o7777)
        Path(name).replace(file)
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise


def rewritten(text: str, changes: Mapping[Place, str]) -> str:
    """The text with these options, each in its table; a table that is not there is added at the end."""
    lines = text.splitlines()
    missing = dict(changes)
    ends: dict[str, int] = {}  # the line after the last one of a table that says something
    table = ""
    for at, line in enumerate(lines):
        header = _HEADER.fullmatch(line.split("#")[0].rstrip())
        if header:
            table = "" if line.lstrip().startswith("[[") else re.sub(r"[\s\"']", "", header[1])
        elif (option := _OPTION.fullmatch(line)) and (table, option["name"]) in missing:
            value = missing.pop((table, option["name"]))
            lines[at] = f"{option['before']}{value}{option['after']}"
        if line.strip() and not line.lstrip().startswith("#"):
            ends[table] = at + 1
    added: dict[str, list[str]] = {}
    for (name, option_name), value in missing.items():
        added.setdefault(name, []).append(f"{option_name} = {value}")
    for name in sorted(added, key=lambda name: ends.get(name, len(lines)), reverse=True):
        if name in ends:
            lines[ends[name] : ends[name]] = added[name]
        else:
            lines += ["", f"[{name}]", *added[name]]
    return "\n".join(lines) + "\n"
