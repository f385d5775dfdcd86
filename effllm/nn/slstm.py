"""The sLSTM of xLSTM: an LSTM with exponential gates, whose heads remember what they put out."""

from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn

from effllm.nn.decay_init import Even
from effllm.nn.heads import head_dim, split_heads
from effllm.nn.init import Fill
from effllm.nn.linear import parameter
from effllm.nn.mixer import Mixer
from effllm.nn.norm import EachHeadLayerNorm, Norm
from effllm.nn.rebuild import adopt
from effllm.nn.recurrent import Documents, RecurrentState, documents
from effllm.nn.short_conv import ShortConv

GATES = ("z", "i", "f", "o")


class Cells(NamedTuple):
    """What the cells hold, (B, H, K) each: c and n, both divided by exp(top), and the output h. n = 0 where no token has been."""

    c_bhk: jax.Array
    n_bhk: jax.Array
    top_bhk: jax.Array
    h_bhk: jax.Array

    @classmethod
    def empty(cls, batch: int, heads: int, dim: int, dtype: Any) -> "Cells":
        return cls(*(jnp.zeros((batch, heads, dim), dtype) for _ in cls._fields))


class SLSTM(Mixer):
    """c_t = f ⊙ c_{t−1} + e^ĩ ⊙ tanh(z̃), n_t = f ⊙ n_{t−1} + e^ĩ, h_t = σ(õ) ⊙ c_t / n_t, f = σ(f̃), y = norm(h), with z̃, ĩ, f̃ and õ each a map
    W x_t + R h_{t−1} + b (Beck et al. 2024, arXiv 2405.04517, §2.2); ĩ and f̃ see x behind a short convolution.

    R joins the K channels of a head only. c and n are kept divided by e^m, m_t = max(m_{t−1} + log f, ĩ), which cancels from h and has no gradient: no
    exponent is above 0. R starts at 0, forget gates between σ(3) and σ(6). As in the paper's block the normed heads are not mapped again before the
    feed-forward layer: Block(SLSTM(), SwiGLU(4/3 of the width)).

    h_{t−1} decides the gates, so that time goes step by step, in at least float32: O(T·D·(D + K)) time in T steps, O(T·D) memory; decoding state 4·D
    numbers and (W − 1)·D of the convolution. Raises ValueError where heads do not divide the width.
    """

    heads: int = 4
    norm: Norm = EachHeadLayerNorm()
    conv: ShortConv | None = ShortConv(bias=True)
    variants: ClassVar = ({"conv": None, "heads": 2},)

    def init_state(self, batch, length, width, dtype):
        cells = Cells.empty(batch, self.heads, head_dim(self, width), jnp.promote_types(dtype, jnp.float32))
        return RecurrentState.empty(batch, cells, () if self.conv is None else self.conv.init_tail(batch, width, dtype))

    def flops(self, length, width):
        return 8.0 * width * head_dim(self, width) + 20.0 * width + (0.0 if self.conv is None else self.conv.flops(width))

    @nn.compact
    def __call__(self, x_btd, *, positions, segment_ids, state=None):
        (batch, _, width), now, wide = x_btd.shape, documents(segment_ids, state, x_btd.shape[:2]), jnp.promote_types(x_btd.dtype, jnp.float32)
        dim, u_btd, tail = head_dim(self, width), x_btd, ()
        if self.conv is not None:
            u_btd, tail = adopt(self, self.conv, "short_conv")(x_btd, now.segments_bt, None if state is None else state.tails)
        biases = {"f": Even(3.0, 6.0)}

        def project(name):
            z_bthk = split_heads(u_btd if name in "if" else x_btd, self.heads, dim, name).astype(wide)
            return z_bthk + parameter(self, f"{name}_bias", biases.get(name, Fill(0.0)), (self.heads, dim), ("heads", None))

        inputs_bth4k = jnp.stack([project(name) for name in GATES], axis=3)
        r_h4kl = parameter(self, "recurrence", Fill(0.0), (self.heads, len(GATES), dim, dim), ("heads", None, None, None)).astype(wide)
        h_bthk, cells = run(inputs_bth4k, r_h4kl, Cells.empty(batch, self.heads, dim, wide) if state is None else state.memory, now)
        y_bthk = adopt(self, self.norm, "head_norm")(h_bthk.astype(x_btd.dtype))
        return rearrange(y_bthk, "b t h k -> b t (h k)"), None if state is None else RecurrentState(cells, tail, now.last_b)


def run(inputs_bth4k: jax.Array, r_h4kl: jax.Array, cells: Cells, now: Documents) -> tuple[jax.Array, Cells]:
    """(h (B, T, H, K), the cells after the last token). Raises ValueError for cells of another shape."""
    batch, _, heads, _, dim = inputs_bth4k.shape
    if cells.h_bhk.shape != (batch, heads, dim):
        raise ValueError(f"SLSTM: the state has shape {cells.h_bhk.shape}, this input needs {(batch, heads, dim)}: it is another model's state")

    def step(cells, token):
        inputs_bh4k, real_b, reset_b = token
        if reset_b is not None:
            cells = jax.tree.map(lambda x: jnp.where(reset_b[:, None, None], 0, x), cells)
        z, i, f, o = jnp.moveaxis(inputs_bh4k + jnp.einsum("bhl,hgkl->bhgk", cells.h_bhk, r_h4kl), 2, 0)
        f = jax.nn.log_sigmoid(f)
        empty = cells.n_bhk == 0
        top = jax.lax.stop_gradient(jnp.where(empty, i, jnp.maximum(cells.top_bhk + f, i)))
        kept, new = jnp.exp(jnp.where(empty, 0, cells.top_bhk + f - top)), jnp.exp(i - top)
        c, n = kept * cells.c_bhk + new * jnp.tanh(z), kept * cells.n_bhk + new
        after = Cells(c, n, top, jax.nn.sigmoid(o) * c / n)
        if real_b is not None:
            after = jax.tree.map(lambda new, old: jnp.where(real_b[:, None, None], new, old), after, cells)
        return after, after.h_bhk

    cells, h_tbhk = jax.lax.scan(step, cells, jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), (inputs_bth4k, now.real_bt, now.reset_bt)))
    return jnp.moveaxis(h_tbhk, 0, 1), cells
