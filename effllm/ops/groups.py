"""Attention within groups of tokens that data decides: hash buckets, clusters.

Causal to the letter: which group a token is in and its rank there (the number of its group's tokens before it) depend on nothing later, so
neither do the keys that it sees. ids (B, T, H) name each head's groups across documents; 0 is padding.
"""

import jax
import jax.numpy as jnp

from effllm.ops.attention import attention


def ranks(ids_bt: jax.Array) -> jax.Array:
    """(B, T) how many tokens of the same id come before each token of its row."""
    token_bt = jnp.argsort(ids_bt, axis=1, stable=True)
    sorted_bt = jnp.take_along_axis(ids_bt, token_bt, axis=1)
    place_bt = jnp.broadcast_to(jnp.arange(ids_bt.shape[1]), ids_bt.shape)
    begins_bt = jnp.diff(sorted_bt, axis=1, prepend=-1) != 0
    rank_bt = place_bt - jax.lax.cummax(jnp.where(begins_bt, place_bt, 0), axis=1)
    return jnp.take_along_axis(rank_bt, jnp.argsort(token_bt, axis=1), axis=1)


def group_attention(
    q_bthk: jax.Array, k_bthk: jax.Array, v_bthv: jax.Array, ids_bth: jax.Array, *, window: int, scale: float, strict: bool = False
) -> tuple[jax.Array, jax.Array]:
    """(softmax(q kᵀ · scale) v, logsumexp (B, T, H)) over the last `window` tokens of the query's own group, itself included.

    With `strict` they are the `window` tokens before itself; one that has none keeps its own value, and the lowest logsumexp. Tokens are sorted
    by group, where a group is a document and the keys lie in a window: O(T·window·K + T log T) time, O(T) memory.
    """
    batch, _, heads, _ = q_bthk.shape
    ids_nt = _fold(ids_bth)
    token_nt = jnp.argsort(ids_nt, axis=1, stable=True)
    place_nt = jnp.argsort(token_nt, axis=1)
    q, k, v = (_take(_fold(x), token_nt)[:, :, None] for x in (q_bthk, k_bthk, v_bthv))
    group = keys = jnp.take_along_axis(ids_nt, token_nt, axis=1)
    if strict:
        k, v, keys = (jnp.pad(a[:, :-1], ((0, 0), (1, 0), *[(0, 0)] * (a.ndim - 2))) for a in (k, v, keys))
    o, lse = attention(q, k, v, q_segments_bt=group, k_segments_bs=keys, window=window, scale=scale, return_lse=True)
    o_bthv, lse_bth = (_unfold(_take(a[:, :, 0], place_nt), batch, heads) for a in (o, lse))
    return _own(o_bthv, lse_bth, v_bthv, ids_bth) if strict else o_bthv, lse_bth


def remembered_group_attention(
    q_bthk: jax.Array, k_bshk: jax.Array, v_bshv: jax.Array, ids_bsh: jax.Array, place_bt: jax.Array, *, window: int, scale: float, strict: bool = False
) -> tuple[jax.Array, jax.Array]:
    """The same for queries whose own keys are among those remembered, in the slots place (B, T); slots lie in order, id 0 is an empty one.

    By ranks, without sorting the keys: O(T·S·K) time, O(T + S) memory.
    """
    batch, _, heads, _ = q_bthk.shape
    ids_ns = _fold(ids_bsh)
    rank_ns = ranks(ids_ns)
    place_nt = jnp.repeat(jnp.clip(place_bt, 0, ids_bsh.shape[1] - 1), heads, axis=0)
    q, k, v = (_fold(x)[:, :, None] for x in (q_bthk, k_bshk, v_bshv))
    ids_nt, rank_nt = (jnp.take_along_axis(a, place_nt, axis=1) for a in (ids_ns, rank_ns))
    o, lse = attention(
        q, k, v, q_order_bt=rank_nt - strict, k_order_bs=rank_ns, q_segments_bt=ids_nt, k_segments_bs=ids_ns, window=window, scale=scale, return_lse=True
    )
    o_bthv, lse_bth, ids_bth, own_bthv = (_unfold(a, batch, heads) for a in (o[:, :, 0], lse[:, :, 0], ids_nt, _take(_fold(v_bshv), place_nt)))
    return _own(o_bthv, lse_bth, own_bthv, ids_bth) if strict else o_bthv, lse_bth


def _own(o_bthv, lse_bth, v_bthv, ids_bth):
    alone_bth = (lse_bth <= jnp.finfo(lse_bth.dtype).min / 2) & (ids_bth > 0)
    return jnp.where(alone_bth[..., None], v_bthv, o_bthv)


def _fold(x_bth):
    """(B, T, H, …) to (B·H, T, …)."""
    x_bht = jnp.swapaxes(x_bth, 1, 2)
    return x_bht.reshape(-1, *x_bht.shape[2:])


def _unfold(x_nt, batch, heads):
    return jnp.swapaxes(x_nt.reshape(batch, heads, *x_nt.shape[1:]), 1, 2)


def _take(x_nt, index_nt):
    return jnp.take_along_axis(x_nt, index_nt.reshape(*index_nt.shape, *[1] * (x_nt.ndim - 2)), axis=1)
