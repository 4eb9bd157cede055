"""The client's own connection, and those of others: ACL WHOAMI, AUTH, CLIENT, ECHO, HELLO, PING, QUIT, RESET,
SELECT.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from typing import Final, TypeAlias

from proxy import errors
from proxy.commands.args import Args, parse_db, parse_int, parse_int_or
from proxy.commands.help import help_lines
from proxy.commands.spec import session_command
from proxy.errors import SYNTAX, CommandError
from proxy.resp import OK, PONG, Argv, Raw, Reply, Simple, Verbatim
from proxy.session import HELD_BLOCKED, HELD_CLOSING, REPLY_OFF, REPLY_ON, REPLY_SKIP_NEXT, Session

REDIS_VERSION: Final = "7.0.15"
"""The Redis whose behaviour this server has: what clients decide by which commands they may use."""

USER: Final = b"default"  # the only one
NO_REPLY: Final = Raw(b"")


@session_command("ping")
def ping(session: Session, argv: Argv) -> Reply:
    if len(argv) > 2:
        raise errors.wrong_arity("ping")
    if session.subscriptions is not None and session.proto == 2:  # where all is a message
        return [b"pong", argv[1] if len(argv) == 2 else b""]
    return argv[1] if len(argv) == 2 else PONG


@session_command("echo")
def echo(session: Session, argv: Argv) -> Reply:
    return argv[1]


@session_command("select")
def select(session: Session, argv: Argv) -> Reply:
    session.db = parse_db(argv[1])
    return OK


@session_command("auth")
def auth(session: Session, argv: Argv) -> Reply:
    if len(argv) > 3:
        raise CommandError(SYNTAX)
    if len(argv) == 2 and not session.server.password:
        raise CommandError(errors.NO_PASSWORD_SET)
    _authenticate(session, USER if len(argv) == 2 else argv[1], argv[-1])
    return OK


def _authenticate(session: Session, user: bytes, password: bytes) -> None:
    """As in Redis, any password will do while none is set, and a wrong one changes nothing."""
    expected = session.server.password.encode("utf-8", "surrogateescape")
    right = not expected or hmac.compare_digest(password, expected)  # in a time that tells nothing
    if not right or user != USER:
        raise CommandError(errors.WRONG_PASSWORD)
    session.authenticate()


@session_command("acl|whoami")
def acl_whoami(session: Session, argv: Argv) -> Reply:
    return session.user


@session_command("hello")
def hello(session: Session, argv: Argv) -> Reply:
    proto = session.proto
    if len(argv) > 1:
        proto = parse_int_or(argv[1], errors.PROTO_NOT_INTEGER)
        if proto not in (2, 3):
            raise CommandError(errors.NO_PROTO)
    credentials: tuple[bytes, bytes] | None = None
    name: bytes | None = None
    args = Args(argv, 2)
    while args.more():
        word = args.next()
        option = word.upper()
        values = args.end - args.at
        if option == b"AUTH" and values >= 2:
            credentials = args.next(), args.next()
        elif option == b"SETNAME" and values >= 1:
            name = _client_name(args.next())
        else:
            raise errors.hello_option(word)
    if credentials is not None:
        _authenticate(session, *credentials)
    if not session.authenticated:
        raise CommandError(errors.HELLO_NO_AUTH)
    if name is not None:
        session.name = name
    session.proto = proto
    return {
        "server": "redis",
        "version": REDIS_VERSION,
        "proto": proto,
        "id": session.id,
        "mode": "standalone",
        "role": "master",
        "modules": [],
    }


@session_command("reset")
def reset(session: Session, argv: Argv) -> Reply:
    session.db = 0
    session.proto = 2
    session.name = b""
    session.reply_mode = REPLY_ON
    session.multi = None
    session.server.unwatch(session)
    session.server.forget_subscriptions(session)
    session.server.unmonitor(session)
    session.server.untrack(session)
    session.no_evict = session.no_touch = False
    if session.server.password:
        session.authenticated = False
        session.reader.trusted = False
    session.regate()
    return Simple(b"RESET")


@session_command("quit")
def quit_(session: Session, argv: Argv) -> Reply:
    return _close_after(session, OK)


def _close_after(session: Session, reply: Reply) -> Reply:
    session.reply(reply)
    session.close()
    return NO_REPLY


@session_command("client|id")
def client_id(session: Session, argv: Argv) -> Reply:
    return session.id


@session_command("client|getname")
def client_getname(session: Session, argv: Argv) -> Reply:
    return session.name or None


@session_command("client|setname")
def client_setname(session: Session, argv: Argv) -> Reply:
    session.name = _client_name(argv[2])
    return OK


def _client_name(name: bytes) -> bytes:
    if not _printable(name):
        raise CommandError(errors.INVALID_CLIENT_NAME)
    return name


def _printable(text: bytes) -> bool:
    """Whether CLIENT LIST can show it: its fields are separated by blanks, its clients by line ends."""
    return all(33 <= c <= 126 for c in text)


@session_command("client|setinfo")
def client_setinfo(session: Session, argv: Argv) -> Reply:
    attribute, value = argv[2].upper(), argv[3]
    if attribute not in (b"LIB-NAME", b"LIB-VER"):
        raise errors.unknown_client_info(argv[2])
    if not _printable(value):
        raise errors.invalid_client_info(argv[2])
    if attribute == b"LIB-NAME":
        session.lib_name = value
    else:
        session.lib_version = value
    return OK


@session_command("client|info")
def client_info(session: Session, argv: Argv) -> Reply:
    return _listing([session])


@session_command("client|list")
def client_list(session: Session, argv: Argv) -> Reply:
    clients = session.server.clients()
    if len(argv) == 2:
        return _listing(clients)
    option = argv[2].upper()
    if option == b"TYPE" and len(argv) == 4:
        return _listing(list(filter(_of_type(argv[3]), clients)))
    if option == b"ID" and len(argv) > 3:
        by_id = {client.id: client for client in clients}
        ids = [parse_int_or(text, errors.INVALID_CLIENT_ID) for text in argv[3:]]
        return _listing([by_id[id] for id in ids if id in by_id])
    raise CommandError(SYNTAX)


def _listing(clients: list[Session]) -> Reply:
    return Verbatim("".join(f"{_describe(client)}\n" for client in clients).encode("utf-8", "replace"))


def _describe(client: Session) -> str:
    """A client as CLIENT LIST shows it; what only Redis' own buffers have is 0."""
    link = client.link
    now = client.server.now()
    received = sum(map(len, client.received))
    unsent = link.unsent()
    parked = 0 if client.parked is None else sum(map(len, client.parked))
    queued = 0 if client.multi is None else client.multi.size
    subscribed = [0, 0, 0] if client.subscriptions is None else list(map(len, client.subscriptions.names))
    fields = {
        "id": client.id,
        "addr": link.peer,
        "laddr": link.local,
        "fd": link.fd,
        "name": client.name.decode(),
        "age": (now - client.created_at) // 1000,
        "idle": (now - client.active_at) // 1000,
        "flags": _flags(client),
        "db": client.db,
        "sub": subscribed[0],
        "psub": subscribed[1],
        "ssub": subscribed[2],
        "multi": -1 if client.multi is None else len(client.multi.requests),
        "qbuf": received,
        "qbuf-free": 0,
        "argv-mem": parked,
        "multi-mem": queued,
        "rbs": 0,
        "rbp": 0,
        "obl": client.unflushed,
        "oll": client.waiting.size,
        "omem": unsent,
        "tot-mem": received + client.unflushed + unsent + parked + queued,
        "events": "rw" if unsent else "r",
        "cmd": client.last_command.decode() or "NULL",
        "user": client.user,
        "redir": -1 if client.tracking is None else client.tracking.redirect,
        "resp": client.proto,
        "lib-name": client.lib_name.decode(),
        "lib-ver": client.lib_version.decode(),
        "tot-net-in": link.received,
        "tot-net-out": link.sent,
    }
    return " ".join(f"{name}={value}" for name, value in fields.items())


