"""Performer: softmax attention's kernel estimated by positive random features (FAVOR+)."""

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn

from effllm.nn.init import FanIn, Initializer
from effllm.nn.linear import Linear, parameter
from effllm.nn.linear_attention import normalised
from effllm.nn.mixer import Mixer, at_least
from effllm.nn.recurrent import Documents, Project, RecurrentState, documents, head_width, linear_attention_flops, tails
from effllm.nn.short_conv import ShortConv
from effllm.ops.broadcast import to_first_axes

LOWEST = -1e30  # a log that is nothing, and whose differences are finite


@dataclass(frozen=True)
class OrthogonalGaussian:
    """Rows (m, K) that are N(0, I) each and orthogonal in every block of K: estimates vary less than with independent rows."""

    def __call__(self, key, shape, dtype=jnp.float32):
        rows, width = shape
        blocks = -(-rows // width)
        turn, length = jax.random.split(key)
        q_nkk = jnp.linalg.qr(jax.random.normal(turn, (blocks, width, width)))[0]
        norms_m1 = jnp.linalg.norm(jax.random.normal(length, (rows, width)), axis=1, keepdims=True)
        return (q_nkk.reshape(-1, width)[:rows] * norms_m1).astype(dtype)


def running_max(x_bth: jax.Array, found: Documents, before_bh: jax.Array) -> jax.Array:
    """The largest x so far in each token's document, that before the call included."""

    def join(earlier, later):
        (x, reset), (y, reset_later) = earlier, later
        return jnp.where(reset_later, y, jnp.maximum(x, y)), reset | reset_later

    x_bth = x_bth if found.real_bt is None else jnp.where(found.real_bt[..., None], x_bth, LOWEST)
    reset_bt1 = jnp.zeros((*x_bth.shape[:2], 1), bool) if found.reset_bt is None else found.reset_bt[..., None]
    x_bsh = jnp.concatenate([before_bh[:, None], x_bth], axis=1)
    reset_bs1 = jnp.pad(reset_bt1, ((0, 0), (1, 0), (0, 0)))
    return jax.lax.associative_scan(join, (x_bsh, jnp.broadcast_to(reset_bs1, x_bsh.shape)), axis=1)[0]


class Performer(Mixer):
    """softmax attention by φ(x) = exp(w_i·x̃ − ‖x̃‖²/2)/√m, x̃ = x/K^¼, for m random w_i: E φ(q)ᵀφ(k) = exp(qᵀk/√K) (Choromanski et al. 2020,
    arXiv 2009.14794).

    The w_i are orthogonal in blocks of K. They are a parameter without gradient; `Performer.redraw(params, key)` draws them anew, in every layer
    its own. Features are scaled by the largest of the query and by the largest so far of the keys, which cancels in the quotient, so that
    none overflows and nothing of the future is seen. `features=None` is K·ln K rounded up to 8, the paper's order for a small error.

    Training O(T·H·(C·(m + K) + m·K)) time by chunks of C tokens; decoding state H·(m·(K + 1) + 1) numbers.
    Raises ValueError where heads do not divide the width, and for features below 1.
    """

    heads: int = 4
    head_dim: int | None = None
    features: int | None = None
    conv: ShortConv | None = None
    output_init: Initializer = FanIn()
    chunk: int | None = None
    implementation: str | None = None

    def count(self, width: int) -> int:
        """The number m of features at this width."""
        dim = head_width(self, width)
        at_least(self, 1, "features")
        return max(8, -(-int(dim * math.log(dim)) // 8) * 8) if self.features is None else self.features

    @staticmethod
    def redraw(params: Any, key: jax.Array) -> Any:
        """The parameters of a model with new random features in every Performer of it."""
        leaves, tree = jax.tree_util.tree_flatten_with_path(params)

        def draw(number, path, leaf):
            if getattr(path[-1], "key", None) != "random_features":
                return leaf
            keys = jax.random.split(jax.random.fold_in(key, number), math.prod(leaf.shape[:-2]))
            return jax.vmap(lambda k: OrthogonalGaussian()(k, leaf.shape[-2:], leaf.dtype))(keys).reshape(leaf.shape)

        return jax.tree.unflatten(tree, [draw(i, path, leaf) for i, (path, leaf) in enumerate(leaves)])

    def init_state(self, batch, length, width, dtype):
        dim, wide = head_width(self, width), jnp.promote_types(dtype, jnp.float32)
        sums = jnp.zeros((batch, self.heads, self.count(width), dim + 1), wide)
        memory = sums, jnp.full((batch, self.heads), LOWEST, wide)
        return RecurrentState.empty(batch, memory, tails(self.conv, batch, dtype, **dict.fromkeys("qkv", self.heads * dim)))

    def flops(self, length, width):
        dim, features = head_width(self, width), self.count(width)
        conv = 0.0 if self.conv is None else 3 * self.conv.flops(self.heads * dim)
        return conv + 4.0 * self.heads * features * dim + linear_attention_flops(length, self.chunk, self.heads, features, dim + 1)

    @nn.compact
    def __call__(self, x_btd, *, positions, segment_ids, state=None):
        width, found = x_btd.shape[-1], documents(segment_ids, state, x_btd.shape[:2])
        dim, wide = head_width(self, width), jnp.promote_types(x_btd.dtype, jnp.float32)
        project = Project(self, x_btd, found, state, self.conv)
        q_bthk, k_bthk, v_bthv = (project(name, self.heads, dim).astype(wide) for name in "qkv")
        w_mk = jax.lax.stop_gradient(parameter(self, "random_features", OrthogonalGaussian(), (self.count(width), dim), (None, None)))

        def logs(x_bthk):
            x_bthk = x_bthk / dim**0.25
            log_bthm = x_bthk @ w_mk.T
            return log_bthm - to_first_axes(jnp.sum(x_bthk**2, axis=-1) / 2, log_bthm.shape)

        log_q_bthm, log_k_bthm = logs(q_bthk), logs(k_bthk)
        sums_bhmv, top_bh = (None, jnp.full((x_btd.shape[0], self.heads), LOWEST, wide)) if state is None else state.memory
        tops_bsh = jax.lax.stop_gradient(running_max(log_k_bthm.max(-1), found, top_bh))
        q_bthm = jnp.exp(log_q_bthm - jax.lax.stop_gradient(log_q_bthm.max(-1, keepdims=True)))
        k_bthm = jnp.exp(jnp.minimum(log_k_bthm - tops_bsh[:, 1:, :, None], 0))
        # The sums are held in units of the largest key so far: a new largest shrinks what was there. A document that begins has nothing there.
        shrink_bth = jnp.minimum(tops_bsh[:, :-1] - tops_bsh[:, 1:], 0)
        o_bthv, sums_bhmv = normalised(
            q_bthm, k_bthm, v_bthv, shrink_bth, state_bhkv=sums_bhmv, eps=1e-18,
            reset_bt=found.reset_bt, real_bt=found.real_bt, chunk=self.chunk, implementation=self.implementation,
        )  # fmt: skip
        o_btf = rearrange(o_bthv.astype(x_btd.dtype), "b t h v -> b t (h v)")
        y_btd = Linear(width, ("heads", "width"), init=self.output_init, name="output")(o_btf)
        return y_btd, None if state is None else RecurrentState((sums_bhmv, tops_bsh[:, -1]), project.tails, found.last_b)
