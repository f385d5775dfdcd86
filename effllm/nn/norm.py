"""Normalisation layers."""

import jax
from flax import linen as nn

from effllm import ops
from effllm.nn.init import Fill
from effllm.nn.linear import parameter


class Norm(nn.Module):
    """Base of all normalisations over the last axis: `norm(x) -> x`, in x's dtype."""


class RMSNorm(Norm):
    """x / rms(x) · scale (Zhang & Sennrich 2019, arXiv 1910.07467)."""

    eps: float = 1e-6

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return ops.rms_norm(x, parameter(self, "scale", Fill(1.0), x.shape[-1:], (None,)), self.eps)


class LayerNorm(Norm):
    """(x − mean) / std · scale + bias (Ba et al. 2016, arXiv 1607.06450)."""

    eps: float = 1e-5
    bias: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = parameter(self, "scale", Fill(1.0), x.shape[-1:], (None,))
        bias = parameter(self, "bias", Fill(0.0), x.shape[-1:], (None,)) if self.bias else None
        return ops.layer_norm(x, scale, bias, self.eps)
