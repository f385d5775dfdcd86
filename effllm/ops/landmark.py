"""Attention to blocks through their landmarks (Mohtashami & Jaggi 2023, arXiv 2305.16300)."""

import functools

import jax
import jax.numpy as jnp

from effllm.ops.groups import ranks
from effllm.ops.query_chunks import by_query_chunks


def landmark_attention(
    q_bthk: jax.Array, k_bshk: jax.Array, landmark_bshk: jax.Array, v_bshv: jax.Array, place_bt: jax.Array, segments_bs: jax.Array, *,
    block: int, retrieved: int | None = None, chunk: int = 128,
) -> jax.Array:  # fmt: skip
    """Grouped softmax over a document's blocks of `block` tokens; (B, T, H, V). place (B, T): the queries' own slots among the keys, which lie in order.

    One softmax takes the scores of the query's own block (tokens up to itself) and of the landmarks of the blocks before it; the landmark key of
    a block is that of its last token. A block's weight is then shared by its tokens in a softmax of their own. With s in an earlier block b this is one
    softmax of z_s + z_landmark(b) − logsumexp_(s' in b) z_s'. With `retrieved` only the blocks of that many best landmarks are seen.

    O(T·S·K) time; `chunk` queries' scores exist at once. Segment 0 is padding.
    """
    slots = segments_bs.shape[1]
    real_bs = segments_bs > 0
    rank_bs = ranks(segments_bs)
    block_bs = rank_bs // block
    number_bs = jnp.maximum(jnp.cumsum(real_bs & (rank_bs % block == 0), axis=1) - 1, 0)  # of the block within the row
    last_bs = _over_blocks(jax.ops.segment_max, jnp.where(real_bs, jnp.arange(slots), -1), number_bs)
    scale = q_bthk.shape[-1] ** -0.5

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def attend(q_bchk, place_bc, real_bc):
        wide = jnp.promote_types(q_bchk.dtype, jnp.float32)

        def own(x_bs):
            return jnp.take_along_axis(x_bs, place_bc, axis=1)[..., None]

        same_bcs = (own(segments_bs) == segments_bs[:, None]) & real_bc[..., None]
        seen_bcs = same_bcs & (own(rank_bs) >= rank_bs[:, None])
        earlier_bcs = same_bcs & (own(block_bs) > block_bs[:, None])
        z, mark = (scale * jnp.einsum("bchk,bshk->bhcs", q_bchk, k, preferred_element_type=wide) for k in (k_bshk, landmark_bshk))
        mark = jnp.take_along_axis(mark, last_bs[:, None, None], axis=-1)
        rows = jnp.broadcast_to(number_bs[:, None, None], z.shape)
        inside = jnp.where(real_bs[:, None, None], z, jnp.finfo(wide).min)
        top = jax.lax.stop_gradient(_over_blocks(jax.ops.segment_max, inside, rows))
        sums = _over_blocks(jax.ops.segment_sum, jnp.exp(inside - top), rows)
        z = z + jnp.where(earlier_bcs[:, None], mark - top - jnp.log(sums), 0)
        if retrieved is not None:
            ends = earlier_bcs[:, None] & (jnp.arange(slots) == last_bs)[:, None, None]
            least = jax.lax.top_k(jnp.where(ends, mark, -jnp.inf), min(retrieved, slots))[0][..., -1:]
            seen = seen_bcs[:, None] & (~earlier_bcs[:, None] | (mark >= least))
        else:
            seen = seen_bcs[:, None]
        p = jnp.where(seen, jax.nn.softmax(jnp.where(seen, z, jnp.finfo(wide).min), axis=-1), 0)
        return jnp.einsum("bhcs,bshv->bchv", p.astype(v_bshv.dtype), v_bshv)

    place_bt = jnp.clip(place_bt, 0, slots - 1)
    return by_query_chunks(attend, chunk, q_bthk, place_bt, jnp.take_along_axis(real_bs, place_bt, axis=1))


def _over_blocks(reduce, x, number):
    """What `reduce` makes of x (…, S) over each block, at every slot of the block."""
    slots = x.shape[-1]

    def row(x_s, number_s):
        return reduce(x_s, number_s, slots)[number_s]

    return jax.vmap(row)(x.reshape(-1, slots), number.reshape(-1, slots)).reshape(x.shape)
