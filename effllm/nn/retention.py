"""Retention: linear attention under a fixed exponential decay a head, with rotary positions."""

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import linen as nn

from effllm import kernels
from effllm.nn.init import FanIn, Initializer
from effllm.nn.linear import Linear
from effllm.nn.mixer import Mixer, at_least
from effllm.nn.norm import Norm, RMSNorm
from effllm.nn.position import Position, RoPE
from effllm.nn.rebuild import adopt
from effllm.nn.recurrent import Project, RecurrentState, documents, head_width, linear_attention_flops, tails
from effllm.nn.short_conv import ShortConv


class Retention(Mixer):
    """o_t = Σ_{s≤t} γ^(t−s) (q_tᵀk_s/√K) v_s, y = W_o(silu(W_g x) ⊙ norm(o)): RetNet's multi-scale retention (Sun et al. 2023, arXiv 2307.08621).

    Head h forgets at γ_h = 1 − 2^(−5−h) a token; q and k turn with their positions. Values have `expand` times the keys' channels. `norm` acts on
    each head (the paper's GroupNorm, which also makes its scalings of the scores immaterial).

    Training O(T·H·(C·(K + V) + K·V)) time by chunks of C tokens; decoding state H·K·V numbers, V = expand·K.
    Raises ValueError where heads do not divide the width, for an expand below 1, and for a position with a bias.
    """

    heads: int = 4
    head_dim: int | None = None
    expand: int = 2
    position: Position = RoPE()
    norm: Norm = RMSNorm()
    conv: ShortConv | None = None
    output_init: Initializer = FanIn()
    chunk: int | None = None
    implementation: str | None = None

    def dims(self, width: int) -> tuple[int, int]:
        """(K, V) at this width."""
        at_least(self, 1, "expand")
        key = head_width(self, width)
        return key, self.expand * key

    def init_state(self, batch, length, width, dtype):
        key, value = self.dims(width)
        sums = jnp.zeros((batch, self.heads, key, value), jnp.promote_types(dtype, jnp.float32))
        widths = {"q": self.heads * key, "k": self.heads * key, "v": self.heads * value}
        return RecurrentState.empty(batch, sums, tails(self.conv, batch, dtype, **widths))

    def flops(self, length, width):
        key, value = self.dims(width)
        conv = 0.0 if self.conv is None else (2 + self.expand) * self.conv.flops(self.heads * key)
        return conv + linear_attention_flops(length, self.chunk, self.heads, key, value)

    @nn.compact
    def __call__(self, x_btd, *, positions, segment_ids, state=None):
        width, found = x_btd.shape[-1], documents(segment_ids, state, x_btd.shape[:2])
        key, value = self.dims(width)
        project = Project(self, x_btd, found, state, self.conv)
        q_bthk, k_bthk, v_bthv = project("q", self.heads, key), project("k", self.heads, key), project("v", self.heads, value)
        if self.position.bias(self.heads, key) is not None:
            raise ValueError(f"Retention: position={type(self.position).__name__} adds a bias to softmax's scores, of which there are none here; take RoPE or XPos")
        q_bthk, k_bthk = self.position.rotate(q_bthk, k_bthk, positions)
        log_decay_h = jnp.asarray(np.log1p(-(2.0 ** (-5 - np.arange(self.heads)))), jnp.float32)
        o_bthv, sums = kernels.linear_attention(
            q_bthk, k_bthk * key**-0.5, v_bthv, log_decay_h, state_bhkv=None if state is None else state.memory,
            reset_bt=found.reset_bt, real_bt=found.real_bt, chunk=self.chunk, implementation=self.implementation,
        )  # fmt: skip
        o_bthv = adopt(self, self.norm, "head_norm")(o_bthv) * jax.nn.silu(project("gate", self.heads, value, conv=False))
        y_btd = Linear(width, ("heads", "width"), init=self.output_init, name="output")(rearrange(o_bthv, "b t h v -> b t (h v)"))
        return y_btd, None if state is None else RecurrentState(sums, project.tails, found.last_b)
