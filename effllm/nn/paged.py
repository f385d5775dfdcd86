"""Keys and values in pages that all rows share: the state of a server whose rows differ in length."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from effllm import kernels, ops
from effllm.nn.cache import Rows

PAGE = 16
AT_ONCE = 8  # pages that a query reads in one block


class PagedCache(Rows, struct.PyTreeNode):
    """A pool of P pages of 16 tokens, and for each row a table of the pages that it holds, in order (PagedAttention, Kwon et al. 2023, arXiv 2309.06180).

    A row takes a page from the pool when its text reaches into one, so the pool need only hold what the rows have together, not as many times
    the longest. Attention reads keys through the table, some pages at a time with a running softmax. Table entries not yet taken are P. Where the pool is
    empty, the tokens that found no page give NaN.
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
        table_bm = jnp.full((batch, -(-length // (PAGE * AT_ONCE)) * AT_ONCE), pages, jnp.int32)
        return cls(k, v, *numbers, table_bm, jnp.zeros((), jnp.int32), jnp.zeros((batch,), jnp.int32), jnp.ones((batch,), jnp.int32))

    @property
    def pages(self) -> int:
        return self.k_pngk.shape[0]

    def grown(self, length_b: jax.Array) -> "PagedCache":
        """With the pages that rows of these lengths need, while the pool has any."""
        held_b, needed_b = -(-self.length_b // PAGE), -(-length_b // PAGE)
        more_b = needed_b - held_b
        first_b = self.taken + jnp.cumsum(more_b) - more_b
        entry_m = jnp.arange(self.table_bm.shape[1])
        new_bm = jnp.minimum(first_b[:, None] + entry_m - held_b[:, None], self.pages)
        is_new_bm = (entry_m >= held_b[:, None]) & (entry_m < needed_b[:, None])
        return self.replace(table_bm=jnp.where(is_new_bm, new_bm, self.table_bm), taken=jnp.minimum(self.taken + more_b.sum(), self.pages))

    def attend(self, q_bthk, k_btgk, v_btgk, segments_bt, positions_bt, options: dict[str, Any]) -> tuple["PagedCache", tuple[jax.Array, jax.Array]]:
        """The state after these tokens, and what ops.attention with these `options` gives their queries; NaN for those without a page."""
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
        where = {"q_order_bt": order_bt, "q_segments_bt": segments_bt, "q_positions_bt": positions_bt}
        o_bthk, lse_bth = state.read(q_bthk, where, options)
        lost_bt = real_bt & (page_bt == self.pages)
        return state, (jnp.where(lost_bt[..., None, None], jnp.nan, o_bthk), lse_bth)

    def read(self, q_bthk: jax.Array, where: dict[str, jax.Array], options: dict[str, Any]) -> tuple[jax.Array, jax.Array]:
        """(attention, logsumexp) over the pages in the rows' tables, some pages after others, as many as the longest row holds."""

        def pages(n, carry):
            ids_bm = jax.lax.dynamic_slice_in_dim(self.table_bm, n * AT_ONCE, AT_ONCE, 1)

            def keys(pool):
                return pool[ids_bm].reshape(ids_bm.shape[0], AT_ONCE * PAGE, *pool.shape[2:])

            held_bs = jnp.repeat(ids_bm < self.pages, PAGE, axis=1)
            part = kernels.attention(
                q_bthk, keys(self.k_pngk).astype(q_bthk.dtype), keys(self.v_pngk).astype(q_bthk.dtype), **where, k_order_bs=keys(self.order_pn),
                k_segments_bs=jnp.where(held_bs, keys(self.segments_pn), 0), k_positions_bs=keys(self.positions_pn), **options,
            )  # fmt: skip
            return ops.join([carry, (part[0].astype(carry[0].dtype), part[1])])

        wide = jnp.promote_types(q_bthk.dtype, jnp.float32)
        nothing = jnp.zeros((*q_bthk.shape[:3], self.v_pngk.shape[-1]), wide), jnp.full(q_bthk.shape[:3], jnp.finfo(wide).min, wide)
        count = -(-self.length_b.max() // (PAGE * AT_ONCE))
        o_bthk, lse_bth = jax.lax.fori_loop(0, count, pages, nothing)
        return o_bthk.astype(q_bthk.dtype), lse_bth
