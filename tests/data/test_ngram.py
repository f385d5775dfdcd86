import math

import numpy as np
import pytest

from effllm.data import ngram_bits_per_byte


def naive(train, held_out, order):
    """The docstring's formula, one byte at a time."""
    def probability(context, byte):
        if context is None:
            return 1 / 256
        shorter = probability(context[1:] if context else None, byte)
        followers = [train[i + len(context)] for i in range(len(train) - len(context)) if train[i:i + len(context)] == context]
        if not followers:
            return shorter
        kinds = len(set(followers))
        return (followers.count(byte) + kinds * shorter) / (len(followers) + kinds)

    bits = [-math.log2(probability(held_out[max(0, i - order + 1):i], byte)) for i, byte in enumerate(held_out)]
    return sum(bits) / len(bits)


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_equals_the_formula(order):
    train, held_out = b"the cat sat on the mat; that cat!", b"\xffthe hat sat\x00 the rat"
    assert ngram_bits_per_byte(train, held_out, order) == pytest.approx(naive(train, held_out, order), abs=1e-12)


def test_finds_the_entropy_of_a_markov_chain():
    generator = np.random.default_rng(0)
    steps = (generator.random(200_000) < 0.11).cumsum() % 2
    text = bytes(steps.astype(np.uint8) + 65)
    entropy = -(0.11 * math.log2(0.11) + 0.89 * math.log2(0.89))
    assert ngram_bits_per_byte(text[:100_000], text[100_000:], 2) == pytest.approx(entropy, abs=0.02)
    assert ngram_bits_per_byte(text[:100_000], text[100_000:], 1) == pytest.approx(1, abs=0.02)


def test_refusals():
    for arguments in ((b"a", b"a", 0), (b"a", b"a", 8), (b"", b"a", 2), (b"a", b"", 2)):
        with pytest.raises(ValueError):
            ngram_bits_per_byte(*arguments)


def test_text_shorter_than_the_order():
    assert 0 < ngram_bits_per_byte(b"a", b"ab", 3) < 9
