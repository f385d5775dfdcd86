"""Softmax attention (Vaswani et al. 2017, arXiv 1706.03762) with grouped keys and values (Ainslie et al. 2023, arXiv 2305.13245)."""

import jax
import jax.numpy as jnp

from effllm.ops.bias import Bias
from effllm.ops.blockwise import Rule, blockwise, seen_by, wide
from effllm.ops.pattern import Pattern
from effllm.ops.where import Where

IMPLEMENTATIONS = ("reference", "xla")


def attention(
    q_bthk: jax.Array,
    k_bsgk: jax.Array,
    v_bsgv: jax.Array,
    *,
    q_order_bt: jax.Array | None = None,
    k_order_bs: jax.Array | None = None,
    q_segments_bt: jax.Array | None = None,
    k_segments_bs: jax.Array | None = None,
    q_positions_bt: jax.Array | None = None,
    k_positions_bs: jax.Array | None = None,
    causal: bool = True,
    window: int | None = None,
    pattern: Pattern | None = None,
    bias: Bias | None = None,
    scale: float | None = None,
    soft_cap: float | None = None,
    return_lse: bool = False,
    implementation: str | None = None,
) -> jax.Array | tuple[jax.Array, jax.Array]:
    """softmax(cap(q kᵀ · scale + bias)) v over the keys that each query may see; (B, T, H, V).

    Head h of q reads key/value head h // (H/G). Query (b, t) sees key (b, s) where k_order ≤ q_order if `causal` (default: s and t, then
    S = T), where they lie less than `window` apart, where `pattern` lets their positions (default: their orders) see each other, and where
    their segments are equal; segment 0 is padding and sees nothing: a query without keys gives 0. `bias` is a function of positions, queries
    and keys. cap(z) = soft_cap · tanh(z / soft_cap). `scale` defaults to K^(-1/2). Scores and softmax in at least float32.

    With `return_lse` the logsumexp (B, T, H) of each query's scores comes along, in at least float32, the lowest finite number for a query without
    keys: enough to join attention over parts of the keys, see ops.join.

    implementation: "reference" builds all T × S scores; "xla" (the default) walks over those pairs of query and key blocks that can see
    each other with a running softmax, and recomputes their scores in the backward pass from the logsumexp, as FlashAttention does
    (Dao 2023, arXiv 2307.08691): memory O(T + S), compile time that does not depend on the length. Blocks between which nothing is
    seen, for order, window, pattern or documents, are not visited.

    Raises ValueError for heads that the key/value heads do not divide, for lengths that differ without q_order, for only one
    of the two segment or position arrays, for a window below 1, and for an unknown implementation.
    """
    if implementation not in (None, *IMPLEMENTATIONS):
        raise ValueError(f"attention has no implementation {implementation!r}; it has {IMPLEMENTATIONS}")
    where = Where(q_order_bt, k_order_bs, q_segments_bt, k_segments_bs, q_positions_bt, k_positions_bs)
    core, gathers = (reference, False) if implementation == "reference" else (blockwise, True)
    o_bthv, lse_bth = attend(core, q_bthk, k_bsgk, v_bsgv, where, causal, window, pattern, bias, scale, soft_cap, gathers)
    return (o_bthv, lse_bth) if return_lse else o_bthv


def attend(core, q_bthk, k_bsgk, v_bsgv, where: Where, causal, window, pattern, bias, scale, soft_cap, gathers: bool = True):
    """(attention, logsumexp) by core(q, k, v, params, where, rule), after the checks that all implementations share.

    With `gathers` a pattern that scatters its keys brings them together first.
    """
    (_, t, h, width), (_, s, g, _) = q_bthk.shape, k_bsgk.shape
    if h % g:
        raise ValueError(f"attention has {h} query heads, not a multiple of its {g} key/value heads")
    if causal and where.q_order_bt is None and t != s:
        raise ValueError(f"causal attention of {t} queries over {s} keys needs q_order_bt")
    for what in ("segments", "positions"):
        if (getattr(where, f"q_{what}_bt") is None) != (getattr(where, f"k_{what}_bs") is None):
            raise ValueError(f"attention needs the {what} of both queries and keys, or of neither")
    if window is not None and window < 1:
        raise ValueError(f"attention: window={window} must be at least 1, where a query sees itself alone")
    scale = width**-0.5 if scale is None else scale
    params, function = (None, None) if bias is None else (bias.params, bias.function)

    def part(q_bthk, k_bsgk, v_bsgv, where, pattern):
        return core(q_bthk, k_bsgk, v_bsgv, params, where, Rule(h // g, causal, window, pattern, scale, soft_cap, function))

    in_order = where.q_order_bt is None and where.k_order_bs is None and t == s
    if pattern is None or not gathers or not in_order:
        return part(q_bthk, k_bsgk, v_bsgv, where, pattern)
    return pattern.attend(part, q_bthk, k_bsgk, v_bsgv, where)


def reference(q_bthk, k_bsgk, v_bsgv, params, where: Where, rule: Rule) -> tuple[jax.Array, jax.Array]:
    """(attention (B, T, H, V), logsumexp (B, T, H)) from all scores at once."""
    k_bshk, v_bshv = jnp.repeat(k_bsgk, rule.group, axis=2), jnp.repeat(v_bsgv, rule.group, axis=2)
    scores_bhts = rule.scale * jnp.einsum("bthk,bshk->bhts", q_bthk, k_bshk, preferred_element_type=wide(q_bthk))
    where = where.filled(q_bthk.shape[1], k_bsgk.shape[1])
    if rule.bias is not None:
        scores_bhts = scores_bhts + rule.bias(params, q_bthk, k_bsgk, jnp.asarray(where.q_positions_bt), jnp.asarray(where.k_positions_bs))
    if rule.soft_cap is not None:
        scores_bhts = rule.soft_cap * jnp.tanh(scores_bhts / rule.soft_cap)
    lowest = jnp.finfo(scores_bhts.dtype).min
    seen_bts = seen_by(where, rule)
    if seen_bts is not None:
        scores_bhts = jnp.where(seen_bts[:, None], scores_bhts, lowest)
    lse_bht = jax.nn.logsumexp(scores_bhts, axis=-1)
    weights_bhts = jnp.exp(scores_bhts - lse_bht[..., None])
    if seen_bts is not None:
        some_bht = jnp.broadcast_to(seen_bts.any(-1)[:, None], lse_bht.shape)  # by NumPy where no data decides it: XLA takes long to fold it
        weights_bhts, lse_bht = jnp.where(some_bht[..., None], weights_bhts, 0), jnp.where(some_bht, lse_bht, lowest)
    return jnp.einsum("bhts,bshv->bthv", weights_bhts.astype(v_bsgv.dtype), v_bshv), jnp.swapaxes(lse_bht, 1, 2)
