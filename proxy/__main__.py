"""The command line: ``redtier serve``, ``copy``, ``backup``, ``restore``, ``verify``, ``check``.

Exit codes: 0 done, 1 a wrong configuration, a server that could not start, work that is not done whole or
damage that was found, 2 a wrong command line, 130 interrupted, 143 told to end.  Every error is a line on
stderr that begins with ``redtier:``.
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
        if args.command == "backup":
            return _backup(load(args.config), args)
        if args.command == "restore":
            return _restore(parser, args)
        if args.command == "verify":
            return _verify(load(args.config), args)
        if args.command == "check":
            return _check(load(args.file), args.connect)
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


def _backup(config: Config, args: argparse.Namespace) -> int:
    from proxy.archives import command  # as above

    order = command.BackupOrder(
        source=args.source, file=args.file, match=os.fsencode(args.match), db=args.db, rate=args.rate
    )
    return command.backup(config, order)


def _restore(parser: _Parser, args: argparse.Namespace) -> int:
    from proxy.archives import command  # as above

    if args.verify_only:
        return command.verify(args.file)
    if args.config is None or args.target is None:
        parser.error("restore needs --config and --to, but for --verify-only")
    order = command.RestoreOrder(
        file=args.file,
        target=args.target,
        match=os.fsencode(args.match),
        db=args.db,
        rate=args.rate,
        state=args.state,
    )
    return command.restore(load(args.config), order)


def _verify(config: Config, args: argparse.Namespace) -> int:
    from proxy.verifying import command  # as above

    order = command.Order(
        backend=args.backend, match=os.fsencode(args.match), rate=args.rate, source=args.source
    )
    return command.main(config, order)


def _check(config: Config, connect: bool) -> int:
    for line in describe(config):
        print(line)
    if not connect:
        return 0
    from proxy import checking  # as above

    print(flush=True)
    return checking.main(config)


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
    _add_backup(commands.add_parser("backup", help="write the keys of a backend to an archive"))
    _add_restore(commands.add_parser("restore", help="write the keys of an archive to a backend"))
    _add_verify(
        commands.add_parser("verify", help="read all records of cold backends, and find damaged ones")
    )
    check = commands.add_parser("check", help="check a configuration and show its routes")
    check.add_argument("file", metavar="FILE")
    check.add_argument(
        "--connect",
        action="store_true",
        help="try out each backend too, as a start would, and say what is missing",
    )
    return parser


def _add_copy(copy: argparse.ArgumentParser) -> None:
    copy.add_argument(
        "--config", metavar="FILE", required=True, help="configuration that names both backends"
    )
    copy.add_argument("--from", metavar="NAME", required=True, dest="source", help="backend to read")
    copy.add_argument("--to", metavar="NAME", required=True, dest="target", help="backend to write to")
    _add_match(copy)
    copy.add_argument(
        "--db", metavar="N", default=0, type=_up_to(DATABASES - 1), help="database, 0 by default"
    )
    copy.add_argument(
        "--delete", action="store_true", help="remove from the target what matches and the source has not"
    )
    _add_rate(copy)
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


def _add_backup(backup: argparse.ArgumentParser) -> None:
    backup.add_argument(
        "--config", metavar="FILE", required=True, help="configuration that names the backend"
    )
    backup.add_argument("--from", metavar="NAME", required=True, dest="source", help="backend to read")
    backup.add_argument("--to", metavar="FILE", required=True, dest="file", help="archive; a new file")
    _add_match(backup)
    _add_database(backup)
    _add_rate(backup)


def _add_restore(restore: argparse.ArgumentParser) -> None:
    restore.add_argument("--config", metavar="FILE", help="configuration that names the backend")
    restore.add_argument("--from", metavar="FILE", required=True, dest="file", help="archive to read")
    restore.add_argument("--to", metavar="NAME", dest="target", help="backend to write to")
    _add_match(restore)
    _add_database(restore)
    _add_rate(restore)
    restore.add_argument(
        "--state",
        metavar="FILE",
        default="",
        help="where it is kept how far the restore is; beside the configuration by default",
    )
    restore.add_argument(
        "--verify-only", action="store_true", help="verify the archive, and write nothing anywhere"
    )


def _add_match(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--match", metavar="PATTERN", default="*", help="which keys, as in KEYS; all by default"
    )


def _add_database(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--db", metavar="N", type=_up_to(DATABASES - 1), help="database, all by default")


def _add_rate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--rate", metavar="N", default=0, type=_up_to(RATE_MAX), help="at most N keys a second; 0: no bound"
    )


def _add_verify(verify: argparse.ArgumentParser) -> None:
    verify.add_argument(
        "--config", metavar="FILE", required=True, help="configuration that names the backends"
    )
    verify.add_argument(
        "--backend", metavar="NAME", default="", help="which one; every postgres, s3 and sqlite by default"
    )
    _add_match(verify)
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
