"""HyperAttention: the blocks that a sorting hash makes, and a sample of the rest (Han et al. 2023, arXiv 2310.05869)."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from effllm.ops.attention import attention
from effllm.ops.documents import Documents
from effllm.ops.pattern import Pattern, join


@dataclass(frozen=True)
class Elsewhere(Pattern):
    """i sees j where they differ: positions here are the blocks of queries and keys."""

    def sees(self, i, j):
        return i != j

    def may_see(self, i_least, i_most, j_least, j_most):
        return ~((i_least == i_most) & (j_least == j_most) & (i_least == j_least))


def hamming_hash(x_bthk: jax.Array, direction_hkf: jax.Array) -> jax.Array:
    """(B, T, H) in 0 … 2^F − 1: the place in the reflected Gray code of the signs of x·direction, so that neighbouring buckets differ in one bit."""
    sign_bthf = jnp.einsum("bthk,hkf->bthf", x_bthk.astype(direction_hkf.dtype), direction_hkf) > 0
    # Bit f of a Gray code's place is the parity of its leading bits up to f.
    place_bthf = jnp.cumsum(sign_bthf, axis=-1) % 2
    return jnp.sum(place_bthf * 2 ** jnp.arange(direction_hkf.shape[-1])[::-1], axis=-1)


def hyper_attention(
    q_bthk: jax.Array, k_bthk: jax.Array, v_bthv: jax.Array, direction_hkf: jax.Array, found: Documents, *, block: int, samples: int
) -> jax.Array:
    """Attention within each document to the keys of the query's block, and to `samples` keys of the whole document outside it, weighted n / samples.

    Queries and keys are each sorted by `hamming_hash`, and the ranks cut into blocks. The sample is every n/samples-th key of a document of n, from the middle of its
    stretch (the paper draws at random). n ≤ block is exact. O(T·(block + samples)·K + T log T) time, O(T) memory; sees both sides.
    """
    batch, length, heads, _ = q_bthk.shape
    index_nt, rank_nt = (jnp.repeat(a, heads, axis=0) for a in (found.index_bt, found.rank_bt))
    length_n = jnp.repeat(found.length_bn, heads, axis=0)
    begin_n = jnp.cumsum(length_n, axis=1) - length_n
    # The blocks of a row are numbered through, from 1; 0 is padding.
    blocks_n = -(-length_n // block)
    first_n = jnp.cumsum(blocks_n, axis=1) - blocks_n + 1

    def of(document, a_nd):
        return jnp.take_along_axis(jnp.pad(a_nd, ((0, 0), (0, 1))), document, axis=1)

    def sort(x_bthk):
        code_nt = _fold(hamming_hash(x_bthk, direction_hkf))
        token_nt = jnp.argsort(index_nt * 2 ** direction_hkf.shape[-1] + code_nt, axis=1, stable=True)
        return token_nt, jnp.argsort(token_nt, axis=1)

    (q_token, q_place), (k_token, k_place) = sort(q_bthk), sort(k_bthk)
    document_nt = jnp.take_along_axis(index_nt, q_token, axis=1)  # the same for queries and keys: documents keep their places
    block_nt = jnp.where(document_nt < found.count, of(document_nt, first_n) + (jnp.arange(length) - of(document_nt, begin_n)) // block, 0)
    q, k, v = _take(_fold(q_bthk), q_token), _take(_fold(k_bthk), k_token), _take(_fold(v_bthv), k_token)

    def attend(q, k, v, **where):
        o, lse = attention(q[:, :, None], k[:, :, None], v[:, :, None], causal=False, return_lse=True, **where)
        return o, lse

    parts = [attend(q, k, v, window=block, q_segments_bt=block_nt, k_segments_bs=block_nt)]
    if samples:
        wanted_ns = (length_n[..., None] * (2 * jnp.arange(samples) + 1)) // (2 * samples)
        # The token of each rank in its document, by a sort that keeps the order of the text.
        by_rank_nt = jnp.argsort(index_nt * length + rank_nt, axis=1, stable=True)
        token_ns = jnp.take_along_axis(by_rank_nt, jnp.clip(begin_n[..., None] + wanted_ns, 0, length - 1).reshape(batch * heads, -1), axis=1)
        there_ns = jnp.repeat(jnp.where(length_n > 0, jnp.arange(1, found.count + 1), 0), samples, axis=1)
        sampled_block_ns = jnp.take_along_axis(block_nt, jnp.take_along_axis(k_place, token_ns, axis=1), axis=1)
        o, lse = attend(
            q, _take(_fold(k_bthk), token_ns), _take(_fold(v_bthv), token_ns), pattern=Elsewhere(),
            q_segments_bt=jnp.where(document_nt < found.count, document_nt + 1, 0), k_segments_bs=there_ns, q_positions_bt=block_nt, k_positions_bs=sampled_block_ns,
        )  # fmt: skip
        weight_nt = jnp.log(jnp.maximum(of(document_nt, length_n), 1) / samples).astype(lse.dtype)
        parts.append((o, jnp.where(lse > jnp.finfo(lse.dtype).min / 2, lse + weight_nt[..., None], lse)))
    o_nt = _take(join(parts)[0][:, :, 0], q_place)
    return jnp.swapaxes(o_nt.reshape(batch, heads, length, -1), 1, 2)


def _fold(x_bth):
    x_bht = jnp.swapaxes(x_bth, 1, 2)
    return x_bht.reshape(-1, *x_bht.shape[2:])


def _take(x_ntk, index_nt):
    return jnp.take_along_axis(x_ntk, index_nt[..., None], axis=1)
