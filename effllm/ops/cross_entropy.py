"""Cross-entropy of a linear head, without ever holding the (tokens × vocabulary) logits."""

import functools

import jax
import jax.numpy as jnp

IMPLEMENTATIONS = ("reference", "xla")
CHUNK_ELEMENTS = 2**21


def linear_cross_entropy(
    x_nd: jax.Array,
    w_dv: jax.Array,
    labels_n: jax.Array,
    weights_n: jax.Array,
    *,
    bias_v: jax.Array | None = None,
    soft_cap: float | None = None,
    z_loss: float = 0.0,
    chunk: int | None = None,
    implementation: str | None = None,
) -> tuple[jax.Array, jax.Array]:
    """(Σ w·(nll + z_loss·lse²), Σ w·nll) in nats, with lse = logsumexp(logits), nll = lse − logits[label].

    logits = cap(x·W + b), cap(z) = soft_cap·tanh(z/soft_cap), in at least float32. Only the first result carries a gradient.
    z_loss is PaLM's (Chowdhery et al. 2022, arXiv 2204.02311).

    implementation: "reference" holds all logits; "xla" (the default) walks over chunks of `chunk` tokens (default: 2²¹ logits at
    once, but no fewer than 256 tokens) and computes the gradient in the same pass, so that neither logits nor their gradient exist whole and
    nothing is recomputed.
    """
    n, v = x_nd.shape[0], w_dv.shape[1]
    bias_v = jnp.zeros((v,), w_dv.dtype) if bias_v is None else bias_v
    if implementation == "reference":
        return _plain(x_nd, w_dv, bias_v, labels_n, weights_n, soft_cap, z_loss)
    if implementation not in (None, "xla"):
        raise ValueError(f"linear_cross_entropy has no implementation {implementation!r}; it has {IMPLEMENTATIONS}")
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk={chunk}: a chunk holds at least one token")
    chunk = min(n, max(256, CHUNK_ELEMENTS // v) if chunk is None else chunk)
    return _chunked(x_nd, w_dv, bias_v, labels_n, weights_n, soft_cap, z_loss, chunk)


def _logits(x_nd, w_dv, bias_v):
    wide = jnp.promote_types(x_nd.dtype, jnp.float32)
    return jnp.dot(x_nd, w_dv.astype(x_nd.dtype), preferred_element_type=wide) + bias_v


def _plain(x_nd, w_dv, bias_v, labels_n, weights_n, soft_cap, z_loss):
    z_nv = _logits(x_nd, w_dv, bias_v)
    if soft_cap is not None:
        z_nv = soft_cap * jnp.tanh(z_nv / soft_cap)
    lse_n = jax.nn.logsumexp(z_nv, axis=-1)
    nll_n = lse_n - jnp.take_along_axis(z_nv, labels_n[:, None], axis=-1)[:, 0]
    return jnp.sum(weights_n * (nll_n + z_loss * lse_n**2)), jax.lax.stop_gradient(jnp.sum(weights_n * nll_n))


def _chunks(chunk, *arrays):
    """Pad the leading axis with zeros to whole chunks and split it: (N, …) → (N/chunk, chunk, …)."""
    pad = -arrays[0].shape[0] % chunk
    padded = (jnp.pad(a, [(0, pad)] + [(0, 0)] * (a.ndim - 1)) for a in arrays)
    return tuple(a.reshape(-1, chunk, *a.shape[1:]) for a in padded)


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6, 7))
def _chunked(x_nd, w_dv, bias_v, labels_n, weights_n, soft_cap, z_loss, chunk):
    def one(sums, part):
        loss, nll = _plain(part[0], w_dv, bias_v, *part[1:], soft_cap, z_loss)
        return (sums[0] + loss, sums[1] + nll), None

    parts = _chunks(chunk, x_nd, labels_n, weights_n)
    first = one((0.0, 0.0), jax.tree.map(lambda a: a[0], parts))[0]
    return jax.lax.scan(one, first, jax.tree.map(lambda a: a[1:], parts))[0]


def _chunk_gradient(x_nd, w_dv, bias_v, labels_n, weights_n, soft_cap, z_loss):
    """Loss sums of one chunk with the gradients of the first: dx (N, D), dW (D, V), db (V,)."""
    z_nv = _logits(x_nd, w_dv, bias_v)
    if soft_cap is not None:
        squashed = jnp.tanh(z_nv / soft_cap)
        z_nv = soft_cap * squashed
    top_n1 = jnp.max(z_nv, axis=-1, keepdims=True)
    e_nv = jnp.exp(z_nv - top_n1)
    total_n1 = jnp.sum(e_nv, axis=-1, keepdims=True)
    lse_n1 = top_n1 + jnp.log(total_n1)
    label_nv = labels_n[:, None] == jnp.arange(w_dv.shape[1])
    nll_n1 = lse_n1 - jnp.sum(jnp.where(label_nv, z_nv, 0), axis=-1, keepdims=True)
    weights_n1 = weights_n[:, None]
    dz_nv = e_nv * (weights_n1 * (1 + 2 * z_loss * lse_n1) / total_n1) - jnp.where(label_nv, weights_n1, 0)
    if soft_cap is not None:
        dz_nv = dz_nv * (1 - squashed**2)
    narrow_nv, wide = dz_nv.astype(x_nd.dtype), dz_nv.dtype
    dx_nd = jnp.dot(narrow_nv, w_dv.astype(x_nd.dtype).T)
    dw_dv = jnp.dot(x_nd.T, narrow_nv, preferred_element_type=wide)
    sums = jnp.sum(weights_n1 * (nll_n1 + z_loss * lse_n1**2)), jnp.sum(weights_n1 * nll_n1)
    return sums, dx_nd, dw_dv, jnp.sum(dz_nv, axis=0)


def _chunked_forward(x_nd, w_dv, bias_v, labels_n, weights_n, soft_cap, z_loss, chunk):
    def one(part):
        return _chunk_gradient(part[0], w_dv, bias_v, *part[1:], soft_cap, z_loss)

    def add(carry, part):
        sums, dx_nd, dw_dv, db_v = one(part)
        return jax.tree.map(jnp.add, carry, (sums, dw_dv, db_v)), dx_nd

    parts = _chunks(chunk, x_nd, labels_n, weights_n)
    sums, dx_first, dw_dv, db_v = one(jax.tree.map(lambda a: a[0], parts))
    (sums, dw_dv, db_v), dx_rest = jax.lax.scan(add, (sums, dw_dv, db_v), jax.tree.map(lambda a: a[1:], parts))
    dx_nd = jnp.concatenate([dx_first[None], dx_rest]).reshape(-1, x_nd.shape[1])[: x_nd.shape[0]]
    # Dtypes travel as empty arrays: residuals hold arrays only.
    like = jnp.zeros((0,), w_dv.dtype), jnp.zeros((0,), bias_v.dtype)
    return sums, (dx_nd, dw_dv, db_v, like)


def _chunked_backward(soft_cap, z_loss, chunk, residuals, cotangents):
    dx_nd, dw_dv, db_v, (w_like, bias_like) = residuals
    g = cotangents[0]
    return (g * dx_nd).astype(dx_nd.dtype), (g * dw_dv).astype(w_like.dtype), (g * db_v).astype(bias_like.dtype), None, None


_chunked.defvjp(_chunked_forward, _chunked_backward)
