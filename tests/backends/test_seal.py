"""The seal: its bytes, and that nothing gets past it."""

from __future__ import annotations

import hashlib
import random
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from backends.codecs import Codec, Hash
from backends.seal import Description, IntegrityError, SealPolicy, describe, raw_length, seal, unseal

LIMIT = 1 << 20
NAME = b"long:user:42"
KIND = 1
TEXT = b'{"role": "user", "content": "What did I tell you, and when did I tell you what I told you?"}'

TRAINED = zstandard.ZstdCompressionDict(TEXT, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
DICTIONARIES = {300: TRAINED}

HASHED = SealPolicy(codec=Codec.NONE)
ZSTD = SealPolicy(codec=Codec.ZSTD, compress_min=0)
WITH_DICTIONARY = replace(ZSTD, dictionary_id=300, dictionary=TRAINED)
POLICIES = [
    pytest.param(policy, id=f"{policy.codec.name}{policy.dictionary_id or ''}-{policy.hash.name}")
    for hashed in (HASHED, ZSTD, WITH_DICTIONARY)
    for policy in (hashed, replace(hashed, hash=Hash.NONE))
]
VERIFIED = [pytest.param(p, id=i) for p, i in ((HASHED, "raw"), (ZSTD, "zstd"), (WITH_DICTIONARY, "dict"))]


def opened(sealed: bytes, db: int = 0, name: bytes = NAME, kind: int = KIND, limit: int = LIMIT) -> bytes:
    return unseal(db, name, kind, sealed, limit, DICTIONARIES)


# Sealed for NAME in database 3 by the first release: every later one must read them.
GOLDEN = [
    pytest.param(
        "010003" + b"abc".hex(),
        b"abc",
        Description(1, "none", "none", 0, 3, ""),
        id="bare",
    ),
    pytest.param(
        "013003" + "3faf37aef7a2af44abc6a3b2d9a38b8e2112c1ddf3aa70beacde820a05d6670a" + b"abc".hex(),
        b"abc",
        Description(
            *(1, "none", "sha256", 0, 3),
            "3faf37aef7a2af44abc6a3b2d9a38b8e2112c1ddf3aa70beacde820a05d6670a",
        ),
        id="hashed",
    ),
    pytest.param(
        "01315c" + "94639ba76b066d6f1f05e1a99c259187040a6a4a21e1a511e903ad304f942263"
        "0000450200d2c40f15a0a56ddf098890b45111976cdc6f1c96f5a5fe8b1a810749970d755dbce628e71d654be3917419"
        "f1d6c54698d71ce126dfbc4d1dee717445bac90f151d100100cadd8402",
        TEXT,
        Description(
            *(1, "zstd", "sha256", 0, 92),
            "94639ba76b066d6f1f05e1a99c259187040a6a4a21e1a511e903ad304f942263",
        ),
        id="zstd",
    ),
    pytest.param(
        "0132ac025c" + "485b6e7bb53e7d5a5b40990fd894873d1df7bd94afa2d576d9012e39b6e8075e"
        "00003d0000000100f94d0108",
        TEXT,
        Description(
            *(1, "zstd_dictionary", "sha256", 300, 92),
            "485b6e7bb53e7d5a5b40990fd894873d1df7bd94afa2d576d9012e39b6e8075e",
        ),
        id="zstd with a dictionary",
    ),
    pytest.param(
        "0133ac025c" + "49b74f2894d21f2f737236e2878ef0bc0f297eefe738df810fbb91c19859cefc" + "000100f94d0108",
        TEXT,
        Description(
            *(1, "zstd_dictionary_block", "sha256", 300, 92),
            "49b74f2894d21f2f737236e2878ef0bc0f297eefe738df810fbb91c19859cefc",
        ),
        id="a block with a dictionary",
    ),
]


@pytest.mark.parametrize(("golden", "value", "description"), GOLDEN)
def test_the_golden_bytes_are_read_for_ever(golden: str, value: bytes, description: Description) -> None:
    sealed = bytes.fromhex(golden)
    assert opened(sealed, db=3) == value
    assert describe(sealed) == description
    assert raw_length(sealed) == len(value)


def test_the_format_is_what_its_description_says() -> None:
    """Byte by byte, with a name and a length of more than 127 bytes."""
    name, value = b"n" * 200, random.Random(1).randbytes(300)
    header = bytes((1, 0 | 3 << 4)) + b"\xac\x02"
    covered = header + bytes((5, 15)) + b"\xc8\x01" + name + value
    assert seal(15, name, 5, value, HASHED) == header + hashlib.sha256(covered).digest() + value

    value = b"a" * 20_000
    sealed = seal(0, NAME, KIND, value, ZSTD)
    header, digest, frame = sealed[:5], sealed[5:37], sealed[37:]
    assert header == bytes((1, 1 | 3 << 4)) + b"\xa0\x9c\x01"
    covered = header + bytes((KIND, 0, len(NAME))) + NAME + value + frame
    assert digest == hashlib.sha256(covered).digest()


def test_at_most_38_bytes_are_put_over_a_payload_below_256_mb() -> None:
    largest = b"\x01\x30\xff\xff\xff\x7f" + bytes(32)
    assert len(largest) == 38
    assert raw_length(largest) == 2**28 - 1


@pytest.mark.parametrize("policy", POLICIES)
@given(
    value=st.binary(max_size=300) | st.binary(min_size=1, max_size=40).map(lambda part: part * 500),
    db=st.integers(0, 15),
    name=st.binary(max_size=200),
    kind=st.integers(0, 255),
)
def test_what_is_sealed_comes_back(policy: SealPolicy, value: bytes, db: int, name: bytes, kind: int) -> None:
    sealed = seal(db, name, kind, value, policy)
    assert opened(sealed, db, name, kind) == value
    assert raw_length(sealed) == len(value)


def test_a_value_that_is_short_or_does_not_shrink_is_kept_raw() -> None:
    policy = SealPolicy(compress_min=93)
    assert describe(seal(0, NAME, KIND, TEXT, policy)).codec == "none"
    assert describe(seal(0, NAME, KIND, TEXT + b"!", policy)).codec == "zstd"
    assert describe(seal(0, NAME, KIND, random.Random(1).randbytes(1000), policy)).codec == "none"


@pytest.mark.parametrize("policy", VERIFIED)
@pytest.mark.parametrize("value", [b"", TEXT, TEXT * 60], ids=["empty", "short", "long"])
def test_every_single_flipped_bit_is_noticed(policy: SealPolicy, value: bytes) -> None:
    """Even where the flipped frame decodes to the same bytes, as some do in TEXT * 60."""
    sealed = seal(0, NAME, KIND, value, policy)
    for bit in range(8 * len(sealed)):
        damaged = bytearray(sealed)
        damaged[bit >> 3] ^= 1 << (bit & 7)
        with pytest.raises(IntegrityError):
            opened(bytes(damaged))


@pytest.mark.parametrize("policy", VERIFIED)
def test_every_truncation_and_every_added_byte_is_noticed(policy: SealPolicy) -> None:
    sealed = seal(0, NAME, KIND, TEXT, policy)
    for end in range(len(sealed)):
        with pytest.raises(IntegrityError):
            opened(sealed[:end])
    for byte in range(256):
        with pytest.raises(IntegrityError):
            opened(sealed + bytes((byte,)))


@pytest.mark.parametrize("policy", VERIFIED)
@pytest.mark.parametrize(
    ("db", "name", "kind"),
    [(1, NAME, KIND), (0, NAME + b"0", KIND), (0, b"", KIND), (0, NAME, KIND + 1), (0, NAME, 0)],
)
def test_a_record_under_another_key_or_kind_is_noticed(
    policy: SealPolicy, db: int, name: bytes, kind: int
) -> None:
    sealed = seal(0, NAME, KIND, TEXT, policy)
    with pytest.raises(IntegrityError, match="digest does not match"):
        opened(sealed, db, name, kind)


@given(
    record=st.tuples(st.integers(0, 200), st.binary(max_size=4), st.integers(0, 200), st.binary(max_size=4)),
    other=st.tuples(st.integers(0, 200), st.binary(max_size=4), st.integers(0, 200), st.binary(max_size=4)),
)
def test_different_records_have_different_digests(
    record: tuple[int, bytes, int, bytes], other: tuple[int, bytes, int, bytes]
) -> None:
    """So the digest's input is unambiguous: no byte of one part can pass for a byte of the next."""
    one, two = (describe(seal(*each, HASHED)).digest for each in (record, other))
    assert (one == two) == (record == other)


def test_a_dictionary_that_was_replaced_is_noticed() -> None:
    sealed = seal(0, NAME, KIND, TEXT, WITH_DICTIONARY)
    other = zstandard.ZstdCompressionDict(TEXT.upper(), dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    with pytest.raises(IntegrityError, match="digest does not match"):
        unseal(0, NAME, KIND, sealed, LIMIT, {300: other})
    with pytest.raises(IntegrityError, match="dictionary 300 is not there"):
        unseal(0, NAME, KIND, sealed, LIMIT)


DIGEST = bytes(32)


@pytest.mark.parametrize(
    ("sealed", "reason"),
    [
        (b"", "truncated: 0 bytes are no sealed value"),
        (b"\x01\x00", "truncated: 2 bytes are no sealed value"),
        (b"\x00\x00\x00", "format version 0 is not known to this release"),
        (b"\x02\x00\x00", "its blob is missing or damaged, or its route offloads no more"),
        (b"\x03\x00\x00", "format version 3 is not known to this release"),
        (b"\x01\x04\x00", "codec 4 is not known to this release"),
        (b"\x01\x10\x00", "hash 1 is not known to this release"),
        (b"\x01\x00\x80", "truncated: the header is cut"),
        (b"\x01\x02\x81", "truncated: the header is cut"),
        (b"\x01\x30\x00" + DIGEST[1:], "truncated: the digest is cut"),
        (b"\x01\x00\x83\x00abc", "a number in the header is longer than it must be"),
        (b"\x01\x02\xac\x82\x00\x03abc", "a number in the header is longer than it must be"),
        (b"\x01\x00" + b"\xff" * 9 + b"\x01", "a number in the header is too long"),
        (b"\x01\x00\x04abc", "3 bytes of payload where 4 belong"),
        (b"\x01\x00\x02abc", "3 bytes of payload where 2 belong"),
        (b"\x01\x00" + b"\xff" * 8 + b"\x7f", f"raw length {2**63 - 1} is over the limit of {LIMIT}"),
        (b"\x01\x01\x81\x80\x40\0\0\0", f"raw length {LIMIT + 1} is over the limit of {LIMIT}"),
        (b"\x01\x02\x05\x03abc", "dictionary 5 is not there"),
        (b"\x01\x03\x05\x03abc", "dictionary 5 is not there"),
        (b"\x01\x03\xac\x02\x00abc", "decompression failed: the payload is no block of ours"),
        (b"\x01\x03\xac\x02\x03", "decompression failed: the payload is no block of ours"),
        (b"\x01\x01\x00\0\0\0", "decompression failed: the payload is a zstd frame of no bytes"),
        (b"\x01\x01\x05abc", "decompression failed: the payload is no zstd frame of ours"),
        (b"\x01\x30\x03" + DIGEST + b"abc", "the digest does not match"),
    ],
)
def test_the_reason_says_what_is_wrong(sealed: bytes, reason: str) -> None:
    with pytest.raises(IntegrityError) as caught:
        opened(sealed)
    assert str(caught.value) == reason


@given(st.binary(max_size=80))
def test_junk_raises_nothing_else(junk: bytes) -> None:
    with pytest.raises(IntegrityError):
        opened(b"\x01\x31" + junk)
    with suppress(IntegrityError):
        opened(junk)


def test_the_limit_is_inclusive() -> None:
    sealed = seal(0, NAME, KIND, TEXT, ZSTD)
    assert opened(sealed, limit=len(TEXT)) == TEXT
    with pytest.raises(IntegrityError, match="over the limit"):
        opened(sealed, limit=len(TEXT) - 1)


def test_large_values_can_be_sealed_in_worker_threads() -> None:
    values = [bytes((i,)) * 100_000 + TEXT * i for i in range(16)]

    def round_trip(value: bytes) -> bytes:
        return opened(seal(0, NAME, KIND, value, ZSTD))

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(round_trip, values * 4)) == values * 4


@pytest.mark.parametrize(
    "wrong",
    [{"codec": Codec.ZSTD_DICTIONARY}, {"dictionary_id": 3}, {"dictionary": TRAINED}],
)
def test_a_policy_that_contradicts_itself_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="dictionary"):
        replace(ZSTD, **wrong)  # type: ignore[arg-type]
