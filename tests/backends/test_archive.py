"""The file of an archive: its bytes, what of it is noticed, and how it is taken up."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest

from backends import archive
from backends.archive import (
    About,
    ArchiveError,
    ArchiveReader,
    ArchiveRecord,
    ArchiveWriter,
    DamagedArchive,
    Totals,
    encode,
)

pytestmark = pytest.mark.once  # it is not compiled

ABOUT = About("main", "redis", "long:*", None, 1_700_000_000_000)
RECORDS = [
    ArchiveRecord(0, b"long:a", 0, b"first", 0),
    ArchiveRecord(3, b"long:\xff", 1, b"\x03\x00", 1_800_000_000_000),
    ArchiveRecord(15, b"", 4, b"", -1),
]
GOLDEN = (
    # magic, version, id, length; about, its digest
    bytes.fromhex("525441524348 0100 000102030405060708090a0b0c0d0e0f 5e000000")
    + b'{"backend": "main", "type": "redis", "match": "long:*", "db": null, "began_at": 1700000000000}'
    + bytes.fromhex(
        "b11395040b2cdf50d9f8e2b6223db3aaf30bcb516d1e4222c89860019382e552"
        # RECORDS: kind, count, length, stored; a zstd frame, the digest
        "01 02000000 37000000 31000000"
        "00006501001402000006000000050000006c6f6e673a616669727374030100505c18a30102ff030003008088811a83006d"
        "2805ae1a7eb5fadcafafcadca5fc5b6078d591c441b2f144cb68feeb1bad8c1d"
        # MARK
        "02 00000000 02000000 02000000 7b7d"
        "51d77035d8deef011ed2c2403ccb6a35e9d1c9b9ae2c09d86bee866d58f325f8"
        # END: how many records, and keys that could not be read
        "03 00000000 10000000 10000000 0200000000000000 0100000000000000"
        "700e62ca38f4d608f765f29e7cd1a99464308067a467b35dea57ec40cd4721bc"
    )
)


def write(path: Path, *, blocks: int = 3) -> None:
    writer = ArchiveWriter(path)
    assert writer.begin(ABOUT) is None
    for number in range(blocks):
        writer.add([encode(record._replace(expire_at=number)) for record in RECORDS])
        writer.mark(b"after %d" % number)
    writer.finish(2)
    writer.close()


def read(path: Path) -> tuple[list[ArchiveRecord], Totals | None]:
    with path.open("rb") as file:
        reader = ArchiveReader(path, file)
        return [record for block in reader.blocks() for record in block.records()], reader.totals


def test_its_bytes_are_those_of_the_documented_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "token_bytes", lambda size: bytes(range(size)))
    writer = ArchiveWriter(tmp_path / "a")
    writer.begin(ABOUT)
    writer.add([encode(record) for record in RECORDS[:2]])
    writer.mark(b"{}")
    writer.finish(1)
    writer.close()
    found = (tmp_path / "a").read_bytes()
    assert found.hex() == GOLDEN.hex()


def test_what_was_written_is_read(tmp_path: Path) -> None:
    write(tmp_path / "a", blocks=2)
    records, totals = read(tmp_path / "a")
    assert records == [record._replace(expire_at=number) for number in range(2) for record in RECORDS]
    assert totals == Totals(6, 2)
    assert [file.name for file in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").stat().st_mode & 0o077 == 0


def test_every_flipped_bit_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write(path, blocks=2)
    whole = path.read_bytes()
    for at in range(len(whole) * 8):
        damaged = bytearray(whole)
        damaged[at // 8] ^= 1 << at % 8
        path.write_bytes(damaged)
        with pytest.raises(ArchiveError, match=r"at byte|does not begin as|later release"):
            read(path)


def test_whatever_is_missing_at_its_end_or_follows_it_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write(path, blocks=2)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(DamagedArchive):
            read(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(DamagedArchive, match="something follows its end"):
        read(path)


def test_blocks_that_are_left_out_exchanged_or_of_another_archive_are_noticed(tmp_path: Path) -> None:
    path, other = tmp_path / "a", tmp_path / "b"
    write(path)
    write(other)
    whole, stranger = path.read_bytes(), other.read_bytes()
    with path.open("rb") as file:
        ends = [block.end for block in ArchiveReader(path, file).blocks()]
    first, second = slice(ends[1], ends[3]), slice(ends[3], ends[5])
    for made in (
        whole[: ends[1]] + whole[ends[3] :],
        whole[: ends[1]] + whole[second] + whole[first] + whole[ends[5] :],
        whole[: ends[1]] + stranger[first] + whole[ends[3] :],
    ):
        path.write_bytes(made)
        with pytest.raises(DamagedArchive, match=f"is damaged at byte {ends[1]:,}"):
            read(path)


def test_a_later_form_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write(path)
    path.write_bytes(path.read_bytes().replace(b"RTARCH\x01", b"RTARCH\x02", 1))
    with pytest.raises(ArchiveError, match="is of form 2, a later release's: use that"):
        read(path)


@pytest.mark.parametrize("damage", [0, 1, 40, 200])
def test_one_that_was_not_finished_is_taken_up_at_its_last_whole_mark(damage: int, tmp_path: Path) -> None:
    first = ArchiveWriter(tmp_path / "a")
    first.begin(ABOUT)
    for number in range(3):
        first.add([encode(record._replace(expire_at=number)) for record in RECORDS])
        first.mark(b"%d" % number)
    first.add([encode(RECORDS[0])])
    first.close()
    assert not (tmp_path / "a").exists()
    if damage:  # as when a machine went down
        size = first.partial.stat().st_size
        with first.partial.open("r+b") as file:
            file.seek(size - damage)
            file.write(b"\0" * damage)
    second = ArchiveWriter(tmp_path / "a")
    mark = second.begin(ABOUT)
    assert mark is not None
    assert (int(mark), second.records) == ((2, 9) if damage < 100 else (1, 6))
    assert second.dropped > 0
    for number in range(int(mark) + 1, 4):
        second.add([encode(record._replace(expire_at=number)) for record in RECORDS])
    second.finish(0)
    second.close()
    records, totals = read(tmp_path / "a")
    assert records == [record._replace(expire_at=number) for number in range(4) for record in RECORDS]
    assert totals == Totals(12, 0)


def test_one_without_a_whole_mark_begins_anew(tmp_path: Path) -> None:
    first = ArchiveWriter(tmp_path / "a")
    first.begin(ABOUT)
    first.add([encode(RECORDS[0])])
    first.close()
    write(tmp_path / "a")
    assert read(tmp_path / "a")[1] == Totals(9, 2)


def test_what_is_in_its_place_and_no_archive_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "a.partial").write_text("precious")
    with pytest.raises(ArchiveError, match="does not begin as an archive does; remove it to begin anew"):
        ArchiveWriter(tmp_path / "a").begin(ABOUT)
    assert (tmp_path / "a.partial").read_text() == "precious"


def test_another_backup_is_not_taken_up(tmp_path: Path) -> None:
    writer = ArchiveWriter(tmp_path / "a")
    writer.begin(ABOUT)
    writer.close()
    with pytest.raises(ArchiveError, match="is of another backup; remove it"):
        ArchiveWriter(tmp_path / "a").begin(About("main", "redis", "*", None, 0))


def test_two_do_not_write_one_archive(tmp_path: Path) -> None:
    writer = ArchiveWriter(tmp_path / "a")
    writer.begin(ABOUT)
    with pytest.raises(ArchiveError, match="another process is writing it"):
        ArchiveWriter(tmp_path / "a").begin(ABOUT)
    writer.close()


def test_a_file_that_has_come_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    writer = ArchiveWriter(tmp_path / "a")
    writer.begin(ABOUT)
    (tmp_path / "a").write_text("precious")
    with pytest.raises(ArchiveError, match="is left as it is"):
        writer.finish(0)
    writer.close()
    assert (tmp_path / "a").read_text() == "precious"


def test_what_is_too_large_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "_CONTENT_MAX", 20)
    with pytest.raises(ArchiveError, match="a value of 5 bytes is too large for an archive"):
        encode(RECORDS[0])
