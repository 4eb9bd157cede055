"""Values in Redis' own form: golden bytes, old forms that Redis 7.0 does not write any more, and damage."""

from __future__ import annotations

import math
import struct
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.datatypes import listpack, lzf, rdb, streamid
from proxy.datatypes.crc64 import POLYNOMIAL, crc64
from proxy.datatypes.hash import Hash
from proxy.datatypes.list import List
from proxy.datatypes.rdb import BadFooter, BadFormat
from proxy.datatypes.set import Set
from proxy.datatypes.stream import Stream
from proxy.datatypes.zset import ZSet
from proxy.keyspace import HASH, LIST, STREAM, STRING, ZSET

NOW = 1_700_000_000_000


def payload(value: bytes, version: int = 10) -> bytes:
    """A type and a value with what comes after them."""
    body = value + version.to_bytes(2, "little")
    return body + crc64(body).to_bytes(8, "little")


def body(kind: int, value: object) -> bytes:
    return rdb.dump(kind, value, NOW)[:-10]


def test_the_checksum_is_that_of_the_catalogue() -> None:
    assert crc64(b"123456789") == 0xE9C6D914C4B8D9CA


@given(st.integers(0, 40), st.binary(min_size=1, max_size=3))
def test_the_checksum_is_the_same_bit_by_bit(times: int, data: bytes) -> None:
    crc = 0
    for byte in data * times:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ POLYNOMIAL if crc & 1 else crc >> 1
    assert crc64(data * times) == crc


def test_a_dump_is_byte_for_byte_what_redis_makes() -> None:
    assert rdb.dump(STRING, b"hello", NOW) == b"\x00\x05hello\x0a\x00cr\xdfve4\x20\x0a"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"", b"\0\0"),
        (b"12", b"\0\xc0\x0c"),
        (b"-129", b"\0\xc1\x7f\xff"),
        (b"70000", b"\0\xc2\x70\x11\x01\x00"),
        (b"2147483648", b"\0\x0a2147483648"),
        (b"012", b"\0\x03012"),
        (b"x" * 64, b"\0\x40\x40" + b"x" * 64),
        (b"x" * 20000, b"\0\x80\x00\x00\x4e\x20" + b"x" * 20000),
        (bytearray(b"10"), b"\0\xc0\x0a"),
    ],
)
def test_a_string_is_written_in_the_shortest_form_that_is_not_compressed(
    value: bytes | bytearray, expected: bytes
) -> None:
    assert body(STRING, value) == expected
    assert rdb.restore(payload(expected)) == (STRING, bytes(value))


def of(kind: int, raw: bytes) -> object:
    """What is restored of a type and a value, without its kind, which is looked at."""
    found, value = rdb.restore(payload(raw))
    assert found == kind
    return value


def blob(data: bytes) -> bytes:
    return bytes((0x40 | len(data) >> 8, len(data) & 255)) + data


def made_listpack(items: list[bytes]) -> bytes:
    writer = listpack.Writer()
    for item in items:
        writer.string(item)
    return writer.finish()


def made_ziplist(elements: list[bytes]) -> bytes:
    """``elements`` are encoded; the sizes before them are not looked at."""
    data = b"".join(b"\0" + element for element in elements) + b"\xff"
    return (len(data) + 10).to_bytes(4, "little") + bytes(4) + len(elements).to_bytes(2, "little") + data


ZIPLIST = made_ziplist(
    [b"\x01a", b"\xf1", b"\xfe\x80", b"\xc0\x00\x01", b"\xf0\x00\x00\x80", b"\x40\x41" + b"x" * 65]
)
ZIPLIST_ITEMS = [b"a", b"0", b"-128", b"256", b"-8388608", b"x" * 65]


