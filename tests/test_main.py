"""The command line as a user meets it: what it prints, where, and its exit code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from proxy.__main__ import configure, main
from proxy.config import default_config
from proxy.options import Address

ROOT = Path(__file__).parent.parent


def redtier(*argv: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "proxy", *argv]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)


def test_the_version() -> None:
    done = redtier("--version")
    assert (done.returncode, done.stdout.split()[0], done.stderr) == (0, "redtier", "")


def test_without_a_command_there_is_help() -> None:
    done = redtier()
    assert (done.returncode, done.stdout) == (2, "")
    assert "serve" in done.stderr
    assert "check" in done.stderr


def test_check_shows_the_routes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(ROOT / "config.example.toml")]) == 0
    out, err = capsys.readouterr()
    assert [line.split()[:3] for line in out.splitlines()] == [
        ["prefix", "backend", "type"],
        ['"long:"', "archive", "postgres"],
        ['"blob:"', "blobs", "s3"],
        ['"note:"', "local", "sqlite"],
        ['"working:"', "main", "redis"],
        ['""', "hot", "memory"],
    ]
    assert err == ""


@pytest.mark.parametrize("command", [["check"], ["serve", "--config"]])
def test_a_wrong_file_is_told_a_line_for_each_mistake(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "r.toml"
    file.write_text("[server]\nmax_clients = 0\n[htp]\n")
    assert main([*command, str(file)]) == 1
    assert capsys.readouterr() == (
        "",
        f"redtier: {file}: [server] max_clients: must be an integer of at least 1, not 0\n"
        f'redtier: {file}: [htp]: unknown table; did you mean "http"?\n',
    )


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (
            ["serve", "--listen", ":6380"],
            'argument --listen: must be "host:port", "[::1]:port" or "unix:/path", not ":6380"',
        ),
        (["serve", "--confg", "x"], "unrecognized arguments: --confg x"),
        (["check"], "the following arguments are required: FILE"),
    ],
)
def test_a_wrong_command_line_is_told_in_one_line(
    argv: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exited:
        main(argv)
    assert exited.value.code == 2
    assert capsys.readouterr() == ("", f"redtier: {line}\n")


def test_listen_replaces_the_addresses_of_the_configuration(tmp_path: Path) -> None:
    file = tmp_path / "r.toml"
    file.write_text('[server]\nlisten = ["127.0.0.1:1"]\nmax_clients = 7\n')
    given = (Address("127.0.0.1", 0), Address("", 0, "/tmp/x.sock"))
    config = configure(str(file), given)
    assert (config.server.listen, config.server.max_clients) == (given, 7)


def test_without_a_file_the_default_configuration_is_served() -> None:
    assert configure(None, []) == default_config()


def test_check_does_not_wait_for_the_server_to_be_imported() -> None:
    code = (
        "import sys; from proxy.__main__ import main; main(['check', 'config.example.toml']);"
        "sys.exit('proxy.server' in sys.modules or 'asyncio' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, timeout=30, check=False
    )
    assert done.returncode == 0
