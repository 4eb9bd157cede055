"""The journal's form on disk, byte by byte, and what becomes of one that is torn or damaged."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from backends import journal as journals
from backends.base import Key, Record, StoreError
from backends.journal import CLEAR, DELETE, EVERY_DB, PUT, Journal, JournalError, Logged, decode, encode

LIMIT = 1 << 24
PUT_A = Logged(PUT, Key(3, b"key"), Record(b"sealed", 5, 0x0102030405060708, 1_700_000_000_000, 99, 6))
DELETE_B = Logged(DELETE, Key(0, b"gone"), None)
CLEAR_ALL = Logged(CLEAR, Key(EVERY_DB, b"long:"), None)


async def opened(path: Path, limit: int = LIMIT) -> Journal:
    journal = Journal(path, limit)
    journal.open()
    journal.start(asyncio.get_running_loop())
    return journal


async def append(journal: Journal, *changes: Logged) -> int:
    written: asyncio.Future[int | StoreError] = asyncio.get_running_loop().create_future()
    journal.append(changes, written.set_result)
    result = await written
    if isinstance(result, StoreError):
        raise result
    return result


def encoded(change: Logged) -> bytes:
    return b"".join(encode(change))


def recovered(path: Path) -> list[Logged]:
    journal = Journal(path, LIMIT)
    journal.open()
    try:
        return [change for _, change in journal.recovered]
    finally:
        journal.close()


def test_a_put_has_these_bytes() -> None:
    assert encoded(PUT_A).hex() == (
        "01" "0300" "03000000"  # PUT, database, length of the name
        "05" "0807060504030201" "0068e5cf8b010000" "6300000000000000" "06000000"
        "6b6579" "7365616c6564"
    )  # fmt: skip
    assert list(decode(encoded(PUT_A))) == [PUT_A]


def test_a_delete_and_a_clear_have_these_bytes() -> None:
    assert encoded(DELETE_B).hex() == "02000004000000676f6e65"
    assert encoded(CLEAR_ALL).hex() == "03feff050000006c6f6e673a"
    assert list(decode(encoded(DELETE_B) + encoded(CLEAR_ALL))) == [DELETE_B, CLEAR_ALL]


async def test_a_segment_has_these_bytes(tmp_path: Path) -> None:
    journal = await opened(tmp_path)
    journal.epoch = 7
    await append(journal, DELETE_B)
    journal.close()
    assert (tmp_path / "0000000000000001.journal").read_bytes().hex() == (
        "52544a524e4c" "0100" "0100000000000000" "0700000000000000" "38160beb"
        "52544a42" "0b000000" "1c00000000000000" "49a023fd"
        "02" "0000" "04000000" "676f6e65"
    )  # fmt: skip


async def test_what_was_appended_is_recovered_in_order(tmp_path: Path) -> None:
    journal = await opened(tmp_path)
    journal.epoch = 2
    assert await append(journal, PUT_A, DELETE_B) == 1
    assert await append(journal, CLEAR_ALL) == 1
    journal.close()
    again = Journal(tmp_path, LIMIT)
    again.open()
    assert again.recovered == [(1, PUT_A), (1, DELETE_B), (1, CLEAR_ALL)]
    assert (again.recovered_epoch, again.id) == (2, journal.id)
    again.close()


async def test_a_segment_that_is_full_is_followed_by_another(tmp_path: Path) -> None:
    journal = await opened(tmp_path, limit=16 * 4096)
    large = Logged(PUT, Key(0, b"large"), Record(bytes(5000), 0, 1, 0, 5000, 5000))
    assert [await append(journal, large) for _ in range(3)] == [1, 2, 3]
    await journal.drop_before(3)
    journal.close()
    assert {name for name in os.listdir(tmp_path) if "journal" in name} == {"0000000000000003.journal"}
    assert journal.size == (tmp_path / "0000000000000003.journal").stat().st_size


async def test_a_batch_that_is_torn_anywhere_is_cut_off(tmp_path: Path) -> None:
    journal = await opened(tmp_path / "whole")
    await append(journal, PUT_A)
    kept = journal.size
    await append(journal, DELETE_B, CLEAR_ALL)
    journal.close()
    data = (tmp_path / "whole" / "0000000000000001.journal").read_bytes()
    for size in range(kept, len(data)):
        file = tmp_path / str(size) / "0000000000000001.journal"
        file.parent.mkdir()
        file.write_bytes(data[:size])
        assert recovered(file.parent) == [PUT_A]
        assert file.stat().st_size == kept


async def test_a_batch_of_which_a_part_never_reached_the_disk_is_cut_off(tmp_path: Path) -> None:
    journal = await opened(tmp_path)
    await append(journal, PUT_A)
    kept = journal.size
    await append(journal, PUT_A, PUT_A)
    journal.close()
    file = tmp_path / "0000000000000001.journal"
    data = bytearray(file.read_bytes())
    data[kept + 10 : kept + 40] = bytes(30)
    file.write_bytes(data)
    assert recovered(tmp_path) == [PUT_A]


async def test_a_segment_without_a_batch_was_never_acknowledged(tmp_path: Path) -> None:
    (tmp_path / "0000000000000001.journal").write_bytes(b"RTJ")
    assert recovered(tmp_path) == []
    journal = await opened(tmp_path)
    assert await append(journal, PUT_A) == 1
    journal.close()


async def test_damage_before_what_is_whole_is_refused(tmp_path: Path) -> None:
    journal = await opened(tmp_path)
    for _ in range(3):
        await append(journal, PUT_A)
    journal.close()
    file = tmp_path / "0000000000000001.journal"
    data = file.read_bytes()
    # Of the last batch it can't be told.
    for place in range(0, len(data) - len(journals.frame(encode(PUT_A), 0)[0]), 3):
        damaged = bytearray(data)
        damaged[place] ^= 0x10
        file.write_bytes(damaged)
        with pytest.raises(JournalError, match="is damaged at byte"):
            recovered(tmp_path)
    file.write_bytes(data)
    assert recovered(tmp_path) == [PUT_A] * 3


async def test_a_large_payload_is_written_as_it_is(tmp_path: Path) -> None:
    journal = await opened(tmp_path)
    payload = os.urandom(3 * journals.LARGE)
    large = Logged(PUT, Key(0, b"large"), Record(payload, 0, 1, 0, len(payload), len(payload)))
    await append(journal, DELETE_B, large, CLEAR_ALL)
    await append(journal, PUT_A)
    journal.close()
    assert recovered(tmp_path) == [DELETE_B, large, CLEAR_ALL, PUT_A]


async def test_changes_that_no_batch_can_hold_are_refused_and_harm_no_others(tmp_path: Path) -> None:
    journal = await opened(tmp_path)
    payload = bytes(1 << 29)
    huge = Logged(PUT, Key(0, b"huge"), Record(payload, 0, 1, 0, len(payload), len(payload)))
    with pytest.raises(JournalError, match="too large to be made as one"):
        async with asyncio.timeout(20):
            await append(journal, *[huge] * 8)
    async with asyncio.timeout(20):
        await append(journal, DELETE_B)
    journal.close()
    assert recovered(tmp_path) == [DELETE_B]


@pytest.mark.plain  # a constant that is compiled can't be another
async def test_a_batch_gathers_so_much_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journals, "GATHERED", 1)
    journal = await opened(tmp_path)
    await asyncio.gather(*(append(journal, DELETE_B) for _ in range(5)))
    assert journal.synced == 5
    journal.close()
    assert recovered(tmp_path) == [DELETE_B] * 5


async def test_a_segment_that_is_missing_is_refused(tmp_path: Path) -> None:
    journal = await opened(tmp_path, limit=16 * 4096)
    large = Logged(PUT, Key(0, b"large"), Record(bytes(5000), 0, 1, 0, 5000, 5000))
    for _ in range(3):
        await append(journal, large)
    journal.close()
    (tmp_path / "0000000000000002.journal").unlink()
    with pytest.raises(JournalError, match=r"0000000000000002\.journal is missing"):
        recovered(tmp_path)


@pytest.mark.plain  # a constant that is compiled can't be another
async def test_a_later_form_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journals, "VERSION", 2)
    journal = await opened(tmp_path)
    await append(journal, PUT_A)
    journal.close()
    monkeypatch.undo()
    with pytest.raises(JournalError, match="later release"):
        recovered(tmp_path)


async def test_a_journal_is_of_one_process_at_a_time(tmp_path: Path) -> None:
    journal = await opened(tmp_path)
    with pytest.raises(JournalError, match="in use by another process"):
        Journal(tmp_path, LIMIT).open()
    journal.close()
    recovered(tmp_path)


async def test_a_full_disk_fails_a_write_and_not_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = await opened(tmp_path)
    await append(journal, PUT_A)
    write = os.write

    def full(file: int, data: bytes) -> int:
        monkeypatch.setattr(os, "write", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
        return write(file, data[:20])

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(JournalError, match="No space left") as failed:
        await append(journal, DELETE_B)
    assert not failed.value.unknown
    monkeypatch.undo()
    await append(journal, CLEAR_ALL)
    journal.close()
    assert recovered(tmp_path) == [PUT_A, CLEAR_ALL]


async def test_after_a_sync_that_failed_nothing_is_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = await opened(tmp_path)
    await append(journal, PUT_A)
    monkeypatch.setattr(os, "fdatasync", lambda _: (_ for _ in ()).throw(OSError(5, "Input/output error")))
    with pytest.raises(JournalError, match="Input/output error") as failed:
        await append(journal, DELETE_B)
    assert failed.value.unknown
    monkeypatch.undo()
    with pytest.raises(JournalError, match="restart"):
        await append(journal, CLEAR_ALL)
    journal.close()


async def test_what_is_set_aside_is_kept_and_not_recovered(tmp_path: Path) -> None:
    journal = await opened(tmp_path)
    await append(journal, PUT_A)
    aside = await journal.set_aside()
    assert aside is not None
    await append(journal, DELETE_B)
    journal.close()
    assert recovered(tmp_path) == [DELETE_B]
    _, bodies, _ = journals.read_segment(aside / "0000000000000001.journal", last=True)
    assert list(decode(bodies[0])) == [PUT_A]
