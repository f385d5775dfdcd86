"""Feed-forward layers: they move information along channels."""

from collections.abc import Callable

import jax
from flax import linen as nn

from effllm.nn.init import FanIn, Initializer
from effllm.nn.linear import Linear
from effllm.shard import shard


def gelu(x: jax.Array) -> jax.Array:
    """The exact GELU, x·Φ(x) (Hendrycks & Gimpel 2016, arXiv 1606.08415); flax.linen.gelu is its tanh approximation."""
    return jax.nn.gelu(x, approximate=False)


class FFN(nn.Module):
    """Base of all feed-forward layers: `ffn(x_btd) -> y_btd`, each position by itself."""


class SwiGLU(FFN):
    """y = W_down(activation(W_gate x) ⊙ W_up x) (Shazeer 2020, arXiv 2002.05202). `hidden=None` is 8/3 of the width, rounded up to 8."""

    hidden: int | None = None
    activation: Callable = nn.silu
    bias: bool = False
    output_init: Initializer = FanIn()

    def width_for(self, width: int) -> int:
        """The hidden width at this model width."""
        return -(-width * 8 // 24) * 8 if self.hidden is None else self.hidden

    @nn.compact
    def __call__(self, x_btd: jax.Array) -> jax.Array:
        width = x_btd.shape[-1]
        hidden = self.width_for(width)
        gate_btf = Linear(hidden, ("width", "hidden"), self.bias, name="gate")(x_btd)
        up_btf = Linear(hidden, ("width", "hidden"), self.bias, name="up")(x_btd)
        # Recomputed in the backward pass: cheaper than to keep every factor of the product, which XLA would do where layers are unrolled, were it free to.
        gated = jax.checkpoint(lambda gate, up: self.activation(gate) * up)
        h_btf = shard(gated(gate_btf, up_btf), "batch", "length", "hidden")
        return Linear(width, ("hidden", "width"), self.bias, self.output_init, name="down")(h_btf)


class MLP(FFN):
    """y = W_down activation(W_up x), as in GPT. `hidden=None` is four times the width."""

    hidden: int | None = None
    activation: Callable = gelu
    bias: bool = False
    output_init: Initializer = FanIn()

    def width_for(self, width: int) -> int:
        """The hidden width at this model width."""
        return 4 * width if self.hidden is None else self.hidden

    @nn.compact
    def __call__(self, x_btd: jax.Array) -> jax.Array:
        width = x_btd.shape[-1]
        h_btf = self.activation(Linear(self.width_for(width), ("width", "hidden"), self.bias, name="up")(x_btd))
        h_btf = shard(h_btf, "batch", "length", "hidden")
        return Linear(width, ("hidden", "width"), self.bias, self.output_init, name="down")(h_btf)
