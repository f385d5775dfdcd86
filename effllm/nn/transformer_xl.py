"""Transformer-XL's relative positions."""

import jax.numpy as jnp
from flax import linen as nn

from effllm import ops
from effllm.nn.init import Initializer, Normal
from effllm.nn.linear import Linear, parameter
from effllm.nn.position import Position
from effllm.shard import fits


class TransformerXL(Position):
    """(q·k + q·r_{i−j} + u·k + v·r_{i−j})/√K with r_Δ = W·[sin Δω, cos Δω] and learned u, v (Dai et al. 2019, arXiv 1901.02860).

    Exact and O(T), without a bias: (q + v)·r_{i−j} is a product of C more query channels with the key channels [sin jω, cos jω]
    (ops.relative_query). C is `channels`, head_dim where None; keys in the cache are wider by C. The paper's sinusoids have the model's width.
    In bfloat16 the sinusoids are rounded to 8 bits. Raises ValueError for channels that do not pair.
    """

    channels: int | None = None
    base: float = 10000.0
    vector_init: Initializer = Normal(0.02)

    def sinusoids(self, head_dim: int) -> int:
        """C, the channels that are added."""
        channels = head_dim if self.channels is None else self.channels
        if channels < 2 or channels % 2:
            raise ValueError(f"TransformerXL: channels={channels} must be an even number, sines and cosines come in pairs")
        return channels

    def key_dim(self, head_dim):
        return head_dim + self.sinusoids(head_dim)

    @nn.compact
    def rotate(self, q_bthk, k_btgk, positions_bt):
        heads, head_dim = q_bthk.shape[2:]
        channels, axis = self.sinusoids(head_dim), fits("heads", heads)
        u_hk, v_hk = (parameter(self, name, self.vector_init, (heads, head_dim), (axis, None)).astype(q_bthk.dtype) for name in ("u", "v"))
        # Read through Linear, so that whatever the weight is made of, it gives W.
        w_chk = Linear(heads * head_dim, (None, axis), name="r")(jnp.eye(channels, dtype=q_bthk.dtype)).reshape(channels, heads, head_dim)
        a_bthc = jnp.einsum("bthk,chk->bthc", q_bthk + v_hk, w_chk, preferred_element_type=jnp.promote_types(q_bthk.dtype, jnp.float32))
        more_bthc = ops.relative_query(a_bthc, positions_bt, self.base).astype(q_bthk.dtype)
        waves_btgc = jnp.broadcast_to(ops.sinusoid(positions_bt, channels, self.base)[:, :, None], (*k_btgk.shape[:3], channels))
        return jnp.concatenate([q_bthk + u_hk, more_bthc], -1), jnp.concatenate([k_btgk, waves_btgc.astype(k_btgk.dtype)], -1)
