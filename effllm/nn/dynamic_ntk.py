"""Rotary positions whose base grows with the text."""

from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from effllm import ops
from effllm.nn.position import Position
from effllm.nn.rope_scaling import NTKAware


def dynamic_ntk(factor: float, trained_length: int, length: int) -> NTKAware:
    """What dynamic NTK does to a whole text of `length` tokens (Peng et al. 2023, arXiv 2309.00071, §3.3): NTKAware by factor·length/trained_length − (factor − 1).

    For a length known beforehand; up to trained_length it is plain RoPE.
    """
    return NTKAware(max(1.0, factor * length / trained_length - (factor - 1)))


class DynamicNTK(Position):
    """RoPE whose base grows with the text, so that each token is compared with all before it under one base, the one of its own position.

    Dynamic NTK (arXiv 2309.00071, §3.3) takes the base from the length of the call; cached keys then keep the base of an earlier length,
    and a text decoded token by token differs from the same text at once. Here the length is that of the query's own prefix, rounded up to
    trained_length·2^s with s = 0 … `stages`: keys are kept turned by each stage's frequencies and a query is compared with those of its
    stage alone. Exact under any splitting; keys and products cost stages + 1 times as much. Beyond the last stage its base stays.
    Raises ValueError for an odd head_dim, one below 4, and for fields that are not positive.
    """

    base: float = 10000.0
    factor: float = 1.0
    trained_length: int = 2048
    stages: int = 2
    variants: ClassVar = ({"trained_length": 4},)

    def key_dim(self, head_dim):
        return head_dim * (self.stages + 1)

    def rotate(self, q_bthk, k_btgk, positions_bt):
        head_dim = q_bthk.shape[-1]
        if head_dim % 2 or min(self.factor, self.trained_length, self.stages) <= 0:
            raise ValueError(
                f"DynamicNTK: head_dim={head_dim} must be even; factor={self.factor}, trained_length={self.trained_length} and stages={self.stages} positive"
            )
        lengths = [self.trained_length * 2**s for s in range(self.stages + 1)]
        frequencies = [dynamic_ntk(self.factor, self.trained_length, n).frequencies(self.base, head_dim) for n in lengths]

        def turned(x_bthk):
            """(B, T, H, stages + 1, K)."""
            x_sbthk = jax.vmap(lambda f: ops.rotary(x_bthk, positions_bt, f))(jnp.asarray(np.stack(frequencies), jnp.float32))
            return jnp.moveaxis(x_sbthk, 0, 3)

        stage_bt = jnp.sum(positions_bt[..., None] >= jnp.array(lengths[:-1]), axis=-1)
        own_bt1s1 = jax.nn.one_hot(stage_bt, self.stages + 1, dtype=q_bthk.dtype)[:, :, None, :, None]
        q_bthsk, k_btgsk = turned(q_bthk) * own_bt1s1, turned(k_btgk)
        return q_bthsk.reshape(*q_bthk.shape[:3], -1), k_btgsk.reshape(*k_btgk.shape[:3], -1)