def _flags(client: Session) -> str:
    flags = ""
    if client.server.is_monitor(client):
        flags += "O"
    if client.subscriptions is not None:
        flags += "P"
    if client.multi is not None:
        flags += "x"
    if client.held & HELD_BLOCKED:
        flags += "b"
    if client.tracking is not None:
        flags += "t"
        if client.tracking.broken:
            flags += "R"
        if client.tracking.bcast:
            flags += "B"
    if client.held & HELD_CLOSING:
        flags += "c"
    if client.link.peer.endswith(":0"):  # no TCP port: a Unix socket
        flags += "U"
    if client.no_evict:
        flags += "e"
    if client.no_touch:
        flags += "T"
    return flags or "N"


Filter: TypeAlias = Callable[[Session], bool]


def _with_id(value: bytes) -> Filter:
    id = parse_int_or(value, errors.CLIENT_ID_NOT_POSITIVE)
    if id < 1:
        raise CommandError(errors.CLIENT_ID_NOT_POSITIVE)
    return lambda client: client.id == id


def _at_address(value: bytes) -> Filter:
    return lambda client: client.link.peer.encode() == value


def _at_local_address(value: bytes) -> Filter:
    return lambda client: client.link.local.encode() == value


def _of_type(value: bytes) -> Filter:
    type = value.lower()
    if type not in (b"normal", b"master", b"replica", b"slave", b"pubsub"):
        raise errors.unknown_client_type(value)
    if type == b"pubsub":
        return lambda client: client.subscriptions is not None
    return lambda client: type == b"normal" and client.subscriptions is None


