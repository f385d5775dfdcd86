"""S4: a structured state space whose matrix is diagonal plus low-rank, started at HiPPO."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from effllm import ops
from effllm.nn.ffn import gelu
from effllm.nn.init import Fill, FanIn, Initializer, Normal
from effllm.nn.linear import Linear, parameter, wide_parameter
from effllm.nn.mixer import Mixer
from effllm.nn.recurrent import RecurrentState, documents
from effllm.nn.spectrum import hippo_dplr
from effllm.nn.state_space import LogStep, Rows, check_states


class S4(Mixer):
    """W_o gelu(SSM(x) + D ⊙ x) with h' = A h + B x, y = Re(C h) for each channel, A = diag(Λ) − P P* (Gu et al. 2021, arXiv 2111.00396).

    Λ, P, B start at the normal-plus-low-rank form of HiPPO-LegS with N = `states`; Re Λ < 0 by its parametrisation, so that A is stable (Goel et al.
    2022, arXiv 2202.09729). Discretised by the bilinear rule with a step of each channel, the inverse by Woodbury's identity:
    Ā = (I − ΔA/2)⁻¹(I + ΔA/2), B̄ = (I − ΔA/2)⁻¹ Δ B. The paper makes all T taps from a Cauchy kernel and convolves by FFT; here chunks of 64 taps are
    made by the recurrence and the state goes from chunk to chunk, the same sum.

    Training O(T·D·(64 + N + N²/64)), beside D·N²·(64 + 6·N) a call for the taps and Ā⁶⁴, and W_o's D²; a token alone costs
    O(D·N²), decoding state D·N complex numbers. Raises ValueError for states below 1 and a step that is not positive.
    """

    states: int = 16
    step: tuple[float, float] = (0.001, 0.1)
    output_init: Initializer = FanIn()
    implementation: str | None = None

    def init_state(self, batch, length, width, dtype):
        check_states(self)
        return RecurrentState.empty(batch, jnp.zeros((batch, width, self.states), jnp.promote_types(dtype, jnp.complex64)))

    def flops(self, length, width):
        return width * (min(length, 64) + 8.0 * self.states + 8.0 * self.states**2 / 64)

    def discrete(self, width: int) -> tuple[jax.Array, jax.Array, jax.Array]:
        """(Ā (D, N, N), B̄ (D, N), C (D, N))."""
        lambda_n, p_n, b_n = hippo_dplr(self.states)
        shape = width, self.states

        def pair(name, start_n):
            starts = {"real": start_n.real, "imag": start_n.imag}
            return jax.lax.complex(*(wide_parameter(self, f"{name}_{part}", Rows(tuple(v.tolist())), shape, (None, None)) for part, v in starts.items()))

        log_real_dn = wide_parameter(self, "log_real", Rows(tuple(np.log(-lambda_n.real).tolist())), shape, (None, None))
        imag_dn = wide_parameter(self, "imag", Rows(tuple(lambda_n.imag.tolist())), shape, (None, None))
        p_dn, b_dn = pair("p", p_n), pair("b", b_n)
        c_dn = jax.lax.complex(*(wide_parameter(self, f"c_{part}", Normal(math.sqrt(0.5)), shape, (None, None)) for part in ("real", "imag")))
        half_d1 = jnp.exp(wide_parameter(self, "log_step", LogStep(*self.step), (width,), (None,)))[:, None] / 2
        lambda_dn = jax.lax.complex(-jnp.exp(log_real_dn), imag_dn)
        # (I − Δ/2 A)⁻¹ = E − Δ/2 E P P* E / (1 + Δ/2 P* E P), E = (I − Δ/2 Λ)⁻¹.
        e_dn = 1 / (1 - half_d1 * lambda_dn)
        share_d1 = half_d1 / (1 + half_d1 * jnp.sum(p_dn.conj() * e_dn * p_dn, axis=-1, keepdims=True))

        def outer(x_dn, y_dn):
            return x_dn[:, :, None] * y_dn[:, None]

        eye_dnn = jnp.eye(self.states)[None]
        inverse_dnn = eye_dnn * e_dn[..., None] - outer(share_d1 * e_dn * p_dn, p_dn.conj() * e_dn)
        # I + Δ/2 A is 2 I less what was inverted.
        return 2 * inverse_dnn - eye_dnn, jnp.einsum("dnm,dm->dn", inverse_dnn, 2 * half_d1 * b_dn), c_dn

    @nn.compact
    def __call__(self, x_btd, *, positions, segment_ids, state=None):
        check_states(self)
        width, now = x_btd.shape[-1], documents(segment_ids, state, x_btd.shape[:2])
        y_btd, last_bdn = ops.ssm(
            x_btd, *self.discrete(width), None if state is None else state.memory,
            real_bt=now.real_bt, reset_bt=now.reset_bt, implementation=self.implementation,
        )  # fmt: skip
        y_btd = (y_btd + parameter(self, "skip", Fill(1.0), (width,), (None,)) * x_btd).astype(x_btd.dtype)
        y_btd = Linear(width, (None, "width"), False, self.output_init, name="output")(gelu(y_btd))
        return y_btd, None if state is None else RecurrentState(last_bdn, (), now.last_b)
