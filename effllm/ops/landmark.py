"""Attention to blocks through their landmarks (Mohtashami & Jaggi 2023, arXiv 2305.16300)."""

import functools

import jax
import jax.numpy as jnp

from effllm.ops.groups import ranks
from effllm.ops.query_chunks import by_query_chunks
from effllm.ops.tuned import tuned_chunk


def landmark_attention(
    q_bthk: jax.Array, k_bshk: jax.Array, landmark_bshk: jax.Array, v_bshv: jax.Array, place_bt: jax.Array, segments_bs: jax.Array, *,
    block: int, retrieved: int | None = None, chunk: int | None = None,
) -> jax.Array:  # fmt: skip
    """Grouped softmax over a document's blocks of `block` tokens; (B, T, H, V). place (B, T): the queries' own slots among the keys, which lie in order.

    One softmax takes the scores of the query's own block (tokens up to itself) and of the landmarks of the blocks before it; the landmark key of
    a block is that of its last token. A block's weight is then shared by its tokens in a softmax of their own. With s in an earlier block b this is one
    softmax of z_s + z_landmark(b) − logsumexp_(s' in b) z_s'. With `retrieved` only the blocks of that many best landmarks are seen.

    Keys of whole blocks are brought to the front, a block a row, so that what concerns a block is a sum over a row; only such blocks have a landmark that anyone sees.
    O(T·S·K) time; `chunk` queries' scores exist at once; None is the quickest that was measured (see ops.tuned), or 128. Segment 0 is padding.
    """
    chunk = tuned_chunk("landmark_attention", q_bthk.shape, 128) if chunk is None else chunk
    slots = segments_bs.shape[1]
    rows = -(-slots // block)
    rank_bs = ranks(segments_bs)
    size_bs = _size_of_block(segments_bs, rank_bs, block)
    slot_bs = jnp.argsort(size_bs < block, axis=1, stable=True)

    def in_rows(a_bs):
        """(B, N, block, …): whole blocks first."""
        a_bs = jnp.take_along_axis(a_bs, slot_bs.reshape(*slot_bs.shape, *[1] * (a_bs.ndim - 2)), axis=1)
        a_bs = jnp.pad(a_bs, ((0, 0), (0, rows * block - slots), *[(0, 0)] * (a_bs.ndim - 2)))
        return a_bs.reshape(a_bs.shape[0], rows, block, *a_bs.shape[2:])

    k_bnshk, v_bnshv, segments_bns, rank_bns = map(in_rows, (k_bshk, v_bshv, segments_bs, rank_bs))
    landmark_bnhk = in_rows(landmark_bshk)[:, :, -1]
    scale = q_bthk.shape[-1] ** -0.5

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def attend(q_bchk, segment_bc, rank_bc):
        wide = jnp.promote_types(q_bchk.dtype, jnp.float32)
        lowest = jnp.finfo(wide).min
        segment_bcns, rank_bcns = segment_bc[..., None, None], rank_bc[..., None, None]
        same_bcns = (segment_bcns == segments_bns[:, None]) & (segment_bcns > 0)
        seen_bcns = same_bcns & (rank_bcns >= rank_bns[:, None])
        earlier_bcns = same_bcns & (rank_bcns // block > rank_bns[:, None] // block)  # all of a row, or none
        z_bhcns = scale * jnp.einsum("bchk,bnshk->bhcns", q_bchk, k_bnshk, preferred_element_type=wide)
        mark_bhcn = scale * jnp.einsum("bchk,bnhk->bhcn", q_bchk, landmark_bnhk, preferred_element_type=wide)
        shift_bhcn = mark_bhcn - jax.nn.logsumexp(z_bhcns, axis=-1)
        z_bhcns = z_bhcns + jnp.where(earlier_bcns[:, None], shift_bhcn[..., None], 0)
        seen_bhcns = seen_bcns[:, None]
        if retrieved is not None:
            behind_bhcn = jnp.where(earlier_bcns[:, None, ..., -1], mark_bhcn, -jnp.inf)
            least_bhc = jax.lax.top_k(behind_bhcn, min(retrieved, rows))[0][..., -1:]
            seen_bhcns = seen_bhcns & (~earlier_bcns[:, None] | (mark_bhcn >= least_bhc)[..., None])
        z_bhcs = jnp.where(seen_bhcns, z_bhcns, lowest).reshape(*z_bhcns.shape[:3], -1)
        p_bhcns = jnp.where(seen_bhcns, jax.nn.softmax(z_bhcs, axis=-1).reshape(z_bhcns.shape), 0)
        return jnp.einsum("bhcns,bnshv->bchv", p_bhcns.astype(v_bshv.dtype), v_bnshv)

    place_bt = jnp.clip(place_bt, 0, slots - 1)
    own = (jnp.take_along_axis(a_bs, place_bt, axis=1) for a_bs in (segments_bs, rank_bs))
    return by_query_chunks(attend, chunk, q_bthk, *own)


def _size_of_block(segments_bs, rank_bs, block):
    """(B, S) how many tokens the block of each slot has; 0 for padding."""
    real_bs = segments_bs > 0
    number_bs = jnp.cumsum(real_bs & (rank_bs % block == 0), axis=1)
    count = jax.vmap(lambda real, number: jax.ops.segment_sum(real.astype(jnp.int32), number, real.shape[0] + 1))(real_bs, number_bs)
    return jnp.where(real_bs, jnp.take_along_axis(count, number_bs, axis=1), 0)
