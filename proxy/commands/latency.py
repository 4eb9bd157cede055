"""What took long: LATENCY, SLOWLOG."""

from __future__ import annotations

from itertools import zip_longest
from typing import Final

from proxy import errors
from proxy.commands.args import INT64_MAX, parse_int_or
from proxy.commands.help import help_lines
from proxy.commands.spec import CommandSpec, by_name, every_spec, load_table, session_command
from proxy.errors import CommandError
from proxy.resp import OK, Argv, Reply, Verbatim
from proxy.session import Session
from proxy.slowlog import Event
from proxy.timing import doubling

SLOWLOG_COUNT: Final = 10  # entries that SLOWLOG GET gives where the client asks for no number, as in Redis
GRAPH_WIDTH: Final = 80  # columns, one a sample
LEVELS: Final = "_.-'"  # of a column within a line of the graph


@session_command("slowlog|get")
def slowlog_get(session: Session, argv: Argv) -> Reply:
    """Each entry: its number, when (seconds), how long (us), the request, who asked it."""
    if len(argv) > 3:
        raise errors.subcommand_syntax(argv[1], "slowlog")
    count = SLOWLOG_COUNT
    if len(argv) == 3:
        count = parse_int_or(argv[2], errors.SLOWLOG_COUNT)
        if count < -1:
            raise CommandError(errors.SLOWLOG_COUNT)
    entries = list(session.server.slowlog.entries)
    return [
        [entry.id, entry.at, entry.us, entry.argv, entry.peer, entry.name]
        for entry in entries[: count if count >= 0 else INT64_MAX]
    ]


@session_command("slowlog|len")
def slowlog_len(session: Session, argv: Argv) -> Reply:
    return len(session.server.slowlog.entries)


@session_command("slowlog|reset")
def slowlog_reset(session: Session, argv: Argv) -> Reply:
    session.server.slowlog.entries.clear()
    return OK


@session_command("slowlog|help")
def slowlog_help(session: Session, argv: Argv) -> Reply:
    return help_lines(b"slowlog")


@session_command("latency|histogram")
def latency_histogram(session: Session, argv: Argv) -> Reply:
    """By command: its calls, and how many of them took at most so many microseconds."""
    found: dict[bytes, Reply] = {}
    if session.server.latency_tracking:
        for spec in _asked_for(argv[2:]):
            if histogram := doubling(spec.timing.buckets(spec.calls)):
                found[spec.name] = {"calls": spec.calls, "histogram_usec": histogram}
    return found


def _asked_for(names: Argv) -> list[CommandSpec]:
    """These commands, or all for none; a container's name means its subcommands too."""
    if not names:
        return list(every_spec(load_table()))
    specs: list[CommandSpec] = []
    for name in names:
        spec = by_name(load_table(), name)
        if spec is not None:
            specs += [spec, *spec.subcommands.values()]
    return specs


@session_command("latency|latest")
def latency_latest(session: Session, argv: Argv) -> Reply:
    """Each event: its name, when it was last, and how long it took (ms) then and at most."""
    return [[name, *event.samples[-1], event.max] for name, event in session.server.latency.events.items()]


@session_command("latency|history")
def latency_history(session: Session, argv: Argv) -> Reply:
    event = _event(session, argv[2])
    return [] if event is None else [list(sample) for sample in event.samples]


def _event(session: Session, name: bytes) -> Event | None:
    return session.server.latency.events.get(name.decode("latin-1"))


@session_command("latency|reset")
def latency_reset(session: Session, argv: Argv) -> Reply:
    return session.server.latency.reset([name.decode("latin-1") for name in argv[2:]])


@session_command("latency|graph")
def latency_graph(session: Session, argv: Argv) -> Reply:
    event = _event(session, argv[2])
    if event is None:
        raise errors.no_samples(argv[2])
    now = session.server.now() // 1000
    samples = list(event.samples)[-GRAPH_WIDTH:]
    low = min(ms for _, ms in samples)
    text = f"{argv[2].decode('latin-1')} - high {event.max} ms, low {low} ms (all time high {event.max} ms)\n"
    return Verbatim((text + "-" * GRAPH_WIDTH + "\n" + _graph(samples, now)).encode("latin-1"))


def _graph(samples: list[tuple[int, int]], now: int) -> str:
    """A column a sample, from the oldest; under it, downwards, how long ago it was."""
    top = max(ms for _, ms in samples)
    steps = [max(1, round(ms / top * 4 * len(LEVELS))) for _, ms in samples]
    lines: list[str] = []
    for line in reversed(range(4)):
        filled = [min(step - line * len(LEVELS), len(LEVELS)) for step in steps]
        lines.append("".join(LEVELS[part - 1] if part > 0 else " " for part in filled))
    ages = [_age(now - at) for at, _ in samples]
    lines += ["".join(column) for column in zip_longest(*ages, fillvalue=" ")]
    return "".join(f"{line.rstrip()}\n" for line in lines)


def _age(seconds: int) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{seconds // size}{unit}"
    return f"{max(seconds, 0)}s"


@session_command("latency|doctor")
def latency_doctor(session: Session, argv: Argv) -> Reply:
    latency = session.server.latency
    if not latency.threshold:
        text = (
            "Nothing is watched: latency-monitor-threshold is 0. "
            "CONFIG SET latency-monitor-threshold <milliseconds> begins to.\n"
        )
    elif not latency.events:
        text = f"Nothing has taken {latency.threshold} ms or longer.\n"
    else:
        lines = [f"What has taken {latency.threshold} ms or longer:"]
        for name, event in latency.events.items():
            times = [ms for _, ms in event.samples]
            mean = sum(times) / len(times)
            lines.append(f"- {name}: {len(times)} times, {mean:.0f} ms on average, {event.max} ms at most.")
        if "command" in latency.events or "fast-command" in latency.events:
            lines.append(
                "SLOWLOG GET shows which commands these were, INFO tiers and TIER ROUTES whether their "
                "backends answer; the time of a command includes that of the backend it waits for."
            )
        if "expire-cycle" in latency.events:
            lines.append("Many keys expire or are evicted at once: spread their times, or raise max_bytes.")
        text = "".join(f"{line}\n" for line in lines)
    return Verbatim(text.encode())


@session_command("latency|help")
def latency_help(session: Session, argv: Argv) -> Reply:
    return help_lines(b"latency")
