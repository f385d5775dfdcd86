"""Attention to the own block and to blocks that a learned, soft permutation brings beside it (Tay et al. 2020, arXiv 2002.11296)."""

import functools

import jax
import jax.numpy as jnp

from effllm.ops.documents import Documents


def sinkhorn(z: jax.Array, mask: jax.Array, iterations: int) -> jax.Array:
    """exp of z (…, N, N) after `iterations` normalisations of rows, then of columns, in the logarithm: nearly doubly stochastic; 0 outside the mask."""
    lowest = jnp.finfo(z.dtype).min
    z = jnp.where(mask, z, lowest)
    for axis in (-1, -2) * iterations:
        z = jnp.where(mask, z - jax.nn.logsumexp(z, axis=axis, keepdims=True), lowest)
    return jnp.where(mask, jnp.exp(z), 0)


def sinkhorn_attention(
    q_bthk: jax.Array, k_bthk: jax.Array, v_bthk: jax.Array, ask_bthk: jax.Array, offer_bthk: jax.Array, found: Documents, *, block: int, iterations: int
) -> jax.Array:
    """softmax(q [k; k̂]ᵀ/√K) [v; v̂] over the query's own block and the block sorted to it; (B, T, H, V).

    k̂ of block i is Σ_j R_ij k of block j, place by place, a place that block j lacks counting as 0, and likewise v̂; R = sinkhorn(ask_i · offer_j / √K) with means of
    ask and offer over the blocks of the document. Blocks are `block` tokens of a document, the last one fewer. Sees both sides.
    O(T·block·K + T²/block·K) time, O(T·block) memory.
    """
    (batch, length, heads, width), count = q_bthk.shape, -(-q_bthk.shape[1] // block) + found.count - 1
    blocks_bn = -(-found.length_bn // block)
    first_bn = jnp.cumsum(blocks_bn, axis=1) - blocks_bn
    slots = count * block
    slot_bt = jnp.where(found.segments_bt > 0, (found.of(first_bn) + found.rank_bt // block) * block + found.rank_bt % block, slots)
    rows_b1 = jnp.arange(batch)[:, None]
    token_bs = jnp.full((batch, slots), length).at[rows_b1, slot_bt].set(jnp.arange(length)[None], mode="drop")

    def blocked(x_bt):
        """(B, N, c, …) tokens in their places, 0 where there is none."""
        padded = jnp.pad(x_bt, ((0, 0), (0, 1), *[(0, 0)] * (x_bt.ndim - 2)))
        return jnp.take_along_axis(padded, token_bs.reshape(batch, slots, *[1] * (x_bt.ndim - 2)), axis=1).reshape(batch, count, block, *x_bt.shape[2:])

    there_bnc = (token_bs < length).reshape(batch, count, block)
    document_bn = blocked(found.segments_bt)[:, :, 0]
    same_bnm = (document_bn[:, :, None] == document_bn[:, None]) & (document_bn[:, :, None] > 0)
    wide = jnp.promote_types(q_bthk.dtype, jnp.float32)
    sizes_bn11 = jnp.maximum(there_bnc.sum(2), 1)[..., None, None]
    ask_bnhk, offer_bnhk = (blocked(x.astype(wide)).sum(2) / sizes_bn11 for x in (ask_bthk, offer_bthk))
    scale = width**-0.5
    move_bhnm = sinkhorn(scale * jnp.einsum("bnhk,bmhk->bhnm", ask_bnhk, offer_bnhk), same_bnm[:, None], iterations)

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def attend(q, k, v, move_bhnm):
        keys, values = (jnp.concatenate([x, jnp.einsum("bhnm,bmchk->bnchk", move_bhnm.astype(x.dtype), x)], axis=2) for x in (k, v))
        brought_bnc = jnp.einsum("bnm,bmc->bnc", same_bnm.astype(jnp.int32), there_bnc.astype(jnp.int32)) > 0
        seen_bnk = jnp.concatenate([there_bnc, brought_bnc], axis=2)[:, None, :, None]
        z = scale * jnp.einsum("bnchk,bndhk->bhncd", q, keys, preferred_element_type=wide)
        p = jax.nn.softmax(jnp.where(seen_bnk, z, jnp.finfo(wide).min), axis=-1)
        return jnp.einsum("bhncd,bndhk->bnchk", p.astype(values.dtype), values)

    o_bnchk = attend(blocked(q_bthk), blocked(k_bthk), blocked(v_bthk), move_bhnm)
    o_bshk = jnp.pad(o_bnchk.reshape(batch, slots, heads, -1), ((0, 0), (0, 1), (0, 0), (0, 0)))
    return jnp.take_along_axis(o_bshk, slot_bt[..., None, None], axis=1)
