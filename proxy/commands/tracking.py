"""Client-side caching: CLIENT CACHING, CLIENT GETREDIR, CLIENT TRACKING, CLIENT TRACKINGINFO.

Who is told of what is kept by ``proxy.tracking``.
"""

from __future__ import annotations

from proxy import errors
from proxy.commands.args import Args
from proxy.commands.spec import session_command
from proxy.errors import SYNTAX, CommandError
from proxy.events import Interest
from proxy.resp import OK, Argv, Reply, Set
from proxy.session import Session


@session_command("client|tracking")
def client_tracking(session: Session, argv: Argv) -> Reply:
    interest = Interest()
    prefixes: list[bytes] = []
    args = Args(argv, 3)
    while args.more():
        option = args.option()
        if option == b"REDIRECT" and args.more():
            if interest.redirect:
                raise CommandError(errors.TRACKING_ONE_REDIRECT)
            interest.redirect = args.next_int()
            if all(client.id != interest.redirect for client in session.server.clients()):
                raise CommandError(errors.TRACKING_NO_SUCH_CLIENT)
        elif option == b"PREFIX" and args.more():
            prefixes.append(args.next())
        elif option == b"BCAST":
            interest.bcast = True
        elif option == b"OPTIN":
            interest.opt_in = True
        elif option == b"OPTOUT":
            interest.opt_out = True
        elif option == b"NOLOOP":
            interest.no_loop = True
        else:
            raise CommandError(SYNTAX)
    switch = argv[2].upper()
    if switch == b"ON":
        _check(interest, session.tracking, prefixes)
        session.server.track(session, interest, prefixes)
    elif switch == b"OFF":
        session.server.untrack(session)
    else:
        raise CommandError(SYNTAX)
    return OK


def _check(interest: Interest, old: Interest | None, prefixes: list[bytes]) -> None:
    """Refuse options that don't go together, or not with those that are in force."""
    if prefixes and not interest.bcast:
        raise CommandError(errors.TRACKING_PREFIX_WITHOUT_BCAST)
    if old is not None and old.bcast != interest.bcast:
        raise CommandError(errors.TRACKING_SWITCHES_BCAST)
    if interest.bcast and (interest.opt_in or interest.opt_out):
        raise CommandError(errors.TRACKING_OPT_WITH_BCAST)
    if interest.opt_in and interest.opt_out:
        raise CommandError(errors.TRACKING_OPTS_BOTH)
    if old is not None and ((interest.opt_in and old.opt_out) or (interest.opt_out and old.opt_in)):
        raise CommandError(errors.TRACKING_SWITCHES_OPT)


@session_command("client|caching")
def client_caching(session: Session, argv: Argv) -> Reply:
    interest = session.tracking
    if interest is None:
        raise CommandError(errors.CACHING_WITHOUT_TRACKING)
    answer = argv[2].upper()
    if answer == b"YES":
        if not interest.opt_in:
            raise CommandError(errors.CACHING_YES_WITHOUT_OPTIN)
    elif answer == b"NO":
        if not interest.opt_out:
            raise CommandError(errors.CACHING_NO_WITHOUT_OPTOUT)
    else:
        raise CommandError(SYNTAX)
    interest.caching = True
    return OK


@session_command("client|getredir")
def client_getredir(session: Session, argv: Argv) -> Reply:
    return _redirect(session.tracking)


def _redirect(interest: Interest | None) -> int:
    return -1 if interest is None else interest.redirect


@session_command("client|trackinginfo")
def client_trackinginfo(session: Session, argv: Argv) -> Reply:
    interest = session.tracking
    return {
        "flags": Set(["off"] if interest is None else _flags(interest)),
        "redirect": _redirect(interest),
        "prefixes": [] if interest is None else sorted(interest.prefixes),
    }


def _flags(interest: Interest) -> list[Reply]:
    flags = {
        "on": True,
        "bcast": interest.bcast,
        "optin": interest.opt_in,
        "caching-yes": interest.opt_in and interest.caching,
        "optout": interest.opt_out,
        "caching-no": interest.opt_out and interest.caching,
        "noloop": interest.no_loop,
        "broken_redirect": interest.broken,
    }
    return [flag for flag, holds in flags.items() if holds]
