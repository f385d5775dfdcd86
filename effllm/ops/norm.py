"""RMSNorm (Zhang & Sennrich 2019, arXiv 1910.07467) and LayerNorm (Ba et al. 2016, arXiv 1607.06450), statistics in float32."""

import functools

import jax
import jax.numpy as jnp

from effllm.ops.broadcast import to_first_axes, to_last_axes

# The backward pass recomputes from the input: cheaper than to keep the normalised values.
recomputed = functools.partial(jax.checkpoint, prevent_cse=False)


def rms_norm(x: jax.Array, scale_d: jax.Array, eps: float = 1e-6) -> jax.Array:
    """x / sqrt(mean(x²) + eps) · scale over the last axis; statistics in at least float32, result in x's dtype."""

    @recomputed
    def normalised(x, scale_d):
        y = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        y = y * to_first_axes(jax.lax.rsqrt(jnp.mean(y * y, axis=-1) + eps), y.shape)
        return (y * to_last_axes(scale_d, y.shape)).astype(x.dtype)

    return normalised(x, scale_d)


def unit(x: jax.Array, eps: float = 1e-6) -> jax.Array:
    """x / sqrt(Σ x² + eps) over the last axis, in at least float32 and then in x's dtype."""
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return (wide * to_first_axes(jax.lax.rsqrt(jnp.sum(wide**2, axis=-1) + eps), x.shape)).astype(x.dtype)


def layer_norm(x: jax.Array, scale_d: jax.Array, bias_d: jax.Array | None, eps: float = 1e-5) -> jax.Array:
    """(x − mean) / sqrt(var + eps) · scale + bias over the last axis; statistics in at least float32, result in x's dtype."""

    @recomputed
    def normalised(x, scale_d, bias_d):
        y = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        y = y - to_first_axes(jnp.mean(y, axis=-1), y.shape)
        y = y * to_first_axes(jax.lax.rsqrt(jnp.mean(y * y, axis=-1) + eps), y.shape) * to_last_axes(scale_d, y.shape)
        return (y if bias_d is None else y + to_last_axes(bias_d, y.shape)).astype(x.dtype)

    return normalised(x, scale_d, bias_d)
