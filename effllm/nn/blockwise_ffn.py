"""A feed-forward layer over one block of time after another."""

import jax
from flax import linen as nn

from effllm.nn.ffn import FFN, SwiGLU


class BlockwiseFFN(FFN):
    """y = ffn(x), `block` tokens of each row at a time and recomputed in the backward pass (blockwise parallel transformer, Liu & Abbeel 2023,
    arXiv 2305.19370).

    Attention here walks over blocks and keeps O(T·D) already; with this the hidden activations, O(T·hidden), never exist whole either:
    memory is that of `block` tokens, time that of one more forward pass. The last block may be shorter; parameters are the inner ffn's, under `ffn`.
    """

    ffn: FFN = SwiGLU()
    block: int = 512

    @nn.compact
    def __call__(self, x_btd: jax.Array) -> jax.Array:
        if self.block < 1:
            raise ValueError(f"BlockwiseFFN: block={self.block} must be at least 1")
        length = x_btd.shape[1]
        whole = length // self.block * self.block
        one = nn.remat(lambda module, x: module(x), prevent_cse=False)

        def step(module, _, x_bsd):
            return None, one(module, x_bsd)

        scan = nn.scan(step, variable_broadcast="params", split_rngs={"params": False, "dropout": True}, in_axes=1, out_axes=1)
        parts = []
        if whole:
            x_bnsd = x_btd[:, :whole].reshape(x_btd.shape[0], -1, self.block, x_btd.shape[-1])
            parts.append(scan(self.ffn, None, x_bnsd)[1].reshape(x_btd.shape[0], whole, -1))
        if whole < length:
            parts.append(one(self.ffn, x_btd[:, whole:]))
        return jax.numpy.concatenate(parts, axis=1)
