"""The command line: ``redtier serve``, ``copy``, ``verify``, ``check``, ``redtier --version``.

Exit codes: 0 done, 1 a wrong configuration, a server that could not start, a copy that is not whole or damage
that was found, 2 a wrong command line, 130 interrupted, 143 told to end.  Every error is a line on stderr
that begins with ``redtier:``.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final, NoReturn

from proxy import __version__
from proxy.config import Config, ConfigError, default_config, describe, load
from proxy.keyspace import DATABASES
from proxy.options import Address, address, size

RATE_MAX: Final = 10_000_000  # keys a second that a copy can be bounded to


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
        if args.command == "copy":
            return _copy(load(args.config), args)
        if args.command == "verify":
            return _verify(load(args.config), args)
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


def _copy(config: Config, args: argparse.Namespace) -> int:
    from proxy.copying import command  # as above

    order = command.Order(
        source=args.source,
        target=args.target,
        match=os.fsencode(args.match),
        db=args.db,
        remove=args.delete,
        rate=args.rate,
        passes=args.passes,
        state=args.state,
    )
    return command.main(config, order)


def _verify(config: Config, args: argparse.Namespace) -> int:
    from proxy.verifying import command  # as above

    order = command.Order(
        backend=args.backend, match=os.fsencode(args.match), rate=args.rate, source=args.source
    )
    return command.main(config, order)


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
    _add_copy(commands.add_parser("copy", help="copy keys from one backend to another, while clients go on"))
    _add_verify(
        commands.add_parser("verify", help="read all records of cold backends, and find damaged ones")
    )
    check = commands.add_parser("check", help="check a configuration and show its routes")
    check.add_argument("file", metavar="FILE")
    return parser


def _add_copy(copy: argparse.ArgumentParser) -> None:
    copy.add_argument(
        "--config", metavar="FILE", required=True, help="configuration that names both backends"
    )
    copy.add_argument("--from", metavar="NAME", required=True, dest="source", help="backend to read")
    copy.add_argument("--to", metavar="NAME", required=True, dest="target", help="backend to write to")
    copy.add_argument(
        "--match", metavar="PATTERN", default="*", help="which keys, as in KEYS; all by default"
    )
    copy.add_argument(
        "--db", metavar="N", default=0, type=_up_to(DATABASES - 1), help="database, 0 by default"
    )
    copy.add_argument(
        "--delete", action="store_true", help="remove from the target what matches and the source has not"
    )
    copy.add_argument(
        "--rate", metavar="N", default=0, type=_up_to(RATE_MAX), help="at most N keys a second; 0: no bound"
    )
    copy.add_argument(
        "--passes",
        metavar="N",
        default=5,
        type=_up_to(1000, 1),
        help="at most N passes until one finds nothing that differs; 5 by default",
    )
    copy.add_argument(
        "--state",
        metavar="FILE",
        default="",
        help="where it is kept how far the copy is; beside FILE by default",
    )


def _add_verify(verify: argparse.ArgumentParser) -> None:
    verify.add_argument(
        "--config", metavar="FILE", required=True, help="configuration that names the backends"
    )
    verify.add_argument(
        "--backend", metavar="NAME", default="", help="which one; every postgres, s3 and sqlite by default"
    )
    verify.add_argument(
        "--match", metavar="PATTERN", default="*", help="which keys, as in KEYS; all by default"
    )
    verify.add_argument(
        "--rate",
        metavar="SIZE",
        default=0,
        type=_size,
        help='read at most so much a second, such as "10mb", a record counting as 4 KB at least; 0: no bound',
    )
    verify.add_argument(
        "--repair-from",
        metavar="NAME",
        default="",
        dest="source",
        help="backend whose values replace damaged ones, such as a mirror",
    )


def _size(text: str) -> int:
    try:
        return size(text if not text.isdecimal() else int(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _up_to(most: int, least: int = 0) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not text.isdecimal() or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"must be a number from {least} to {most}, not {text}")
        return int(text)

    return number


def _address(text: str) -> Address:
    try:
        return address(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


if __name__ == "__main__":
    sys.exit(main())
