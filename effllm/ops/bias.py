"""What attention adds to its scores, as a function of positions and, where it wants them, of queries and keys."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct


class Bias(struct.PyTreeNode):
    """b(h, i, j), added to q kᵀ · scale before the soft cap and the softmax, evaluated block by block: it never exists whole.

    function(params, q_bthk, k_bsgk, i_bt, j_bs) -> (B or 1, H or 1, T, S) gives it for some queries at positions i and some keys at
    positions j; it is hashable (a module-level function or a frozen dataclass with `__call__`). Gradients reach `params`, q and k.
    """

    params: Any
    function: Callable[[Any, jax.Array, jax.Array, jax.Array, jax.Array], jax.Array] = struct.field(pytree_node=False)


class HeadBias:
    """A function of a Bias that takes positions and one fixed number a head, nothing else: simple enough for a kernel to evaluate on its tiles."""

    @property
    def numbers(self) -> tuple[float, ...]:
        """(H,) of each head."""
        raise TypeError(f"{type(self).__name__} does not say its numbers")

    def of_head(self, number, i, j):
        """b of queries at positions i and keys at positions j, arrays that broadcast against each other and against the number."""
        raise TypeError(f"{type(self).__name__} does not say what it adds")

    def __call__(self, params, q_bthk, k_bsgk, i_bt, j_bs):
        return self.of_head(jnp.asarray(self.numbers, jnp.float32)[:, None, None], i_bt[:, None, :, None], j_bs[:, None, None])
