"""Attention to the blocks that a sorting hash makes, and a sample of the rest."""

from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from effllm import ops
from effllm.nn.heads import head_dim, merge_heads, nan_where, split_heads
from effllm.nn.mixer import Mixer


class HyperAttention(Mixer):
    """Queries and keys, each sorted by a hash, meet in blocks; sampled keys stand for the rest (Han et al. 2023, arXiv 2310.05869; see ops.hyper_attention).

    The hash is the place of `bits` random signs in a Gray code; the `seed` fixes them. Where blocks end depends on the whole document, so that it sees
    both sides (the paper's causal form divides the text by halves). A document of up to `block` tokens gets exact attention, samples=0 leaves the sample
    out. A row holds at most `documents` documents; later ones give NaN. O(T·(block + samples)·D + T log T) time, O(T) memory.
    """

    heads: int = 4
    block: int = 64
    samples: int = 64
    bits: int = 7
    seed: int = 0
    documents: int = 8
    causal: ClassVar[bool] = False
    variants: ClassVar = ({"block": 3, "samples": 2},)

    def flops(self, length, width):
        return 4.0 * (min(self.block, length) + self.samples) * width + 4.0 * self.bits * width

    @nn.compact
    def __call__(self, x_btd, *, positions, segment_ids, state=None):
        dim = head_dim(self, x_btd.shape[-1])
        if min(self.block, self.bits) < 1 or self.samples < 0:
            raise ValueError(f"HyperAttention: block={self.block} and bits={self.bits} must be at least 1, samples={self.samples} at least 0")
        if self.bits + self.documents.bit_length() > 31:
            raise ValueError(f"HyperAttention: bits={self.bits} give more buckets for each of documents={self.documents} than 32 bits can number; give fewer of either")
        q_bthk, k_bthk, v_bthk = (split_heads(x_btd, self.heads, dim, name) for name in ("q", "k", "v"))
        found = ops.documents(segment_ids, x_btd.shape[:2], self.documents)
        wide = jnp.promote_types(x_btd.dtype, jnp.float32)
        direction_hkf = jax.random.normal(jax.random.key(self.seed), (self.heads, dim, self.bits), wide)
        o_bthk = ops.hyper_attention(q_bthk, k_bthk, v_bthk, direction_hkf, found, block=self.block, samples=self.samples)
        return nan_where(found.lost_bt, merge_heads(o_bthk, x_btd.shape[-1])), None
