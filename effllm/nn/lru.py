"""The linear recurrent unit."""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import linen as nn

from effllm import ops
from effllm.nn.init import Fill, FanIn, Initializer
from effllm.nn.linear import Linear, parameter, wide_parameter
from effllm.nn.mixer import Mixer, at_least
from effllm.nn.recurrent import RecurrentState, documents
from effllm.ops.broadcast import to_last_axes
from effllm.shard import shard


def complex_memory(batch: int, states: int, dtype) -> jax.Array:
    """Zeros (B, N) in the complex type of `dtype`, complex64 at least."""
    return jnp.zeros((batch, states), jnp.promote_types(dtype, jnp.complex64))


@dataclass(frozen=True)
class RingRadius:
    """ν = log(−log|λ|) for |λ|² uniform between least² and most²: uniform on a ring of the complex plane."""

    least: float
    most: float

    def __call__(self, key, shape, dtype=jnp.float32):
        return jnp.log(-0.5 * jnp.log(jax.random.uniform(key, shape, dtype, self.least**2, self.most**2)))


@dataclass(frozen=True)
class LogPhase:
    """log of an angle uniform in (0, most)."""

    most: float

    def __call__(self, key, shape, dtype=jnp.float32):
        return jnp.log(self.most * jax.random.uniform(key, shape, dtype, 1e-6, 1.0))


@dataclass(frozen=True)
class Normalising:
    """log √(1 − |λ|²) of the λ with these ν."""

    radius_n: jax.Array

    def __call__(self, key, shape, dtype=jnp.float32):
        return 0.5 * jnp.log(-jnp.expm1(-2 * jnp.exp(self.radius_n))).astype(dtype)


class LRU(Mixer):
    """h_t = λ ⊙ h_{t−1} + γ ⊙ B x_t, y_t = Re(C h_t) + D ⊙ x_t, with complex λ = exp(−exp(ν) + i exp(θ)) (Orvieto et al. 2023, arXiv 2303.06349).

    N = `states` complex numbers (None: the width) mix all channels; |λ| starts on the ring `decay`, angles below `phase`. γ starts at √(1 − |λ|²) of each number and is
    then learned, as log γ: in long texts of independent inputs of variance 1 real and imaginary parts of each h have variance 1 too, and so y. B and C are the
    real kernels (D, 2N) and (2N, D): real parts first, and −Im C; B starts √2 times as large as the authors', whose h have variance 1 in both parts together.

    Training O(T·D·N) time, O(T·N) memory; decoding state N complex numbers. Raises ValueError for decays outside 0 ≤ least < most < 1 and a phase
    outside (0, 2π].
    """

    states: int | None = None
    decay: tuple[float, float] = (0.9, 0.999)
    phase: float = math.tau
    output_init: Initializer = FanIn()
    implementation: str | None = None

    def states_for(self, width: int) -> int:
        """N at this width."""
        at_least(self, 1, "states")
        if not 0 <= self.decay[0] < self.decay[1] < 1:
            raise ValueError(f"LRU: decay={self.decay} must be (least, most) with 0 ≤ least < most < 1: at 1 and beyond the state does not fade")
        if not 0 < self.phase <= math.tau:
            raise ValueError(f"LRU: phase={self.phase} must be an angle in (0, 2π]")
        return width if self.states is None else self.states

    def init_state(self, batch, length, width, dtype):
        return RecurrentState.empty(batch, complex_memory(batch, self.states_for(width), dtype))

    def flops(self, length, width):
        return 14.0 * self.states_for(width)  # a complex product and sum, and γ

    @nn.compact
    def __call__(self, x_btd, *, positions, segment_ids, state=None):
        width, states = x_btd.shape[-1], self.states_for(x_btd.shape[-1])
        now = documents(segment_ids, state, x_btd.shape[:2])
        radius_n = wide_parameter(self, "radius", RingRadius(*self.decay), (states,), ("hidden",))
        phase_n = wide_parameter(self, "phase", LogPhase(self.phase), (states,), ("hidden",))
        log_gamma_n = wide_parameter(self, "log_gamma", Normalising(radius_n), (states,), ("hidden",))
        skip_d = parameter(self, "skip", Fill(1.0), (width,), (None,))
        lambda_n = jnp.exp(jax.lax.complex(-jnp.exp(radius_n), jnp.exp(phase_n)))
        u_btm = shard(Linear(2 * states, ("width", "hidden"), name="input")(x_btd), "batch", "length", "hidden")
        wide = jnp.promote_types(u_btm.dtype, jnp.float32)
        u_btn = jax.lax.complex(*jnp.split(u_btm.astype(wide), 2, axis=-1)) * jnp.exp(log_gamma_n)
        h_btn, last_bn = ops.linear_recurrence(
            lambda_n, u_btn, None if state is None else state.memory, real_bt=now.real_bt, reset_bt=now.reset_bt, implementation=self.implementation
        )
        h_btm = jnp.concatenate([h_btn.real, h_btn.imag], axis=-1).astype(x_btd.dtype)
        y_btd = Linear(width, ("hidden", "width"), False, self.output_init, name="output")(h_btm) + to_last_axes(skip_d.astype(x_btd.dtype), x_btd.shape) * x_btd
        return y_btd, None if state is None else RecurrentState(last_bn, (), now.last_b)
