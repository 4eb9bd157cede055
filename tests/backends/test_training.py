"""What a dictionary is trained from, and when one is worth having."""

from __future__ import annotations

import random

from backends.codecs import Codec
from backends.samples import SAMPLE_MAX, Samples
from backends.seal import SealPolicy, describe, encode, payload_size, seal, unseal
from backends.training import SAMPLES_MIN, train, with_dictionary
from tests.chats import messages

PLAIN = SealPolicy()
MESSAGES = list(messages(1200))


def nothing(raw_bytes: int, payload_bytes: int) -> None:
    pass


def test_messages_get_a_dictionary_that_makes_them_half_as_large() -> None:
    made = train(MESSAGES[:1000], PLAIN, 16 * 1024)
    assert made is not None
    assert (made.samples, made.samples_held) == (750, 250)
    assert len(made.dictionary) <= 16 * 1024
    policy = with_dictionary(PLAIN, 7, made.dictionary)
    sealed = [seal(0, b"k", 1, raw, policy) for raw in MESSAGES[1000:]]
    plain = [seal(0, b"k", 1, raw, PLAIN) for raw in MESSAGES[1000:]]
    assert sum(map(payload_size, sealed)) * 2 < sum(map(payload_size, plain))
    assert {describe(each).dictionary_id for each in sealed} == {7}
    assert policy.dictionary is not None
    for raw, each in zip(MESSAGES[1000:], sealed, strict=True):
        assert unseal(0, b"k", 1, each, 1 << 20, {7: policy.dictionary}) == raw


def test_what_is_random_gets_none() -> None:
    draw = random.Random(1)
    assert train([draw.randbytes(200) for _ in range(400)], PLAIN, 16 * 1024) is None


def test_what_its_dictionary_serves_well_gets_no_other() -> None:
    made = train(MESSAGES[:600], PLAIN, 16 * 1024)
    assert made is not None
    assert train(MESSAGES[600:], with_dictionary(PLAIN, 1, made.dictionary), 16 * 1024) is None


def test_a_few_values_are_too_few() -> None:
    assert train(MESSAGES[: SAMPLES_MIN - 1], PLAIN, 16 * 1024) is None
    assert train(MESSAGES[:SAMPLES_MIN], PLAIN, 16 * 1024) is not None


def test_values_that_are_all_the_same_do_no_harm() -> None:
    made = train([MESSAGES[0]] * 500, PLAIN, 16 * 1024)
    assert made is None or made.packed < made.plain


def test_a_long_value_is_kept_without_its_dictionary_where_that_is_smaller() -> None:
    made = train(MESSAGES, PLAIN, 4096)
    assert made is not None
    draw = random.Random(2)
    chat = b"\n".join(MESSAGES[:100])
    log = b"\n".join(b"%d %d" % (number, draw.randrange(1 << 60)) for number in range(9000))
    codecs = []
    for raw in (MESSAGES[0], chat, log):
        policy = with_dictionary(PLAIN, 1, made.dictionary)
        codec, payload = encode(raw, policy)
        codecs.append(codec)
        assert len(payload) <= len(encode(raw, PLAIN)[1])
        assert policy.dictionary is not None
        sealed = seal(0, b"k", 1, raw, policy)
        assert unseal(0, b"k", 1, sealed, 1 << 22, {1: policy.dictionary}) == raw
    assert codecs == [Codec.ZSTD_DICTIONARY_BLOCK, Codec.ZSTD_DICTIONARY_BLOCK, Codec.ZSTD]


class TestSamples:
    def test_values_are_gathered_within_their_bounds_when_that_is_asked_for(self) -> None:
        samples = Samples(100, 10_000, 64, nothing)
        for bound, part in ((100, [b"x" * 64] * 200), (10_000, MESSAGES)):
            for gathers in (False, True):
                if gathers:
                    samples.gather()
                for raw in part:
                    samples.saw(raw, seal(0, b"k", 1, raw, PLAIN))
                values = samples.take()
                assert bool(values) == gathers
                if gathers:
                    assert values == part[: len(values)]
                    size = sum(map(len, values))
                    assert len(values) == 100 if bound == 100 else bound - 1000 < size <= bound

    def test_short_values_are_counted_and_not_held(self) -> None:
        samples = Samples(100, 10_000, 64, nothing)
        samples.gather()
        samples.saw(b"x" * 63, seal(0, b"k", 1, b"x" * 63, PLAIN))
        assert (samples.records, samples.raw_bytes, samples.payload_bytes) == (1, 63, 63)
        assert not samples.values

    def test_of_a_long_value_the_beginning_is_held(self) -> None:
        samples = Samples(100, 100_000, 64, nothing)
        samples.gather()
        raw = random.Random(1).randbytes(50_000)
        samples.saw(raw, seal(0, b"k", 1, raw, PLAIN))
        assert samples.take() == [raw[:SAMPLE_MAX]]

    def test_what_each_batch_of_values_took_is_told(self) -> None:
        told: list[tuple[int, int]] = []
        samples = Samples(100, 10_000, 64, lambda raw, payload: told.append((raw, payload)))
        for raw in MESSAGES[:250]:
            samples.saw(raw, seal(0, b"k", 1, raw, PLAIN))
        assert told == [
            (sum(map(len, part)), sum(len(encode(raw, PLAIN)[1]) for raw in part))
            for part in (MESSAGES[:100], MESSAGES[100:200])
        ]
