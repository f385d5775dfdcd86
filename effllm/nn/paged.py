"""Keys and values in pages that all rows share: the state of a server whose rows differ in length."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from effllm import kernels
from effllm.nn.cache import Rows, check_heads

PAGE = 16


class PagedCache(Rows, struct.PyTreeNode):
    """A pool of P pages of 16 tokens, and for each row a table of the pages that it holds, in order (PagedAttention, Kwon et al. 2023, arXiv 2309.06180).

    A row takes a page from the pool when its text reaches into one, so the pool need only hold what the rows have together, not as many times
    the longest. Attention reads keys through the table (see ops.paged_attention). Table entries not yet taken are P. Where the pool is empty, the tokens
    that found no page give NaN.
    """

    k_pngk: jax.Array
    v_pngk: jax.Array
    segments_pn: jax.Array
    order_pn: jax.Array
    positions_pn: jax.Array
    table_bm: jax.Array
    taken: jax.Array
    length_b: jax.Array
    segment_b: jax.Array

    @classmethod
    def empty(cls, batch: int, length: int, kv_heads: int, key_dim: int, value_dim: int, dtype: Any, *, pages: int) -> "PagedCache":
        k, v = (jnp.zeros((pages, PAGE, kv_heads, dim), dtype) for dim in (key_dim, value_dim))
        numbers = (jnp.zeros((pages, PAGE), jnp.int32) for _ in range(3))
        table_bm = jnp.full((batch, -(-length // PAGE)), pages, jnp.int32)
        return cls(k, v, *numbers, table_bm, jnp.zeros((), jnp.int32), jnp.zeros((batch,), jnp.int32), jnp.ones((batch,), jnp.int32))

    @property
    def pages(self) -> int:
        return self.k_pngk.shape[0]

    def grown(self, length_b: jax.Array) -> "PagedCache":
        """With the pages that rows of these lengths need, as many as a row's table holds, while the pool has any."""
        width = self.table_bm.shape[1]
        held_b, needed_b = (jnp.minimum(-(-n // PAGE), width) for n in (self.length_b, length_b))
        more_b = needed_b - held_b
        first_b = self.taken + jnp.cumsum(more_b) - more_b
        entry_m = jnp.arange(width)
        new_bm = jnp.minimum(first_b[:, None] + entry_m - held_b[:, None], self.pages)
        is_new_bm = (entry_m >= held_b[:, None]) & (entry_m < needed_b[:, None])
        return self.replace(table_bm=jnp.where(is_new_bm, new_bm, self.table_bm), taken=jnp.minimum(self.taken + more_b.sum(), self.pages))

    def attend(self, q_bthk, k_btgk, v_btgk, segments_bt, positions_bt, options: dict[str, Any]) -> tuple["PagedCache", tuple[jax.Array, jax.Array]]:
        """The state after these tokens, and what ops.attention with these `options` gives their queries; NaN for those without a page."""
        check_heads(self.k_pngk, k_btgk, "keys")
        check_heads(self.v_pngk, v_btgk, "values")
        real_bt = segments_bt > 0
        order_bt = self.order(segments_bt)
        state = self.grown(order_bt[:, -1] + 1).counted(segments_bt)
        # Beyond the table, too, there is no page.
        page_bt = jnp.take_along_axis(state.table_bm, order_bt // PAGE, axis=1, mode="fill", fill_value=self.pages)
        page_bt = jnp.where(real_bt, page_bt, self.pages)

        def write(pool, values):
            return pool.at[page_bt, order_bt % PAGE].set(values.astype(pool.dtype), mode="drop")

        state = state.replace(
            k_pngk=write(state.k_pngk, k_btgk), v_pngk=write(state.v_pngk, v_btgk), segments_pn=write(state.segments_pn, segments_bt),
            order_pn=write(state.order_pn, order_bt), positions_pn=write(state.positions_pn, positions_bt),
        )  # fmt: skip
        o_bthk, lse_bth = kernels.paged_attention(
            q_bthk, state.k_pngk, state.v_pngk, state.table_bm, q_order_bt=order_bt, k_order_pn=state.order_pn, q_segments_bt=segments_bt,
            k_segments_pn=state.segments_pn, q_positions_bt=positions_bt, k_positions_pn=state.positions_pn, **options,
        )  # fmt: skip
        lost_bt = real_bt & (page_bt == self.pages)
        return state, (jnp.where(lost_bt[..., None, None], jnp.nan, o_bthk), lse_bth)
