"""The file that says where a copy stands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from proxy.copying.state import State
from proxy.statefile import BadState, StateFile

pytestmark = pytest.mark.once  # it is not compiled

COPY: dict[str, object] = {"from": "a", "to": "b"}


def test_what_was_kept_is_loaded(tmp_path: Path) -> None:
    state = State(number=3, compared=7, refusals=["a: ERR"])
    state.move(b"\xff\x00cursor")
    StateFile(tmp_path / "s", State, "copy", COPY).keep(state)
    loaded = StateFile(tmp_path / "s", State, "copy", COPY).load()
    assert loaded == state
    assert loaded is not None
    assert loaded.at() == b"\xff\x00cursor"
    assert [file.name for file in tmp_path.iterdir()] == ["s"]


def test_it_is_not_written_more_often_than_is_of_use(tmp_path: Path) -> None:
    file = StateFile(tmp_path / "s", State, "copy", COPY)
    file.keep(State(compared=1))
    file.keep(State(compared=2))
    assert StateFile(tmp_path / "s", State, "copy", COPY).load() == State(compared=1)
    file.flush()
    assert StateFile(tmp_path / "s", State, "copy", COPY).load() == State(compared=2)


def test_there_is_none_before_a_copy_and_after_it(tmp_path: Path) -> None:
    file = StateFile(tmp_path / "s", State, "copy", COPY)
    assert file.load() is None
    file.keep(State())
    file.remove()
    assert file.load() is None


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"version": 1, "copy": {}, "state": {"number": 1}}', "\xff"]
)
def test_a_file_that_is_something_else_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "s").write_text(content)
    with pytest.raises(BadState, match="is not the state of a copy"):
        StateFile(tmp_path / "s", State, "copy", COPY).load()


def test_the_state_of_another_copy_is_refused(tmp_path: Path) -> None:
    StateFile(tmp_path / "s", State, "copy", COPY).keep(State())
    with pytest.raises(BadState, match="is the state of another copy"):
        StateFile(tmp_path / "s", State, "copy", {**COPY, "to": "c"}).load()


def test_a_place_that_can_t_be_written_to_is_told(tmp_path: Path) -> None:
    with pytest.raises(BadState, match="can't be written: No such file or directory"):
        StateFile(tmp_path / "nowhere" / "s", State, "copy", COPY).keep(State())


def test_a_position_that_can_t_be_kept_begins_anew(tmp_path: Path) -> None:
    file = StateFile(tmp_path / "s", State, "copy", COPY)
    state = State(compared=5)
    state.move((1, b"a"))
    file.keep(state)
    assert json.loads((tmp_path / "s").read_text())["state"]["position"] == ""
    assert not state.begun
