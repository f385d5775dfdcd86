"""Where the queries and the keys of an attention stand: order, documents, positions."""

from typing import NamedTuple

import jax
import numpy as np


class Where(NamedTuple):
    """Arrays that say which keys a query sees; None where the rule alone says it."""

    q_order_bt: jax.Array | None = None
    k_order_bs: jax.Array | None = None
    q_segments_bt: jax.Array | None = None
    k_segments_bs: jax.Array | None = None
    q_positions_bt: jax.Array | None = None
    k_positions_bs: jax.Array | None = None

    def filled(self, queries: int, keys: int) -> "Where":
        """With default orders and positions said outright (as NumPy arrays: known while compiling)."""
        q_order = np.arange(queries, dtype=np.int32)[None] if self.q_order_bt is None else self.q_order_bt
        k_order = np.arange(keys, dtype=np.int32)[None] if self.k_order_bs is None else self.k_order_bs
        q_positions, k_positions = (order if p is None else p for order, p in ((q_order, self.q_positions_bt), (k_order, self.k_positions_bs)))
        return self._replace(q_order_bt=q_order, k_order_bs=k_order, q_positions_bt=q_positions, k_positions_bs=k_positions)
