"""Which positions see each other: fixed sparse patterns of attention, by which whole blocks are skipped.

A pattern is a frozen dataclass of two functions over positions that broadcast against each other, NumPy or JAX: `sees(i, j)` is its definition,
and `may_see` says of ranges of positions whether anything in them might see anything; it may say yes too often, never no wrongly.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from effllm.ops.where import Where

Attend = Callable[..., tuple[jax.Array, jax.Array]]


@dataclass(frozen=True)
class Pattern:
    """Base of all patterns: every position sees every other. Causality is not a pattern's affair: attention adds it."""

    def sees(self, i, j):
        """Whether a query at position i sees a key at position j."""
        return i - j == i - j

    def may_see(self, i_least, i_most, j_least, j_most):
        """Whether a query in [i_least, i_most] might see a key in [j_least, j_most]."""
        return i_least <= i_least

    @property
    def state(self) -> tuple[int, int] | None:
        """(first, last): decoding needs the document's first tokens and the last ones only; None where it needs all."""
        return None

    def keys_seen(self, length: int) -> float:
        """Keys that a causal query sees on average in a text of this length."""
        return length / 2

    def attend(self, attend: Attend, q_bthk: jax.Array, k_bsgk: jax.Array, v_bsgv: jax.Array, where: Where) -> tuple[jax.Array, jax.Array]:
        """(attention, logsumexp) of a whole text in order, by attend(q, k, v, where, pattern): a pattern that scatters its keys gathers them here."""
        return attend(q_bthk, k_bsgk, v_bsgv, where, self)

    def positive(self, **numbers: int) -> None:
        """Raise ValueError naming a number below 1."""
        for name, number in numbers.items():
            if number < 1:
                raise ValueError(f"{type(self).__name__}: {name}={number} must be at least 1")


def overlap(a_least, a_most, b_least, b_most):
    """Whether two ranges of numbers have one in common."""
    return (a_least <= b_most) & (b_least <= a_most)


def near(window: int, i_least, i_most, j_least, j_most):
    """Whether anything in two ranges lies less than `window` apart."""
    return (i_least - j_most < window) & (j_least - i_most < window)


