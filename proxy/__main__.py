"""The command line: ``redtier serve``, ``redtier check``, ``redtier --version``.

Exit codes: 0 done, 1 a wrong configuration or a server that could not start, 2 a wrong command line,
130 interrupted.  Every error is a line on stderr that begins with ``redtier:``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import NoReturn

from proxy import __version__
from proxy.config import Config, ConfigError, default_config, describe, load
from proxy.options import Address, address


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"redtier: {message}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv`` (``sys.argv`` if None) and return the exit code."""
    parser = _parser()
    args = parser.parse_args(argv)
    try:
        if args.command == "serve":
            return _serve(configure(args.config, args.listen))
        if args.command == "check":
            return _check(load(args.file))
    except ConfigError as error:
        for mistake in error.mistakes:
            print(f"redtier: {mistake}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    parser.print_help(sys.stderr)
    return 2


def configure(file: str | None, listen: Sequence[Address]) -> Config:
    """The configuration of ``file``, or the default one, with ``listen`` in place of [server] listen."""
    config = default_config() if file is None else load(file)
    return replace(config, server=replace(config.server, listen=tuple(listen))) if listen else config


def _serve(config: Config) -> int:
    from proxy import server  # here, so that the other commands don't wait for it

    return server.main(config)


def _check(config: Config) -> int:
    for line in describe(config):
        print(line)
    return 0


def _parser() -> _Parser:
    parser = _Parser(prog="redtier", description="A Redis server that keeps each key where it belongs.")
    parser.add_argument("--version", action="version", version=f"redtier {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    serve = commands.add_parser("serve", help="run the server")
    serve.add_argument("--config", metavar="FILE", help="configuration; without one, memory and ./redtier.db")
    serve.add_argument(
        "--listen",
        metavar="ADDRESS",
        action="append",
        default=[],
        type=_address,
        help="host:port or unix:/path, instead of those in the configuration; may be repeated",
    )
    check = commands.add_parser("check", help="check a configuration and show its routes")
    check.add_argument("file", metavar="FILE")
    return parser


def _address(text: str) -> Address:
    try:
        return address(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


if __name__ == "__main__":
    sys.exit(main())
