"""Positional encodings."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from effllm import ops
from effllm.nn.rope_scaling import RoPEScaling


class Position(nn.Module):
    """Base of all positional encodings; this one encodes nothing (NoPE, Kazemnejad et al. 2023, arXiv 2305.19466).

    `one_sided` says that it has no meaning for keys that come later: attention that sees both sides refuses it. `of_queries` says that its
    bias has terms of queries, which it scales by K^(-1/2) itself: attention with a scale of its own refuses it. `variants` lists further
    constructor arguments that the laws try.
    """

    one_sided: ClassVar[bool] = False
    of_queries: ClassVar[bool] = False
    variants: ClassVar[tuple[dict[str, Any], ...]] = ()

    def rotate(self, q_bthk: jax.Array, k_btgk: jax.Array, positions_bt: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Queries and keys as attention should compare them."""
        return q_bthk, k_btgk

    def bias(self, heads: int, head_dim: int) -> ops.Bias | None:
        """What attention adds to its scores as a function of both positions; None where nothing."""
        return None

    def key_dim(self, head_dim: int) -> int:
        """Channels of a key as `rotate` returns it."""
        return head_dim


class RoPE(Position):
    """Rotary positions: pair i of head_dim K turns by position · base^(−2i/K) (Su et al. 2021, arXiv 2104.09864).

    `fraction` of the channels turn; the rest carry no position. Pair i is channels (i, i + F), or (2i, 2i + 1) where `interleaved`, as in
    GPT-J. `scaling` stretches the frequencies beyond the trained context. Raises ValueError where the channels do not pair and for a fraction outside [0, 1].
    """

    base: float = 10000.0
    fraction: float = 1.0
    interleaved: bool = False
    scaling: RoPEScaling = RoPEScaling()

    def rotate(self, q_bthk, k_btgk, positions_bt):
        if not 0 <= self.fraction <= 1:
            raise ValueError(f"RoPE: fraction={self.fraction} of a head's channels cannot turn; give one from 0 to 1")
        turning = int(round(q_bthk.shape[-1] * self.fraction, 6))  # K·(r/K) may lie just below r
        if turning % 2:
            raise ValueError(f"RoPE turns pairs of channels: head_dim={q_bthk.shape[-1]} × fraction={self.fraction} gives {turning}, an odd number")
        frequencies_f = jnp.asarray(self.scaling.frequencies(self.base, turning), jnp.float32)
        options = {"interleaved": self.interleaved, "factor": self.scaling.attention_factor}
        return ops.rotary(q_bthk, positions_bt, frequencies_f, **options), ops.rotary(k_btgk, positions_bt, frequencies_f, **options)
