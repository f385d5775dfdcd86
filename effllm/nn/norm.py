"""Normalisation layers."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from effllm import ops
from effllm.nn.init import Fill
from effllm.nn.linear import parameter


class Norm(nn.Module):
    """Base of all normalisations over the last axis: `norm(x) -> x`, in x's dtype."""


class RMSNorm(Norm):
    """x / rms(x) · scale (Zhang & Sennrich 2019, arXiv 1910.07467).

    With an `offset` the parameter is scale − offset: 1 keeps it around 0, towards which weight decay pulls (Gemma, arXiv 2403.08295).
    """

    eps: float = 1e-6
    offset: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = parameter(self, "scale", Fill(1.0 - self.offset), x.shape[-1:], (None,))
        scale = self.offset + scale.astype(jnp.promote_types(scale.dtype, jnp.float32)) if self.offset else scale
        return ops.rms_norm(x, scale, self.eps)


class HeadsRMSNorm(RMSNorm):
    """RMSNorm over heads and their channels together, x (…, H, K) with a scale of H·K numbers: the qk_norm of OLMo 2 (arXiv 2501.00656, §3.3)."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return super().__call__(x.reshape(*x.shape[:-2], -1)).reshape(x.shape)


class LayerNorm(Norm):
    """(x − mean) / std · scale + bias (Ba et al. 2016, arXiv 1607.06450)."""

    eps: float = 1e-5
    bias: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = parameter(self, "scale", Fill(1.0), x.shape[-1:], (None,))
        bias = parameter(self, "bias", Fill(0.0), x.shape[-1:], (None,)) if self.bias else None
        return ops.layer_norm(x, scale, bias, self.eps)


class EachHeadLayerNorm(Norm):
    """LayerNorm of each head, x (…, H, K) with a scale of H·K numbers (arXiv 2405.04517), and as many of a `bias` (RWKV's GroupNorm, arXiv 2404.05892)."""

    eps: float = 1e-6
    bias: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        def each(name, value):
            return parameter(self, name, Fill(value), (x.shape[-2] * x.shape[-1],), ("heads",)).reshape(x.shape[-2:])

        return ops.layer_norm(x, each("scale", 1.0), each("bias", 0.0) if self.bias else None, self.eps)