@dataclass(frozen=True)
class BlockLocal(Pattern):
    """i sees j in the same block of `size` positions (Qiu et al. 2019, arXiv 1911.02972). O(T·size)."""

    size: int = 256

    def __post_init__(self):
        self.positive(size=self.size)

    def sees(self, i, j):
        return i // self.size == j // self.size

    def may_see(self, i_least, i_most, j_least, j_most):
        return overlap(i_least // self.size, i_most // self.size, j_least // self.size, j_most // self.size)

    @property
    def state(self):
        return 0, self.size

    def keys_seen(self, length):
        return min(self.size, length) / 2


@dataclass(frozen=True)
class StreamingLLM(Pattern):
    """i sees the `window` positions up to itself and the document's `first` ones, the attention sinks (Xiao et al. 2023, arXiv 2309.17453).

    Positions are those of the text; the paper counts them within its cache. O(T·(window + first)); state of window + first tokens.
    """

    window: int = 256
    first: int = 4

    def __post_init__(self):
        self.positive(window=self.window, first=self.first)

    def sees(self, i, j):
        return (abs(i - j) < self.window) | (j < self.first)

    def may_see(self, i_least, i_most, j_least, j_most):
        return near(self.window, i_least, i_most, j_least, j_most) | (j_least < self.first)

    @property
    def state(self):
        return self.first, self.window

    def keys_seen(self, length):
        return min(length / 2, self.window + self.first)


@dataclass(frozen=True)
class Longformer(Pattern):
    """i sees the positions less than `window` away; the `global_positions` of a document see all and all see them (Beltagy et al. 2020, arXiv 2004.05150).

    In a decoder a global token sees its past only, as all do. O(T·(window + globals)); its state keeps the tokens up to the last global one.
    """

    window: int = 256
    global_positions: tuple[int, ...] = (0,)

    def __post_init__(self):
        self.positive(window=self.window)
        if any(p < 0 for p in self.global_positions):
            raise ValueError(f"Longformer: global_positions={self.global_positions} holds a position outside the text; they count from 0")

    def is_global(self, i):
        return sum((i == p for p in self.global_positions), i != i)

    def sees(self, i, j):
        return (abs(i - j) < self.window) | self.is_global(i) | self.is_global(j)

    def may_see(self, i_least, i_most, j_least, j_most):
        may = near(self.window, i_least, i_most, j_least, j_most)
        for p in self.global_positions:
            may = may | overlap(i_least, i_most, p, p) | overlap(j_least, j_most, p, p)
        return may

    @property
    def state(self):
        return max(self.global_positions, default=-1) + 1, self.window

    def keys_seen(self, length):
        if any(p >= length for p in self.global_positions):
            raise ValueError(f"Longformer: global_positions={self.global_positions} lies outside a text of {length} tokens")
        return min(length / 2, self.window + len(self.global_positions))


@dataclass(frozen=True)
class BigBird(Pattern):
    """By blocks of `size` positions: the block itself and its `neighbours` on both sides, the document's first `global_blocks` (which also see
    all), and `random_blocks` before it drawn by a hash of the block and the `seed` (Zaheer et al. 2020, arXiv 2007.14062).

    Random blocks lie before the query's in encoders too, where the paper draws them on both sides. O(T·size·(2·neighbours + 1 + globals + randoms)).
    """

    size: int = 64
    neighbours: int = 1
    global_blocks: int = 1
    random_blocks: int = 3
    seed: int = 0

    def __post_init__(self):
        self.positive(size=self.size)
        for name in ("neighbours", "global_blocks", "random_blocks"):
            if getattr(self, name) < 0:
                raise ValueError(f"BigBird: {name}={getattr(self, name)} must be at least 0, where there are none")

    def random_block(self, block, number: int):
        """The random block `number` of a block: one of those before it, itself where there is none. In 32 bits that wrap, whoever asks."""
        block = block.astype(np.int32)
        x = (block + 1) * 40503 + number * 9973 + self.seed * 7919
        for factor in (8121, 28411, 16807):
            x = (x * factor + 54773) % 134456
        return x % (block + (block == 0))

    def sees(self, i, j):
        a, b = i // self.size, j // self.size
        sees = (abs(a - b) <= self.neighbours) | (a < self.global_blocks) | (b < self.global_blocks)
        for number in range(self.random_blocks):
            sees = sees | (b == self.random_block(a, number))
        return sees

    def may_see(self, i_least, i_most, j_least, j_most):
        a_least, a_most, b_least, b_most = (x // self.size for x in (i_least, i_most, j_least, j_most))
        most_blocks = 128 // self.size + 2  # of a run of 128 queries; a range beyond that holds several documents
        may = near(self.neighbours + 1, a_least, a_most, b_least, b_most) | (a_least < self.global_blocks) | (b_least < self.global_blocks)
        may = may | (a_most - a_least >= most_blocks)
        block = a_least[..., None] + np.arange(most_blocks)
        within = (a_least[..., None] <= block) & (block <= a_most[..., None])
        for number in range(self.random_blocks):
            random = self.random_block(block * (block >= 0), number)
            may = may | (within & overlap(random, random, b_least[..., None], b_most[..., None])).any(-1)
        return may

    def keys_seen(self, length):
        return min(length / 2, self.size * (self.neighbours + 0.5 + self.global_blocks + self.random_blocks))


@dataclass(frozen=True)
class Strided(Pattern):
    """i sees every `stride`-th position from itself: the strided head of the Sparse Transformer (Child et al. 2019, arXiv 1904.10509), which the paper
    interleaves with a window of `stride` layer by layer or head by head. O(T²/stride), by gathering positions of one residue.
    """

    stride: int = 16

    def __post_init__(self):
        self.positive(stride=self.stride)

    def sees(self, i, j):
        return (i - j) % self.stride == 0

    def keys_seen(self, length):
        return max(1.0, length / 2 / self.stride)

    def attend(self, attend, q_bthk, k_bsgk, v_bsgv, where):
        return by_residue(self.stride, self, attend, q_bthk, k_bsgk, v_bsgv, where)


@dataclass(frozen=True)
class Dilated(Pattern):
    """Within segments of `segment` positions, i sees every `rate`-th from itself: one (w, r) of LongNet (Ding et al. 2023, arXiv 2307.02486).

    Every query looks along its own residue, where LongNet gives each head one residue and leaves the other queries out; its mixture of growing (w, r)
    is a pattern of blocks in the model. O(T·segment/rate), by gathering positions of one residue.
    """

    segment: int = 1024
    rate: int = 4

    def __post_init__(self):
        self.positive(segment=self.segment, rate=self.rate)

    def sees(self, i, j):
        return (i // self.segment == j // self.segment) & ((i - j) % self.rate == 0)

    def may_see(self, i_least, i_most, j_least, j_most):
        return overlap(i_least // self.segment, i_most // self.segment, j_least // self.segment, j_most // self.segment)

    @property
    def state(self):
        return 0, self.segment

    def keys_seen(self, length):
        return max(1.0, min(self.segment, length) / 2 / self.rate)

    def attend(self, attend, q_bthk, k_bsgk, v_bsgv, where):
        return by_residue(self.rate, self, attend, q_bthk, k_bsgk, v_bsgv, where)


@dataclass(frozen=True)
class Summaries(Pattern):
    """i sees the last `summary` positions of every block of `size` but its own: the second half of `Fixed`."""

    size: int = 128
    summary: int = 8

    def sees(self, i, j):
        return (j % self.size >= self.size - self.summary) & (i // self.size != j // self.size)

    def keys_seen(self, length):
        return length / 2 * self.summary / self.size

    def attend(self, attend, q_bthk, k_bsgk, v_bsgv, where):
        (b, t), s = q_bthk.shape[:2], k_bsgk.shape[1]
        where = where.filled(t, s)
        q_segments_bt, k_segments_bs = where.q_segments_bt, where.k_segments_bs
        if k_segments_bs is None:
            q_segments_bt, k_segments_bs = np.ones((1, t), np.int32), np.ones((1, s), np.int32)
        is_summary_bs = jnp.asarray(where.k_positions_bs) % self.size >= self.size - self.summary
        summaries_bs = jnp.broadcast_to(jnp.where(is_summary_bs, k_segments_bs, 0), (b, s))
        first_bs = jnp.argsort(summaries_bs == 0, axis=1, stable=True)

        def sort(x_bs):
            return jnp.take_along_axis(jnp.broadcast_to(x_bs, (b, s)), first_bs, axis=1)

        sorted_where = where._replace(
            k_order_bs=sort(where.k_order_bs), k_positions_bs=sort(where.k_positions_bs), q_segments_bt=q_segments_bt, k_segments_bs=sort(summaries_bs)
        )
        k_bsgk, v_bsgv = (jnp.take_along_axis(x, first_bs[:, :, None, None], axis=1) for x in (k_bsgk, v_bsgv))
        return attend(q_bthk, k_bsgk, v_bsgv, sorted_where, self)


@dataclass(frozen=True)
class Fixed(Pattern):
    """i sees its own block of `size` positions and the last `summary` positions of every other: the fixed pattern of the Sparse Transformer
    (Child et al. 2019, arXiv 1904.10509), both halves in one softmax. O(T·(size + T·summary/size)).
    """

    size: int = 128
    summary: int = 8

    def __post_init__(self):
        self.positive(size=self.size, summary=self.summary)
        if self.summary > self.size:
            raise ValueError(f"Fixed: summary={self.summary} exceeds its block of size={self.size}")

    @property
    def halves(self) -> tuple[BlockLocal, Summaries]:
        return BlockLocal(self.size), Summaries(self.size, self.summary)

    def sees(self, i, j):
        local, summaries = self.halves
        return local.sees(i, j) | summaries.sees(i, j)

    def keys_seen(self, length):
        return sum(half.keys_seen(length) for half in self.halves)

    def attend(self, attend, q_bthk, k_bsgk, v_bsgv, where):
        return join([half.attend(attend, q_bthk, k_bsgk, v_bsgv, where) for half in self.halves])


def by_residue(rate: int, pattern: Pattern, attend: Attend, q_bthk, k_bsgk, v_bsgv, where: Where):
    """Attention among positions of one residue mod `rate`, each residue's tokens brought together, so that blocks of others are skipped."""
    b, t = q_bthk.shape[:2]
    where = where.filled(t, t)

    def by_order(x, order_bt):
        return jnp.take_along_axis(x, order_bt.reshape(b, t, *[1] * (x.ndim - 2)), axis=1)

    def side(tokens_bt, segments_bt, positions_bt):
        """(the tokens' order by residue, their numbers, segments and positions in it)."""
        residue_bt = jnp.broadcast_to(jnp.asarray(positions_bt) % rate, (b, t))
        order_bt = jnp.argsort(residue_bt, axis=1, stable=True)
        apart_bt = rate + residue_bt if segments_bt is None else jnp.where(segments_bt > 0, segments_bt * rate + residue_bt, 0)
        return order_bt, *(by_order(jnp.broadcast_to(x, (b, t)), order_bt) for x in (tokens_bt, apart_bt, positions_bt))

    (q_by_bt, *q_side), (k_by_bt, *k_side) = side(*where[::2]), side(*where[1::2])
    sorted_where = Where(*(x for both in zip(q_side, k_side) for x in both))
    out = attend(by_order(q_bthk, q_by_bt), by_order(k_bsgk, k_by_bt), by_order(v_bsgv, k_by_bt), sorted_where, pattern)
    back_bt = jnp.argsort(q_by_bt, axis=1)
    return tuple(by_order(x, back_bt) for x in out)


def join(parts: list[tuple[jax.Array, jax.Array]]) -> tuple[jax.Array, jax.Array]:
    """(o, logsumexp) of attention over disjoint sets of keys, from (o (B, T, H, V), logsumexp (B, T, H)) over each of them."""
    lse_pbth = jnp.stack([lse for _, lse in parts])
    top_bth = jax.lax.stop_gradient(lse_pbth.max(0))
    share_pbth = jnp.exp(lse_pbth - top_bth)
    total_bth = share_pbth.sum(0)
    out_bthv = sum((w[..., None] * o).astype(o.dtype) for w, (o, _) in zip(share_pbth / total_bth, parts, strict=True))
    return out_bthv, top_bth + jnp.log(total_bth)