class TestOldForms:
    def test_a_ziplist(self) -> None:
        assert listpack.ziplist(ZIPLIST) == ZIPLIST_ITEMS
        large = made_ziplist(
            [b"\xd0\x00\x00\x01\x00", b"\xe0" + b"\xff" * 8, b"\x80\x00\x00\x00\x02ab", b"\xfd"]
        )
        assert listpack.ziplist(large) == [b"65536", b"-1", b"ab", b"12"]

    def test_an_element_after_a_large_one_has_its_size_in_five_bytes(self) -> None:
        data = made_ziplist([b"\x01a"])[:-1] + b"\xfe\x00\x01\x00\x00" + b"\x01b" + b"\xff"
        data = len(data).to_bytes(4, "little") + data[4:8] + b"\x02\x00" + data[10:]
        assert listpack.ziplist(data) == [b"a", b"b"]

    def test_a_hash_in_a_ziplist(self) -> None:
        value = of(HASH, b"\x0d" + blob(ZIPLIST))
        assert isinstance(value, Hash)
        assert value.items(NOW) == dict(zip(ZIPLIST_ITEMS[::2], ZIPLIST_ITEMS[1::2], strict=True))

    @pytest.mark.parametrize("raw", [b"\x0a" + blob(ZIPLIST), b"\x0e\x01" + blob(ZIPLIST)])
    def test_a_list_in_ziplists(self, raw: bytes) -> None:
        value = of(LIST, raw)
        assert isinstance(value, List)
        assert value.elements() == ZIPLIST_ITEMS

    def test_a_sorted_set_with_scores_as_text_or_in_a_ziplist(self) -> None:
        text = b"\x03\x04" + b"\x01a\x031.5" + b"\x01b\xfe" + b"\x01c\xff" + b"\x01d\x02-7"
        packed = b"\x0c" + blob(
            made_ziplist([b"\x01c", b"\x04-inf", b"\x01a", b"\x031.5", b"\x01b", b"\x03inf"])
        )
        for raw, members in ((text, [b"c", b"d", b"a", b"b"]), (packed, [b"c", b"a", b"b"])):
            value = of(ZSET, raw)
            assert isinstance(value, ZSet)
            assert value.items()[0] == members
            assert value.score(b"a") == 1.5

    def test_a_stream_that_knows_nothing_of_what_was_added(self) -> None:
        value = of(
            STREAM,
            b"\x0f\x01" + NODE + b"\x01\x05\x01" + b"\x01\x01g\x05\x01" + PENDING.replace(SEEN, SEEN[:8]),
        )
        assert_stream(value)


NODE = (
    b"\x10"
    + streamid.make(5, 1)
    + blob(made_listpack([b"1", b"0", b"1", b"f", b"0", b"2", b"0", b"0", b"v", b"4"]))
)
SEEN = (NOW + 2).to_bytes(8, "little") + (NOW + 3).to_bytes(8, "little")
PENDING = (
    b"\x01" + streamid.make(5, 1) + NOW.to_bytes(8, "little") + b"\x07"
    b"\x01\x01c" + SEEN + b"\x01" + streamid.make(5, 1)
)


def assert_stream(value: object) -> None:
    assert isinstance(value, Stream)
    assert value.range(streamid.FIRST, streamid.LAST) == [(streamid.make(5, 1), [b"f", b"v"])]
    group = value.groups[b"g"]
    assert group.consumers[b"c"].seen_at == NOW + 2
    delivery = group.pending.get(streamid.make(5, 1))
    assert delivery is not None
    assert (delivery.consumer, delivery.at, delivery.count) == (b"c", NOW, 7)


class TestLaterForms:
    def test_a_stream_whose_consumers_have_a_second_time(self) -> None:
        counts = b"\x01\x05\x01" + b"\x05\x01" + b"\x00\x00" + b"\x09"
        value = of(STREAM, b"\x15\x01" + NODE + counts + b"\x01\x01g\x05\x01\x08" + PENDING)
        assert_stream(value)
        assert isinstance(value, Stream)
        assert value.added == 9
        assert value.groups[b"g"].entries_read == 8

    def test_a_set_in_a_listpack(self) -> None:
        value = rdb.restore(payload(b"\x14" + blob(made_listpack([b"a", b"b"])), version=11))[1]
        assert isinstance(value, Set)
        assert sorted(value.members()) == [b"a", b"b"]

    def test_a_hash_of_which_fields_expire_comes_back_with_their_times(self) -> None:
        value = Hash()
        for name in (b"a", b"b", b"c", b"gone"):
            value.set(name, name.upper())
        value.expire(b"a", NOW + 1000)
        value.expire(b"b", NOW + 5000)
        value.expire(b"gone", NOW)
        dumped = rdb.dump(HASH, value, NOW)
        assert dumped[0] == 24
        assert dumped[-10:-8] == b"\x0c\x00"  # so that none who does not know it keeps them for ever
        restored = rdb.restore(dumped)[1]
        assert isinstance(restored, Hash)
        assert restored.items(NOW) == {b"a": b"A", b"b": b"B", b"c": b"C"}
        assert [restored.expires_at(name) for name in (b"a", b"b", b"c")] == [NOW + 1000, NOW + 5000, 0]

    def test_a_hash_in_a_listpack_of_which_fields_expire(self) -> None:
        items = [b"a", b"A", b"%d" % (NOW + 7), b"b", b"B", b"0"]
        raw = b"\x19" + (NOW + 7).to_bytes(8, "little") + blob(made_listpack(items))
        value = rdb.restore(payload(raw, version=12))[1]
        assert isinstance(value, Hash)
        assert value.expires_at(b"a") == NOW + 7
        assert value.expires_at(b"b") == 0


