"""CONFIG REWRITE: the file is as it was, but for what was set."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.config import default_config, load, parse
from proxy.errors import CommandError
from proxy.rewrite import rewrite, rewritten
from tests.servers import ROOT, RedtierServer

pytestmark = pytest.mark.once  # nothing of it is compiled

FILE = """\
# Ours.
[server]
listen = ["127.0.0.1:6380"]   # only here
max_clients = 100             # few
password = 'a # b'            # secret

[backends."hot"]
type = "memory"
[[routes]]
prefix = ""
backend = "hot"
"""


def test_values_change_and_all_else_stays() -> None:
    changes = {
        ("server", "max_clients"): "7",
        ("server", "password"): '"c"',
        ("backends.hot", "policy"): '"x"',
    }
    assert rewritten(FILE, changes) == FILE.replace("= 100 ", "= 7 ").replace("'a # b'", '"c"').replace(
        '"memory"\n', '"memory"\npolicy = "x"\n'
    )


def test_what_is_missing_is_added_to_its_table() -> None:
    assert rewritten(FILE, {("server", "log_level"): '"debug"'}) == FILE.replace(
        "# secret\n", '# secret\nlog_level = "debug"\n'
    )


def test_a_table_that_is_missing_is_added_at_the_end() -> None:
    text = '[backends.hot]\ntype = "memory"\n'
    assert rewritten(text, {("server", "max_clients"): "7"}) == f"{text}\n[server]\nmax_clients = 7\n"
    assert rewritten("", {("server", "max_clients"): "7"}).strip() == "[server]\nmax_clients = 7"


def test_an_option_of_another_table_is_left_alone() -> None:
    text = '[[routes]]\nprefix = ""\npolicy = "a"\n[other]\npolicy = "b"\n'
    assert rewritten(text, {("other", "policy"): '"c"'}) == text.replace('"b"', '"c"')


def test_every_default_can_be_written_anew() -> None:
    text = (ROOT / "config.example.toml").read_text()
    written = rewritten(text, {("server", "max_clients"): "7", ("server", "idle_timeout"): '"9s"'})
    assert len(written.splitlines()) == len(text.splitlines())
    server = parse(written, "example").server
    assert (server.max_clients, server.idle_timeout) == (7, 9000)


@pytest.fixture
def config() -> str:
    return '[backends.hot]\ntype = "memory"\n[[routes]]\nprefix = ""\nbackend = "hot"\n'


def test_what_was_set_holds_after_the_next_start(config: str) -> None:
    with RedtierServer(config) as server, server.client() as client:
        path = server.directory / "redtier.toml"
        assert client.info("server")["config_file"] == str(path.resolve())
        before = path.read_text()
        client.config_rewrite()
        assert path.read_text().strip() == before.strip()
        client.config_set("maxclients", 77)
        client.config_set("timeout", 8)
        client.config_set("maxmemory", "3mb")
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("slowlog-log-slower-than", 12_345)
        client.config_set("loglevel", "verbose")
        client.config_rewrite()
        written = load(str(path))
        assert (written.server.max_clients, written.server.idle_timeout) == (77, 8000)
        assert (written.server.slowlog_slower_than, written.server.log_level) == (13, "info")
        hot = written.backends["hot"]
        assert (getattr(hot, "max_bytes", 0), getattr(hot, "policy", "")) == (3 << 20, "noeviction")


def test_without_a_file_there_is_none_to_write() -> None:
    with pytest.raises(CommandError, match="running without a config file"):
        rewrite(default_config().source, {})


def test_a_file_that_would_not_do_is_left_as_it_is(tmp_path: Path, config: str) -> None:
    file = tmp_path / "redtier.toml"
    file.write_text(config)
    with pytest.raises(CommandError, match="max_clients"):
        rewrite(str(file), {("server", "max_clients"): "-1"})
    assert file.read_text() == config
    assert list(tmp_path.iterdir()) == [file]


def test_the_file_keeps_its_mode_and_a_link_stays_one(tmp_path: Path, config: str) -> None:
    file, link = tmp_path / "redtier.toml", tmp_path / "link.toml"
    file.write_text(config)
    file.chmod(0o640)
    link.symlink_to(file)
    rewrite(str(link), {("server", "max_clients"): "7"})
    assert link.is_symlink()
    assert file.stat().st_mode & 0o777 == 0o640
    assert load(str(file)).server.max_clients == 7
