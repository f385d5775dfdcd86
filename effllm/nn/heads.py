"""Heads of a mixer: projections into them and out of them."""

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn

from effllm.nn.init import FanIn, Initializer
from effllm.nn.linear import Linear
from effllm.shard import axis_size, fits, shard


def head_dim(mixer: nn.Module, width: int) -> int:
    """width / heads of a mixer. Raises ValueError where the heads do not divide the width or the mesh's tensor axis does not divide the heads."""
    name = type(mixer).__name__
    if mixer.heads < 1 or width % mixer.heads:
        raise ValueError(f"{name}: width={width} is not a multiple of heads={mixer.heads}; change heads")
    if fits("heads", mixer.heads) is None:
        raise ValueError(f"{name}: heads={mixer.heads} is not divisible by the mesh's tensor axis of {axis_size('heads')}")
    return width // mixer.heads


def split_heads(x_btd: jax.Array, heads: int, head_dim: int, name: str, bias: bool = False) -> jax.Array:
    """(B, T, H, K): the submodule `name` of the calling module projects x into heads."""
    y_btf = Linear(heads * head_dim, ("width", "heads"), bias, name=name)(x_btd)
    return shard(rearrange(y_btf, "b t (h k) -> b t h k", h=heads), "batch", "length", "heads", None)


def merge_heads(o_bthk: jax.Array, width: int, bias: bool = False, init: Initializer = FanIn()) -> jax.Array:
    """(B, T, D): the submodule "output" of the calling module joins the heads."""
    return Linear(width, ("heads", "width"), bias, init, name="output")(rearrange(o_bthk, "b t h k -> b t (h k)"))


def nan_where(lost_bt: jax.Array, y_btd: jax.Array) -> jax.Array:
    """y with NaN for tokens that a mixer has no room for: never a wrong number."""
    return jnp.where(lost_bt[..., None], jnp.nan, y_btd)