def _of_user(value: bytes) -> Filter:
    if value != USER:
        raise errors.no_such_user(value)
    return lambda client: True


def _as_old_as(value: bytes) -> Filter:
    age = parse_int_or(value, errors.MAXAGE_NOT_AN_INTEGER) * 1000
    if age <= 0:
        raise CommandError(errors.MAXAGE_NOT_POSITIVE)
    return lambda client: client.server.now() - client.created_at >= age


FILTERS: Final[dict[bytes, Callable[[bytes], Filter]]] = {
    b"ID": _with_id,
    b"ADDR": _at_address,
    b"LADDR": _at_local_address,
    b"TYPE": _of_type,
    b"USER": _of_user,
    b"MAXAGE": _as_old_as,
}


@session_command("client|kill")
def client_kill(session: Session, argv: Argv) -> Reply:
    filters: dict[bytes, Filter] = {}  # by option: the last of each counts
    spared: Session | None = session
    if len(argv) == 3:  # the old form: CLIENT KILL address
        spared = None
        filters[b"ADDR"] = _at_address(argv[2])
    args = Args(argv, 2 if len(argv) > 3 else len(argv))
    while args.more():
        option, value = args.option(), args.next()
        if option == b"SKIPME":
            if value.upper() not in (b"YES", b"NO"):
                raise CommandError(SYNTAX)
            spared = session if value.upper() == b"YES" else None
        elif option in FILTERS:
            filters[option] = FILTERS[option](value)
        else:
            raise CommandError(SYNTAX)
    doomed = [
        client
        for client in session.server.clients()
        if client is not spared
        and not client.held & HELD_CLOSING
        and all(fits(client) for fits in filters.values())
    ]
    for client in doomed:
        if client is not session:
            client.hold(HELD_CLOSING)
            client.link.abort(f"CLIENT KILL of client {session.id}")
    if len(argv) == 3 and not doomed:
        raise CommandError(errors.NO_SUCH_CLIENT)
    reply = OK if len(argv) == 3 else len(doomed)
    return _close_after(session, reply) if session in doomed else reply


@session_command("client|no-evict")
def client_no_evict(session: Session, argv: Argv) -> Reply:
    session.no_evict = _on(argv[2])
    return OK


@session_command("client|no-touch")
def client_no_touch(session: Session, argv: Argv) -> Reply:
    session.no_touch = _on(argv[2])
    session.regate()
    return OK


def _on(switch: bytes) -> bool:
    if switch.upper() not in (b"ON", b"OFF"):
        raise CommandError(SYNTAX)
    return switch.upper() == b"ON"


@session_command("client|reply")
def client_reply(session: Session, argv: Argv) -> Reply:
    mode = argv[2].upper()
    if mode == b"ON":
        session.reply_mode = REPLY_ON
    elif mode == b"OFF":
        session.reply_mode = REPLY_OFF
    elif mode != b"SKIP":
        raise CommandError(SYNTAX)
    elif session.reply_mode != REPLY_OFF:
        session.reply_mode = REPLY_SKIP_NEXT
    session.regate()
    return OK if mode == b"ON" else NO_REPLY


@session_command("client|unblock")
def client_unblock(session: Session, argv: Argv) -> Reply:
    error = False
    if len(argv) > 4:
        raise errors.subcommand_syntax(argv[1], "client")
    if len(argv) == 4:
        reason = argv[3].upper()
        if reason not in (b"TIMEOUT", b"ERROR"):
            raise CommandError(errors.UNBLOCK_REASON)
        error = reason == b"ERROR"
    wanted = parse_int(argv[2])
    for client in session.server.clients():
        if client.id == wanted:
            return int(session.server.unblock(client, error))
    return 0


@session_command("client|pause")
def client_pause(session: Session, argv: Argv) -> Reply:
    if len(argv) > 4:
        raise errors.subcommand_syntax(argv[1], "client")
    mode = argv[3].upper() if len(argv) == 4 else b"ALL"
    if mode not in (b"WRITE", b"ALL"):
        raise CommandError(errors.PAUSE_MODE)
    ms = parse_int_or(argv[2], errors.TIMEOUT_NOT_AN_INTEGER)
    if ms < 0:
        raise CommandError(errors.TIMEOUT_NEGATIVE)
    session.server.pause(session.server.now() + ms, mode == b"WRITE")
    return OK


@session_command("client|unpause")
def client_unpause(session: Session, argv: Argv) -> Reply:
    session.server.unpause()
    return OK


@session_command("client|maint_notifications")
def client_maint_notifications(session: Session, argv: Argv) -> Reply:
    """Clients that ask for notifications on their own account go on without them after this error."""
    if _on(argv[2]):
        raise CommandError(errors.NO_MAINT_NOTIFICATIONS)
    return OK


@session_command("client|help")
def client_help(session: Session, argv: Argv) -> Reply:
    return help_lines(b"client")
