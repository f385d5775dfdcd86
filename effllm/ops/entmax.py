"""α-entmax: a softmax that gives exactly zero to low scores, and attention with it (Peters et al. 2019, arXiv 1905.05702; Correia et al. 2019, arXiv 1909.00015)."""

import functools

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from effllm.ops.query_chunks import by_query_chunks
from effllm.ops.tuned import tuned_chunk

LOWEST_ALPHA = 1.01
KEEP_TAU = jax.checkpoint_policies.save_only_these_names("tau")


@jax.custom_vjp
def entmax(z: jax.Array, alpha: jax.Array) -> jax.Array:
    """p = [(α − 1) z − τ]₊^(1/(α−1)) over the last axis, with τ such that Σ p = 1; in at least float32.

    α broadcasts against z with a last axis of 1, and lies in [1.01, 2]: softmax is the limit 1, sparsemax is 2. Scores of −inf get 0, and so does all of a row
    that has no other. τ is found to the dtype's precision, the gradients in z and α are those of the exact solution. Under jax.checkpoint a policy that saves
    the name "tau" (`KEEP_TAU`) spares the backward pass the search.
    """
    return _solution(z, alpha)


def _solution(z, alpha):
    wide = jnp.promote_types(z.dtype, jnp.float32)
    z, alpha = z.astype(wide), jnp.broadcast_to(jnp.asarray(alpha, wide), (*z.shape[:-1], 1))
    some = jnp.any(z > -jnp.inf, axis=-1, keepdims=True)
    scaled = (alpha - 1) * jnp.where(some, z - jnp.max(z, axis=-1, keepdims=True, where=some, initial=-jnp.inf), 0)
    tau = checkpoint_name(_threshold(scaled, alpha), "tau")
    p = _powers(scaled, tau, alpha)[0]
    return jnp.where(some, p / jnp.sum(p, axis=-1, keepdims=True), 0)


def _powers(scaled, tau, alpha):
    """([s − τ]₊^(1/(α−1)), and the same divided by [s − τ]₊)."""
    inside = scaled > tau
    above = jnp.where(inside, scaled - tau, 1)
    p = jnp.where(inside, above ** (1 / (alpha - 1)), 0)
    return p, p / above


def _threshold(scaled, alpha):
    """τ (…, 1) with Σ [s − τ]₊^(1/(α−1)) = 1, for scores whose largest is 0.

    By Newton's method on the norm ‖[s − τ]₊‖ of exponent 1/(α−1), which is convex in τ and falls: from τ = −1, where it is at least 1, it climbs to the solution and
    does not pass it. A dozen steps at most were seen where bisection takes a step a bit.
    """
    enough = 4 * jnp.finfo(scaled.dtype).eps

    def step(tau):
        p, slopes = _powers(scaled, tau, alpha)
        total = jnp.sum(p, axis=-1, keepdims=True)
        return (total - total ** (2 - alpha)) / jnp.sum(slopes, axis=-1, keepdims=True)

    def climb(carry):
        tau, by = carry
        tau = tau + by
        return tau, step(tau)

    start = jnp.max(scaled, axis=-1, keepdims=True) - 1
    return sum(jax.lax.while_loop(lambda carry: jnp.any(carry[1] > enough), climb, (start, step(start))))


def _forward(z, alpha):
    p = _solution(z, alpha)
    return p, (p, jnp.asarray(alpha, p.dtype), jnp.zeros((0,), z.dtype), jnp.zeros((0,), jnp.asarray(alpha).dtype))


def _backward(residuals, d_p):
    p, alpha, like_z, like_alpha = residuals
    inside = p > 0
    share = jnp.where(inside, jnp.where(inside, p, 1) ** (2 - alpha), 0)
    total = jnp.sum(share, axis=-1, keepdims=True)
    share = share / jnp.where(total == 0, 1, total)
    d_z = total * share * (d_p - jnp.sum(share * d_p, axis=-1, keepdims=True))
    entropy = jnp.where(inside, -p * jnp.log(jnp.where(inside, p, 1)), 0)
    slope = (p - share) / (alpha - 1) ** 2 + (entropy - share * jnp.sum(entropy, axis=-1, keepdims=True)) / (alpha - 1)
    d_alpha = jnp.sum(d_p * slope, axis=-1, keepdims=True)
    extra = d_alpha.ndim - alpha.ndim
    d_alpha = jnp.sum(d_alpha, axis=tuple(range(extra)))
    d_alpha = jnp.sum(d_alpha, axis=tuple(i for i, n in enumerate(alpha.shape) if n == 1), keepdims=True)
    return d_z.astype(like_z.dtype), d_alpha.astype(like_alpha.dtype)


entmax.defvjp(_forward, _backward)


def entmax_attention(
    q_bthk, k_bshk, v_bshv, alpha_h, q_order_bt, k_order_bs, q_segments_bt, k_segments_bs, *, chunk: int | None = None
) -> jax.Array:  # fmt: skip
    """entmax_α(q kᵀ/√K) v over the query's own and earlier tokens of its segment, α (H,) for each head; (B, T, H, V).

    O(T·S·K) time; `chunk` queries' scores exist at once, and are computed again in the backward pass, all but τ (B, H, T); None is the quickest chunk that
    was measured (see ops.tuned), or 128.
    """
    chunk = tuned_chunk("entmax_attention", q_bthk.shape, 128) if chunk is None else chunk

    @functools.partial(jax.checkpoint, prevent_cse=False, policy=KEEP_TAU)
    def attend(q_bchk, order_bc, segments_bc):
        wide = jnp.promote_types(q_bchk.dtype, jnp.float32)
        z_bhcs = jnp.einsum("bchk,bshk->bhcs", q_bchk, k_bshk, preferred_element_type=wide) * q_bchk.shape[-1] ** -0.5
        seen_bcs = (order_bc[..., None] >= k_order_bs[:, None]) & (segments_bc[..., None] == k_segments_bs[:, None]) & (segments_bc[..., None] > 0)
        p_bhcs = entmax(jnp.where(seen_bcs[:, None], z_bhcs, -jnp.inf), alpha_h[:, None, None])
        return jnp.einsum("bhcs,bshv->bchv", p_bhcs.astype(v_bshv.dtype), v_bshv)

    return by_query_chunks(attend, chunk, q_bthk, q_order_bt, q_segments_bt)
