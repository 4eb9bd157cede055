"""Publish and subscribe: PSUBSCRIBE PUBLISH PUBSUB PUNSUBSCRIBE SPUBLISH SSUBSCRIBE SUBSCRIBE SUNSUBSCRIBE
UNSUBSCRIBE.

Channels are routed by their names, as keys are; see ``proxy.pubsub``.
"""

from __future__ import annotations

from proxy.commands.help import help_lines
from proxy.commands.spec import session_command
from proxy.resp import Argv, Reply
from proxy.session import Session


@session_command("subscribe")
@session_command("psubscribe")
@session_command("ssubscribe")
def subscribe(session: Session, argv: Argv) -> Reply:
    return session.server.subscribe(session, argv[0].lower(), argv[1:])


@session_command("unsubscribe")
@session_command("punsubscribe")
@session_command("sunsubscribe")
def unsubscribe(session: Session, argv: Argv) -> Reply:
    return session.server.unsubscribe(session, argv[0].lower(), argv[1:])


@session_command("publish")
@session_command("spublish")
def publish(session: Session, argv: Argv) -> Reply:
    return session.server.publish(session, argv[0].lower(), argv[1], argv[2])


@session_command("pubsub|channels")
@session_command("pubsub|shardchannels")
@session_command("pubsub|numsub")
@session_command("pubsub|shardnumsub")
@session_command("pubsub|numpat")
def pubsub(session: Session, argv: Argv) -> Reply:
    return session.server.pubsub(argv[1], argv[2:])


@session_command("pubsub|help")
def pubsub_help(session: Session, argv: Argv) -> Reply:
    return help_lines(b"pubsub")
