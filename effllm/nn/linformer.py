"""Attention over keys and values compressed along time."""

from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from effllm import ops
from effllm.nn.heads import head_dim, merge_heads, nan_where, split_heads
from effllm.nn.init import Initializer, Normal
from effllm.nn.linear import parameter
from effllm.nn.mixer import Mixer


class Linformer(Mixer):
    """o = softmax(q (E k)ᵀ/√K) F v with learned E, F (rank, length), shared by the heads (Wang et al. 2020, arXiv 2006.04768). Sees both sides.

    Column p of E belongs to position p of a document, so a text has at most `length` tokens; each document is compressed by itself. A row holds
    at most `documents` of them; tokens of later ones and positions from `length` on give NaN. O(T·rank·D) time and memory without packing,
    `documents` times that with it. rank = length and E = F = 1 is exact attention. Raises ValueError for a longer text.
    """

    heads: int = 4
    rank: int = 64
    length: int = 2048
    bias: bool = False
    documents: int = 8
    table_init: Initializer = Normal(0.02)
    causal: ClassVar[bool] = False
    variants: ClassVar = ({"rank": 5, "bias": True},)

    def flops(self, length, width):
        return 4.0 * self.rank * width * 2  # E k and F v, then QKᵀ and PV

    @nn.compact
    def __call__(self, x_btd, *, positions, segment_ids, state=None):
        (batch, length, width), dim = x_btd.shape, head_dim(self, x_btd.shape[-1])
        if min(self.rank, self.length) < 1:
            raise ValueError(f"Linformer: rank={self.rank} and length={self.length} must be at least 1")
        if length > self.length:
            raise ValueError(f"Linformer: {length} tokens are more than length={self.length}; raise it or shorten the text")
        q_bthk, k_bthk, v_bthk = (split_heads(x_btd, self.heads, dim, name, self.bias) for name in ("q", "k", "v"))
        found = ops.documents(segment_ids, (batch, length), self.documents)

        def compress(name, x_bthk):
            table_lr = parameter(self, name, self.table_init, (self.length, self.rank), (None, None))
            rows_btr = jnp.take(table_lr, positions, axis=0).astype(x_bthk.dtype)

            @jax.checkpoint
            def document(n):
                mine_btr = jnp.where((found.index_bt == n)[..., None], rows_btr, 0)
                return jnp.einsum("btr,bthk->brhk", mine_btr, x_bthk, preferred_element_type=jnp.promote_types(x_bthk.dtype, jnp.float32))

            parts_nbrhk = document(0)[None] if found.count == 1 else jax.lax.map(document, jnp.arange(found.count))
            return jnp.moveaxis(parts_nbrhk, 0, 1).reshape(batch, -1, *x_bthk.shape[2:]).astype(x_bthk.dtype)

        tokens_bt, slots_bs = (None, None) if segment_ids is None else (found.segments_bt, found.slots(self.rank))
        o_bthk = ops.attention(
            q_bthk, compress("k_compression", k_bthk), compress("v_compression", v_bthk), causal=False, q_segments_bt=tokens_bt, k_segments_bs=slots_bs
        )
        return nan_where(found.lost_bt, merge_heads(o_bthk, width, self.bias)), None
