"""What attention adds to its scores, as a function of positions and, where it wants them, of queries and keys."""

from collections.abc import Callable
from typing import Any

import jax
from flax import struct


class Bias(struct.PyTreeNode):
    """b(h, i, j), added to q kᵀ · scale before the soft cap and the softmax, evaluated block by block: it never exists whole.

    function(params, q_bthk, k_bsgk, i_bt, j_bs) -> (B or 1, H or 1, T, S) gives it for some queries at positions i and some keys at
    positions j; it is hashable (a module-level function or a frozen dataclass with `__call__`). Gradients reach `params`, q and k.
    """

    params: Any
    function: Callable[[Any, jax.Array, jax.Array, jax.Array, jax.Array], jax.Array] = struct.field(pytree_node=False)
