"""SORT and SORT_RO: the elements of a list, set or sorted set, by themselves or by what other keys say.

What a BY or GET pattern names is read as any key is.  A cold tier may have to load it first: all that is
missing is asked for at once.
"""

from __future__ import annotations

from typing import Final

from proxy.commands.args import Args, parse_double
from proxy.commands.spec import keys_command
from proxy.datatypes.collection import Collection
from proxy.datatypes.hash import Hash
from proxy.datatypes.list import List
from proxy.errors import NOT_SORTABLE, SYNTAX, WRONG_TYPE, CommandError, NeedKeys
from proxy.keyspace import LIST, SET, STRING, ZSET, Keyspace, string_of
from proxy.resp import Argv, Reply

SMALLEST: Final = 2.2250738585072014e-308  # strtod calls out of range what is nearer to 0


class Pattern:
    """What BY and GET take: ``#`` is the element; elsewhere it replaces the first ``*`` of a key's name.

    After ``->`` follows the field of a hash.  Redis reads patterns as C strings: up to a zero byte.
    """

    def __init__(self, text: bytes) -> None:
        shown = text.partition(b"\0")[0]
        self.itself: bool = text == b"#"
        self.star: int = shown.find(b"*")
        arrow = shown.find(b"->", self.star + 1) if self.star >= 0 else -1
        if arrow + 2 >= len(shown):  # no field
            arrow = -1
        self.before: bytes = text[: max(self.star, 0)]
        self.after: bytes = text[self.star + 1 : arrow] if arrow >= 0 else text[self.star + 1 :]
        self.field: bytes | None = text[arrow + 2 :] if arrow >= 0 else None

    def value(self, ks: Keyspace, element: bytes) -> bytes | None:
        """What the pattern says of an element; None where there is no such key or field."""
        if self.itself:
            return element
        if self.star < 0:
            return None
        entry = ks.find(self.before + element + self.after)
        if entry is None:
            return None
        field = self.field
        if field is None:
            return string_of(entry) if entry.kind == STRING else None
        value = entry.value
        return value.get(field, ks.clock.ms) if isinstance(value, Hash) else None


class Options:
    """What follows the key."""

    def __init__(self, argv: Argv, stores: bool) -> None:
        self.alpha: bool = False
        self.descending: bool = False
        self.by: Pattern | None = None
        self.as_it_stands: bool = False  # one of the BYs, the last or not, is the same for all elements
        self.gets: list[Pattern] = []
        self.start: int = 0
        self.count: int = -1
        self.store: bytes | None = None
        args = Args(argv, 2)
        while args.more():
            option = args.option()
            if option == b"ALPHA":
                self.alpha = True
            elif option == b"ASC" or option == b"DESC":
                self.descending = option == b"DESC"
            elif option == b"LIMIT" and args.end - args.at >= 2:
                self.start, self.count = args.next_int(), args.next_int()
            elif option == b"BY":
                self.by = Pattern(args.next())
                self.as_it_stands = self.as_it_stands or self.by.star < 0
            elif option == b"GET":
                self.gets.append(Pattern(args.next()))
            elif option == b"STORE" and stores:
                self.store = args.next()
            else:
                raise CommandError(SYNTAX)

    def limit(self, elements: list[bytes]) -> list[bytes]:
        start = max(self.start, 0)
        return elements[start:] if self.count < 0 else elements[start : start + self.count]


@keys_command("sort")
def sort(ks: Keyspace, argv: Argv) -> Reply:
    options = Options(argv, stores=True)
    values = _values(ks, argv[1], options)
    target = options.store
    if target is None:
        return values
    if not values:
        if ks.remove(target):
            ks.event("del", target)
        return 0
    made = List.of([b"" if value is None else value for value in values])
    ks.reserve(target, None, made.size)
    ks.put(target, LIST, made)
    ks.event("sortstore", target)
    return made.count


@keys_command("sort_ro")
def sort_ro(ks: Keyspace, argv: Argv) -> Reply:
    return _values(ks, argv[1], Options(argv, stores=False))


def _values(ks: Keyspace, key: bytes, options: Options) -> list[bytes | None]:
    """The reply: of each element, sorted, itself or what the GETs say of it."""
    entry = ks.find(key)
    elements: list[bytes] = []
    kind = LIST
    if entry is not None:
        value = entry.value
        kind = entry.kind
        if not isinstance(value, Collection) or kind not in (LIST, SET, ZSET):
            raise CommandError(WRONG_TYPE)
        elements = value.elements()
    by = options.by
    if options.as_it_stands:
        if kind == SET and options.store is not None:  # for what is stored must not hang on chance
            elements.sort(reverse=options.descending)
        elif kind != SET and options.descending:
            elements.reverse()
    else:
        weights: list[bytes | None] = [*elements] if by is None else _look_up(ks, [by], elements)
        if options.alpha:
            elements = _by_text(elements, weights, options)
        else:
            pairs = sorted(zip(map(_number, weights), elements, strict=True), reverse=options.descending)
            elements = [element for _, element in pairs]
    elements = options.limit(elements)
    return _look_up(ks, options.gets, elements) if options.gets else [*elements]


def _look_up(ks: Keyspace, patterns: list[Pattern], elements: list[bytes]) -> list[bytes | None]:
    """What each pattern says of each element."""
    found: list[bytes | None] = []
    missing: dict[bytes, None] = {}
    want = 0
    for element in elements:
        for pattern in patterns:
            try:
                found.append(pattern.value(ks, element))
            except NeedKeys as need:
                want = max(want, need.want)
                for name in need.names:
                    missing[name] = None
    if missing:
        raise NeedKeys(ks.db, list(missing), want)
    return found


def _by_text(elements: list[bytes], weights: list[bytes | None], options: Options) -> list[bytes]:
    """Sorted by their weights' bytes; what has none comes first.

    Redis compares C strings in its locale, here as in the C one, unless the result is stored.
    """
    keys: list[tuple[bool, bytes]] = []
    for weight in weights:
        text = b"" if weight is None else weight if options.store is not None else weight.partition(b"\0")[0]
        keys.append((weight is not None, text))
    order = sorted(range(len(elements)), key=keys.__getitem__, reverse=options.descending)
    return [elements[at] for at in order]


def _number(text: bytes | None) -> float:
    """A weight as C's strtod reads it: blanks before it, and all that follows a zero byte, don't count."""
    if not text:
        return 0.0
    shown = text.partition(b"\0")[0]
    if not shown:
        return 0.0
    number = shown.lstrip(b" \t\n\v\f\r")
    if not number:
        raise CommandError(NOT_SORTABLE)
    value = parse_double(number, NOT_SORTABLE)
    if value and abs(value) < SMALLEST:
        raise CommandError(NOT_SORTABLE)
    return value
