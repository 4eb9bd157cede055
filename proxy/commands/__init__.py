"""The commands: one row of facts each in ``table.json``, one function each in a family's file.

``spec`` reads the rows and binds the handlers to them; ``keyspecs`` finds the keys of a request;
``args`` is the cursor that handlers parse with.  A family's file begins with the list of its commands.
``generate`` makes the table from a running redis-server.
"""

from importlib import import_module

FAMILIES = (
    "bitmaps",
    "blocking",
    "command",
    "connection",
    "debug",
    "dump",
    "functions",
    "geo",
    "hashes",
    "hashexpiry",
    "hyperloglog",
    "keys",
    "latency",
    "lists",
    "memory",
    "pubsub",
    "scripting",
    "server",
    "sets",
    "streamgroups",
    "streaminfo",
    "streamreads",
    "streams",
    "sort",
    "strings",
    "tier",
    "tracking",
    "transactions",
    "zranges",
    "zsets",
    "zunions",
)


def load() -> None:
    """Import every family, so that its handlers are registered."""
    for family in FAMILIES:
        import_module(f"proxy.commands.{family}")
