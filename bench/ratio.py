"""How small values get: raw bytes over those of their payloads, and over all that is stored, seal included.

    python -m bench.ratio [DIALOGS] [--level N] [--markdown FILE]

DIALOGS has a JSON object a line, as bench/dialogs.jsonl, the default, has them (see bench/dialogs.md; ten
dialogs are too few to train from, so give more).  Messages are in LangChain's form, as ``message_to_dict``
gives it, each with an id of its own, drawn at random: human ones have a UUID, the model's "run--UUID-0" and a
few fields more.  Once with one key a message, once with one key a conversation, a JSON list.

The other corpus is what every Python has: the docstrings of its standard library, each as a message, and
those of one module as a conversation.  They are longer than chats and much less alike.

The first half of a corpus is what a route with ``dictionary = "auto"`` sees first: a dictionary is trained
from it with the route's defaults.  The second half is measured, with and without the dictionary.  Every value
is unsealed again, and must be what it was.
"""

from __future__ import annotations

import argparse
import ast
import json
import random
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NamedTuple
from uuid import UUID

from backends.dictionaries import prepared
from backends.samples import Samples
from backends.seal import SealPolicy, payload_size, seal, unseal
from backends.training import train, with_dictionary
from bench.measure import markdown
from proxy.config import RouteConfig

ROUTE: Final = RouteConfig(prefix=b"long:", backend="")
LIMIT: Final = 1 << 26
HEAD: Final = [
    "",
    "values",
    "bytes each",
    "dictionary",
    "payload, plain",
    "stored, plain",
    "payload",
    "stored",
    "stored, and the dictionary",
]

Chat = list[tuple[str, str]]  # role and content of each message

_draw = random.Random(1)


class Sizes(NamedTuple):
    payload: int
    stored: int


def dialogs(path: Path) -> list[Chat]:
    with path.open(encoding="utf-8") as file:
        found = [json.loads(line) for line in file]
    return [[(each["role"], each["content"]) for each in dialog["messages"]] for dialog in found]


def docstrings() -> list[Chat]:
    """One chat a module, in an order drawn by chance."""
    library = Path(sysconfig.get_path("stdlib"))
    chats = []
    for path in sorted(library.rglob("*.py")):
        if {"test", "tests", "site-packages"} & set(path.parts):
            continue
        try:
            module = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):
            continue
        texts = [text for node in ast.walk(module) if (text := _docstring(node))]
        if texts:
            chats.append([(("user", "assistant")[number % 2], text) for number, text in enumerate(texts)])
    random.Random(2).shuffle(chats)
    return chats


def _docstring(node: ast.AST) -> str | None:
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return ast.get_docstring(node) if isinstance(node, documented) else None


def message(role: str, content: str) -> dict[str, Any]:
    kind = {"user": "human", "assistant": "ai"}[role]
    id = str(UUID(int=_draw.getrandbits(128), version=4))
    data: dict[str, Any] = {"content": content, "additional_kwargs": {}, "response_metadata": {}}
    data |= {"type": kind, "name": None, "id": id}
    if kind == "ai":
        data["id"] = f"run--{id}-0"
        data |= {"tool_calls": [], "invalid_tool_calls": [], "usage_metadata": None}
    return {"type": kind, "data": data}


def values(chats: Iterable[Chat], by_message: bool) -> Iterator[bytes]:
    for chat in chats:
        messages = [message(*each) for each in chat]
        if by_message:
            yield from (json.dumps(each).encode() for each in messages)
        else:
            yield json.dumps(messages).encode()


def sampled(seen: Iterable[bytes], policy: SealPolicy) -> list[bytes]:
    """What a route gathers of values that it seals."""
    samples = Samples(
        ROUTE.dictionary_samples,
        ROUTE.dictionary_samples_bytes,
        ROUTE.compress_min,
        lambda raw, payload: None,
    )
    samples.gather()
    for raw in seen:
        samples.saw(raw, seal(0, b"long:", 1, raw, policy))
    return samples.take()


def sizes(measured: Sequence[bytes], policy: SealPolicy) -> Sizes:
    found = Sizes(0, 0)
    known = {}
    if policy.dictionary is not None:
        known[policy.dictionary_id] = prepared(policy.dictionary.as_bytes())
    for number, raw in enumerate(measured):
        name = b"long:%d" % number
        sealed = seal(0, name, 1, raw, policy)
        if unseal(0, name, 1, sealed, LIMIT, known) != raw:
            raise SystemExit(f"value {number} has not come back as it was")
        found = Sizes(found.payload + payload_size(sealed), found.stored + len(sealed))
    return found


def row(title: str, chats: list[Chat], by_message: bool, policy: SealPolicy) -> list[str]:
    half = len(chats) // 2
    samples = sampled(values(chats[:half], by_message), policy)
    measured = list(values(chats[half:], by_message))
    raw = sum(map(len, measured))
    plain = sizes(measured, policy)
    made = train(samples, policy, ROUTE.dictionary_size)
    cells = [title, f"{len(measured):,}", f"{raw / len(measured):,.0f}"]
    ratios = [f"{raw / plain.payload:.2f}", f"{raw / plain.stored:.2f}"]
    if made is None:
        return [*cells, "none profits", *ratios, *ratios, ratios[1]]
    trained = sizes(measured, with_dictionary(policy, 1, made.dictionary))
    return [
        *cells,
        f"{len(made.dictionary):,}",
        *ratios,
        f"{raw / trained.payload:.2f}",
        f"{raw / trained.stored:.2f}",
        f"{raw / (trained.stored + len(made.dictionary)):.2f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.ratio", description="measure how small values get")
    parser.add_argument("dialogs", nargs="?", type=Path, default=Path(__file__).parent / "dialogs.jsonl")
    parser.add_argument(
        "--level", type=int, default=ROUTE.compression_level, help="zstd's, default: %(default)s"
    )
    parser.add_argument("--markdown", metavar="FILE", type=Path, help="write the table there too")
    options = parser.parse_args()
    policy = replace(SealPolicy(compress_min=ROUTE.compress_min), level=options.level)
    rows = []
    for corpus, chats in (("dialogs", dialogs(options.dialogs)), ("docstrings", docstrings())):
        rows.append(row(f"{corpus}, a key a message", chats, True, policy))
        rows.append(row(f"{corpus}, a key a conversation", chats, False, policy))
    table = markdown(f"ratio, level {options.level}", HEAD, rows)
    print(table)
    if options.markdown:
        options.markdown.write_text(table)


if __name__ == "__main__":
    main()
