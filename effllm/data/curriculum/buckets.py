"""Dataset decomposition: buckets of equally long sequences, each of one document, and batches of equally many tokens.

Letters: n sequence, t token.
"""

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np


def decompose(length: int, longest: int, shortest: int = 1) -> list[int]:
    """Powers of two that add up to `length`, longest first, none above `longest`; what is below `shortest` is dropped (arXiv 2405.13226, §2.1).

    Raises ValueError unless both bounds are powers of two in order.
    """
    for bound in (longest, shortest):
        if bound < 1 or bound & (bound - 1):
            raise ValueError(f"longest={longest}, shortest={shortest}: give powers of two")
    if shortest > longest:
        raise ValueError(f"longest={longest} lies below shortest={shortest}")
    whole, rest = divmod(length, longest)
    powers = [1 << bit for bit in range(longest.bit_length() - 2, shortest.bit_length() - 2, -1) if rest & (1 << bit)]
    return [longest] * whole + powers


def bucketed(documents: Iterable[np.ndarray], longest: int, shortest: int = 16) -> dict[int, np.ndarray]:
    """{length: token_nt (N, length) int32}: every document cut by decompose(); no sequence holds two documents, none is padded."""
    parts: dict[int, list[np.ndarray]] = {}
    for document in documents:
        at = 0
        for length in decompose(len(document), longest, shortest):
            parts.setdefault(length, []).append(document[at : at + length])
            at += length
    return {length: np.stack(parts[length]).astype(np.int32) for length in sorted(parts)}


@dataclass(frozen=True)
class BucketOrder:
    """Which bucket and which of its sequences a step reads: a pure function of (seed, step). Every batch has `tokens` tokens, from one bucket.

    size_of: {length: sequences}. One cycle reads every bucket's whole batches once, in an order drawn with the odds of `curriculum` among
    the buckets that still have some: "uniform" by what they hold; "grow" and "shrink" shift the odds, over the cycle, from the shortest to
    the longest or back (the paper's grow-shrink curricula; Grow-P2 has odds ∝ powers of 2). A step compiles once for each bucket. Memory: 8
    bytes a sequence, for the cycle's order. Raises ValueError where no bucket fills a batch.
    """

    size_of: dict[int, int]
    tokens: int
    seed: int = 0
    curriculum: Literal["uniform", "grow", "shrink"] = "uniform"

    def __post_init__(self):
        if any(length > self.tokens or self.tokens % length for length in self.size_of):
            raise ValueError(f"tokens={self.tokens}: every length ({', '.join(map(str, self.size_of))}) must divide the tokens of a batch")
        if self.curriculum not in ("uniform", "grow", "shrink"):
            raise ValueError(f"curriculum={self.curriculum!r}: uniform, grow or shrink")
        if not self.cycle:
            raise ValueError(f"no bucket holds {self.tokens} tokens: lower tokens, or add text")

    @property
    def cycle(self) -> int:
        """Steps until every whole batch has been read."""
        return sum(self._batches(length) for length in self.size_of)

    def __call__(self, step: int) -> tuple[int, np.ndarray]:
        """(length, index_n) of the step: tokens/length different sequences of that bucket."""
        number, place = divmod(step, self.cycle)
        lengths, which = self._order(number)
        length, batch = lengths[place], which[place]
        shuffled = _shuffled((self.seed, number, length), self.size_of[length])
        rows = self.tokens // length
        return length, shuffled[batch * rows : (batch + 1) * rows]

    def _batches(self, length: int) -> int:
        return self.size_of[length] * length // self.tokens

    def _order(self, number: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        left = tuple((length, self._batches(length)) for length in sorted(self.size_of))
        return _cycle(left, {"uniform": 0.0, "grow": 1.0, "shrink": -1.0}[self.curriculum], (self.seed, number))


@functools.lru_cache(maxsize=16)
def _shuffled(seed: tuple[int, int, int], count: int) -> np.ndarray:
    """The sequences of a bucket in the order of a cycle; kept, because every step of the cycle reads some of them."""
    return np.random.default_rng(seed).permutation(count)


@functools.lru_cache(maxsize=4)
def _cycle(batches: tuple[tuple[int, int], ...], lean: float, seed: tuple[int, int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(length, which of its batches) of every step of a cycle."""
    random = np.random.default_rng(seed)
    lengths, left_k = np.array(batches).T
    rank_k, done_k, order, which = np.linspace(1, -1, len(lengths)), np.zeros(len(lengths), int), [], []
    total = int(left_k.sum())
    for place in range(total):
        odds_k = (left_k - done_k) * 2.0 ** (4 * lean * (1 - 2 * place / max(total - 1, 1)) * rank_k)
        pick = int(random.choice(len(lengths), p=odds_k / odds_k.sum()))
        order.append(int(lengths[pick]))
        which.append(int(done_k[pick]))
        done_k[pick] += 1
    return tuple(order), tuple(which)
