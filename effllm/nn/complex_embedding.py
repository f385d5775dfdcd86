"""Complex-valued word embeddings."""

import jax.numpy as jnp
from flax import linen as nn

from effllm import ops
from effllm.nn.init import Fill
from effllm.nn.input_position import InputPosition
from effllm.nn.linear import parameter


class ComplexEmbedding(InputPosition):
    """r·e^{i(ω·position + θ)}: a word's embedding is D/2 complex numbers, which turn with the position (Wang et al. 2019, arXiv 1912.12333).

    Channels d and d + D/2 are the real and imaginary part of r_d·e^{iθ_d}; they turn by position·ω_d, with a learned ω_d that all words share (the
    paper's word-sharing scheme), from base^(−2d/D) on. The layers above are real and read both parts; the paper's are complex. Angles
    in float32. Raises ValueError for an odd width.
    """

    base: float = 10000.0

    @nn.compact
    def __call__(self, x_btd, *, tokens_bt, positions_bt, segment_ids):
        width = x_btd.shape[-1]
        if width % 2:
            raise ValueError(f"ComplexEmbedding pairs channels: width={width} is odd")
        start_f = jnp.asarray(ops.frequencies(width, self.base), jnp.float32)
        # Learned as a factor of the start, so that slow and fast frequencies move alike.
        frequencies_f = start_f * parameter(self, "frequency", Fill(1.0), start_f.shape, (None,))
        return ops.rotary(x_btd[:, :, None], positions_bt, frequencies_f)[:, :, 0]