class TestListpack:
    @given(
        st.lists(
            st.binary(max_size=10) | st.sampled_from([b"x" * 64, b"x" * 4095, b"x" * 4096, b"x" * 70000])
        )
    )
    def test_what_is_written_is_read(self, items: list[bytes]) -> None:
        assert listpack.items(made_listpack(items)) == items

    @given(st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(-5000, 5000)))
    def test_integers_are_read_as_their_digits(self, numbers: list[int]) -> None:
        writer = listpack.Writer()
        for number in numbers:
            writer.integer(number)
        assert listpack.items(writer.finish()) == [b"%d" % number for number in numbers]

    def test_one_of_more_elements_than_its_header_can_count(self) -> None:
        items = [b"%d" % number for number in range(70_000)]
        assert listpack.items(made_listpack(items)) == items


class TestLzf:
    @pytest.mark.parametrize(
        ("data", "expected"),
        [
            (b"\x02abc", b"abc"),
            (b"\x00a\x40\x00", b"aaaaa"),  # four, from one back
            (b"\x02abc\x60\x02", b"abcabcab"),
            (b"\x00a\xe0\xff\x00", b"a" * 265),
            (b"\x00a\x20\x00\x00b", b"aaaab"),
        ],
    )
    def test_what_stood_before_stands_there_again(self, data: bytes, expected: bytes) -> None:
        assert lzf.decompress(data, len(expected)) == expected

    @pytest.mark.parametrize("data", [b"\x05abc", b"\x00a\x40", b"\x00a\xe0", b"\x00a\x40\x01", b"\x40\x00"])
    def test_damage_is_refused(self, data: bytes) -> None:
        with pytest.raises(ValueError, match=r"."):
            lzf.decompress(data, 5)

    def test_no_more_is_made_than_was_announced(self) -> None:
        with pytest.raises(ValueError, match="announced"):
            lzf.decompress(b"\x00a" + b"\xe0\xff\x00" * 1000, 10)


class TestDamage:
    @pytest.mark.parametrize("data", [b"", b"123456789", payload(b"\0\1a", version=99)])
    def test_a_footer_that_is_not_right_is_refused(self, data: bytes) -> None:
        with pytest.raises(BadFooter):
            rdb.restore(data)

    def test_no_bit_can_be_flipped(self) -> None:
        whole = rdb.dump(STRING, b"hello", NOW)
        for bit in range(8 * len(whole)):
            damaged = bytearray(whole)
            damaged[bit >> 3] ^= 1 << (bit & 7)
            with pytest.raises(BadFooter):
                rdb.restore(bytes(damaged))

    @pytest.mark.parametrize(
        "raw",
        [
            b"",
            b"\x63",  # a type that there is not
            b"\x00\x05abc",
            b"\x00\xc4a",  # a form of strings that there is not
            b"\x00\xc3\x03\x80\xff\xff\xff\xff\x02abc",  # four gigabytes of three bytes
            b"\x02\x00",  # empty
            b"\x05\x01\x01a" + struct.pack("<d", math.nan),
            b"\x0f\x01" + NODE + b"\x02\x05\x01\x00",  # two entries are announced
            b"\x0f\x01" + NODE + b"\x01\x04\x01\x00",  # the last one was before
            b"\x0f\x02" + NODE + NODE + b"\x02\x05\x01\x00",
            b"\x01\x00",
            b"\x12\x01\x03\x01a",  # a kind of nodes that there is not
            b"\x12\x01\x02" + blob(made_listpack([])),
            b"\x02\x80\xff\xff\xff\xff\x01a",
            b"\x02\x02\x01a\x01a",  # the same twice
            b"\x04\x02\x01a\x01b\x01a\x01c",
            b"\x04\x81\xff\xff\xff\xff\xff\xff\xff\xff\x01a\x01b",
            b"\x0b" + blob(b"\x03\0\0\0\x01\0\0\0\0\0\0"),
            b"\x10" + blob(made_listpack([b"a"])),  # a field without a value
            b"\x10" + blob(made_listpack([])),
            b"\x10" + blob(made_listpack([b"a", b"b", b"a", b"c"])),
            b"\x10" + blob(b"\x0a\0\0\0\1\0\x85a\1\xff"),  # an element beyond the end
            b"\x19" + bytes(8) + blob(made_listpack([b"a", b"A", b"x"])),
        ],
    )
    def test_what_is_not_well_formed_is_refused(self, raw: bytes) -> None:
        with pytest.raises(BadFormat):
            rdb.restore(payload(raw))

    @given(st.sampled_from(list(range(26))), st.binary(max_size=40))
    def test_no_bytes_make_it_fail_otherwise(self, form: int, rest: bytes) -> None:
        for raw in (bytes((form,)) + rest, bytes((form,)) + blob(rest)):
            with suppress(BadFormat):
                rdb.restore(payload(raw))
