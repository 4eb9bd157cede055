"""What ``TIER WHERE ROUTES DICT``, ``MEMORY USAGE`` and ``DEBUG OBJECT`` tell of keys and routes."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from backends.base import StoreError, Want
from backends.pointers import parse_pointer
from backends.seal import Description, IntegrityError
from backends.seal import describe as describe_seal
from backends.sealed_strings import HEAD, is_sealed
from backends.sealed_strings import describe as describe_string
from proxy import errors
from proxy.answers import Answer
from proxy.commands.spec import CommandSpec
from proxy.config import Config, OffloadConfig
from proxy.dictionaries import describe
from proxy.errors import CommandError
from proxy.homes import ColdHome, MemoryHome, UpstreamHome
from proxy.keyspace import KIND_NAMES, STRING, UNCHUNKED
from proxy.lru import entry_size
from proxy.mirror import Mirror
from proxy.mirrors import Mirrors
from proxy.resp import Reply, Simple
from proxy.router import Route, Router


async def where(route: Route, db: int, key: bytes) -> Reply:
    """Where a key lives and in which form; sizes in bytes, ``expire_at`` in ms since the epoch, 0: never."""
    home = route.home
    reply: dict[str, object] = {
        "route": route.prefix,
        "backend": home.name,
        "type": home.type,
        "cached": 0,
        "kind": "none",
        "raw_size": 0,
        "stored_size": 0,
        "codec": "none",
        "dictionary": 0,
        "digest": "",
        "blob": "",
        "version": "",
        "expire_at": 0,
    }
    if isinstance(home, ColdHome):
        record, token, cached = await home.stored(db, key)
        reply["cached"] = int(cached)
        if record is not None:
            assert record.payload is not None
            reply["kind"] = KIND_NAMES.get(record.kind, "unknown")
            reply["raw_size"] = record.raw_size
            reply["stored_size"] = record.stored_size
            reply["version"] = str(token)
            reply["expire_at"] = record.expire_at
            try:
                pointer = parse_pointer(record.payload)
                if pointer is not None:
                    reply["blob"] = str(pointer.blob)
                seal = describe_seal(record.payload if pointer is None else pointer.head)
                reply["codec"] = seal.codec
                reply["dictionary"] = seal.dictionary_id
                reply["digest"] = _digest(seal)
            except IntegrityError as error:
                reply["codec"] = f"damaged: {error}"
    elif isinstance(home, MemoryHome):
        entry = home.backend.keyspaces[db].peek(key)
        if entry is not None:
            reply["kind"] = KIND_NAMES[entry.kind]
            reply["raw_size"] = len(entry.value) if isinstance(entry.value, (bytes, bytearray)) else 0
            reply["stored_size"] = entry_size(entry.key, entry.value)
            reply["expire_at"] = entry.expire_at
    elif isinstance(home, UpstreamHome):
        reply["cached"] = int(home.near is not None and home.near.knows(db, key))
        kind = (await home.kinds(db, [key]))[0]
        reply["kind"] = kind
        if kind != "none":
            expire_at = await home.call(db, [b"PEXPIRETIME", key])
            reply["expire_at"] = expire_at if isinstance(expire_at, int) and expire_at > 0 else 0
            size = await home.call(db, [b"MEMORY", b"USAGE", key])
            reply["stored_size"] = size if isinstance(size, int) else 0
            if kind == "string":
                reply["raw_size"] = await home.call(db, [b"STRLEN", key])
                if route.sealed:
                    await _add_seal(reply, home, db, key)
    return reply


async def _add_seal(reply: dict[str, object], home: UpstreamHome, db: int, key: bytes) -> None:
    """What a sealed string says of itself; ``stored_size`` is then that of the string alone."""
    head = await home.call(db, [b"GETRANGE", key, b"0", b"%d" % (HEAD - 1)])
    if not isinstance(head, bytes) or not is_sealed(head):
        return
    reply["stored_size"] = reply["raw_size"]
    try:
        seal = describe_string(head)
    except IntegrityError as error:
        reply["codec"] = f"damaged: {error}"
        return
    reply["raw_size"] = seal.raw_length
    reply["codec"] = seal.codec
    reply["digest"] = _digest(seal)


def _digest(seal: Description) -> str:
    return f"{seal.hash}:{seal.digest}" if seal.digest else "none"


async def blob_url(route: Route, db: int, key: bytes, seconds: int) -> Reply:
    """Where a client can fetch a string itself, for at least so long; None: no such key."""
    home = route.home
    if not isinstance(home, ColdHome):
        raise errors.not_offloaded(key)
    await home.settle(db, key)
    record, _, _ = await home.stored(db, key)
    if record is None:
        return None
    if record.kind != STRING:
        raise CommandError(errors.WRONG_TYPE)
    url = await home.url(record, seconds)
    if url is None:
        raise errors.not_offloaded(key)
    return url.encode()


def describe_routes(router: Router, config: Config, mirrors: Mirrors) -> Reply:
    """All routes as maps, in the order of their prefixes; mirrors and offloads are maps within, or null."""
    settings = {route.prefix: route for route in config.routes}
    return [
        {
            "prefix": route.prefix,
            "backend": route.home.name,
            "type": route.home.type,
            "state": f"down: {route.home.down}" if route.home.down else "up",
            "cache": int(settings[route.prefix].cache),
            "write": settings[route.prefix].write,
            "ttl": settings[route.prefix].ttl,
            "max_value": settings[route.prefix].max_value,
            "compression": settings[route.prefix].compression,
            "integrity": settings[route.prefix].integrity,
            "dictionary": settings[route.prefix].dictionary,
            "calls": route.tally.calls,
            "errors": route.tally.errors,
            "mirror": _describe_mirror(mirrors.of(route)),
            "offload": _describe_offload(settings[route.prefix].offload),
        }
        for route in router.routes
    ]


def _describe_offload(offload: OffloadConfig | None) -> Reply:
    if offload is None:
        return None
    return {"backend": offload.backend, "over": offload.over, "encoding": offload.encoding}


def _describe_mirror(mirror: Mirror | None) -> Reply:
    if mirror is None:
        return None
    return {
        "backend": mirror.target.name,
        "type": mirror.target.type,
        "percent": mirror.settings.percent,
        "compare": int(mirror.settings.compare),
        "state": f"waiting: {mirror.away}" if mirror.away else "up",
        **mirror.figures(),
    }


async def describe_dictionaries(router: Router) -> Reply:
    """The trained dictionaries of all stores, as maps.

    Of a store that is away, those that are known.  ``samples`` are the values that it was trained from,
    ``gain`` how many times smaller it made others than they were without it; ``records``, ``raw_bytes``,
    ``payload_bytes`` and ``ratio`` are of what this process has sealed while it was in use.  A route that has
    none is told of too, by the id 0 and with the values that were gathered.
    """
    rows: list[Reply] = []
    for home in router.homes:
        if isinstance(home, ColdHome):
            if not home.down:
                with suppress(StoreError):
                    await home.dictionaries.refresh()
            rows += describe(home.dictionaries, home.training)
    return rows


async def train_dictionary(router: Router, prefix: bytes) -> Reply:
    """Train one for the route with this prefix; the map that TIER DICT has of it.  Raises CommandError."""
    home = router.find(prefix).home
    if not isinstance(home, ColdHome):
        raise errors.no_training(prefix)
    return await home.train_dictionary(prefix)


async def memory_usage(route: Route, db: int, key: bytes) -> Reply:
    """Bytes that a key takes: of memory, of an upstream's memory, or of the store; None: no such key."""
    home = route.home
    if isinstance(home, MemoryHome):
        entry = home.backend.keyspaces[db].peek(key)
        return None if entry is None else entry_size(entry.key, entry.value)
    if isinstance(home, UpstreamHome):
        return await home.call(db, [b"MEMORY", b"USAGE", key])
    assert isinstance(home, ColdHome)
    record, _, _ = await home.describe(db, key, Want.META)
    if record is not None and record.kind in UNCHUNKED:  # a root is small
        record, _, _ = await home.stored(db, key)
    return None if record is None else record.stored_size + len(key)


async def describe_value(route: Route, table: Mapping[bytes, CommandSpec], db: int, key: bytes) -> Reply:
    """DEBUG OBJECT's line; ``serializedlength`` is what the key holds where it lives."""
    home = route.home
    request = [b"OBJECT", b"ENCODING", key]
    handler = table[b"object"].subcommands[b"encoding"].handler
    assert handler is not None
    if isinstance(home, MemoryHome):
        encoding = handler(home.backend.keyspaces[db], request)
    elif isinstance(home, ColdHome):
        answer = Answer()
        home.submit(answer, handler, request, db, Want.VALUE, [key])
        encoding = await answer.future
    else:
        assert isinstance(home, UpstreamHome)
        encoding = await home.call(db, request)
    size = await memory_usage(route, db, key)
    if isinstance(encoding, CommandError):
        raise encoding
    if not isinstance(encoding, bytes | str) or size is None:
        raise CommandError(errors.NO_SUCH_KEY)
    name = encoding if isinstance(encoding, str) else encoding.decode()
    line = f"Value at:0x0 refcount:1 encoding:{name} serializedlength:{size} lru:0 lru_seconds_idle:0"
    return Simple(line.encode())
