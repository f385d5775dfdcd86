"""A diagonal state space for each channel: what S4D, DSS, GSS, BiGS and H3 hold."""

import math
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from effllm import ops
from effllm.nn.init import Fill, Normal
from effllm.nn.linear import parameter, wide_parameter
from effllm.nn.mixer import Mixer, at_least
from effllm.nn.recurrent import Documents
from effllm.nn.spectrum import Spectrum
from effllm.ops.broadcast import to_last_axes


@dataclass(frozen=True)
class LogStep:
    """log of a step drawn log-evenly from least to most."""

    least: float
    most: float

    def __call__(self, key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, math.log(self.least), math.log(self.most))


@dataclass(frozen=True)
class Rows:
    """The same numbers in every row."""

    values: tuple[float, ...]

    def __call__(self, key, shape, dtype=jnp.float32):
        return jnp.broadcast_to(jnp.asarray(np.array(self.values), dtype), shape)


def check_states(mixer: Mixer) -> None:
    """Raise ValueError where a mixer's `states` are below 1 or its `step` is no range of discretisation steps."""
    at_least(mixer, 1, "states")
    if not 0 < mixer.step[0] <= mixer.step[1]:
        raise ValueError(f"{type(mixer).__name__}: step={mixer.step} must be (least, most) with 0 < least ≤ most: a step of the time that the state fades in")


class DiagonalSSM(nn.Module):
    """ssm(x_btd, documents, start=None) -> (y_btd, last): y = SSM(x) + D ⊙ x with h' = diag(λ) h + x, y = Re(C h), discretised with step Δ of each channel.

    λ (D, N) = −exp(·) + i·(·) starts at `spectrum`, log Δ uniform in log `step`. "zoh" has Ā = exp(Δλ), B̄ = (Ā − 1)/λ; "bilinear" has
    Ā = (1 + Δλ/2)/(1 − Δλ/2), B̄ = Δ/(1 − Δλ/2) (Gu et al. 2022, arXiv 2206.11893). Each λ stands for a conjugate pair: y is twice the real part.
    `normal_length` L divides B̄ by exp(LΔλ) − 1, the softmax over L taps of DSS (Gupta et al. 2022, arXiv 2203.14343). State N complex numbers for
    each channel; time O(T·D·(chunk + N)).
    """

    states: int
    spectrum: Spectrum
    step: tuple[float, float]
    method: Literal["zoh", "bilinear"] = "zoh"
    normal_length: int | None = None
    axis: str | None = None
    implementation: str | None = None

    def init_memory(self, batch: int, width: int, dtype) -> jax.Array:
        """The state before the first token."""
        return jnp.zeros((batch, width, self.states), jnp.promote_types(dtype, jnp.complex64))

    def flops(self, length: int, width: int) -> float:
        """Forward FLOPs per token: in-chunk taps, into and out of the states."""
        return width * (min(length, 64) + 8.0 * self.states)

    @nn.compact
    def __call__(self, x_btd: jax.Array, now: Documents, start: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
        width, start_n = x_btd.shape[-1], self.spectrum(self.states)
        shape, axes = (width, self.states), (self.axis, None)
        log_real_dn = wide_parameter(self, "log_real", Rows(tuple(np.log(-start_n.real).tolist())), shape, axes)
        imag_dn = wide_parameter(self, "imag", Rows(tuple(start_n.imag.tolist())), shape, axes)
        log_step_d = wide_parameter(self, "log_step", LogStep(*self.step), (width,), (self.axis,))
        c_dn = jax.lax.complex(*(wide_parameter(self, f"c_{part}", Normal(math.sqrt(0.5)), shape, axes) for part in ("real", "imag")))
        skip_d = parameter(self, "skip", Fill(1.0), (width,), (self.axis,))
        lambda_dn, step_d1 = jax.lax.complex(-jnp.exp(log_real_dn), imag_dn), jnp.exp(log_step_d)[:, None]
        if self.method == "zoh":
            a_dn = jnp.exp(lambda_dn * step_d1)
            b_dn = (a_dn - 1) / lambda_dn
        else:
            half_dn = lambda_dn * step_d1 / 2
            a_dn, b_dn = (1 + half_dn) / (1 - half_dn), step_d1 / (1 - half_dn)
        if self.normal_length is not None:
            b_dn = b_dn / (jnp.exp(lambda_dn * step_d1 * self.normal_length) - 1)
        y_btd, last_bdn = ops.ssm(x_btd, a_dn, b_dn, 2 * c_dn, start, real_bt=now.real_bt, reset_bt=now.reset_bt, implementation=self.implementation)
        return (y_btd + to_last_axes(skip_d, x_btd.shape) * x_btd).astype(x_btd.dtype), last_bdn
