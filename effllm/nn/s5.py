"""S5: one state space with all channels as inputs."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from effllm import ops
from effllm.nn.ffn import gelu
from effllm.nn.init import Fill, FanIn, Initializer
from effllm.nn.linear import Linear, parameter, wide_parameter
from effllm.nn.lru import complex_memory
from effllm.nn.mixer import Mixer
from effllm.nn.recurrent import RecurrentState, documents
from effllm.nn.spectrum import HiPPO, Spectrum
from effllm.nn.state_space import LogStep, Rows, check_states
from effllm.ops.broadcast import to_last_axes
from effllm.shard import shard


class S5(Mixer):
    """h' = diag(λ) h + B x, y = 2 Re(C h) + D ⊙ x with N = `states` conjugate pairs for all channels together (Smith et al. 2022, arXiv 2208.04933).

    Discretised by ā = exp(λΔ), B̄ = (ā − 1)/λ · B with a step Δ of each state; λ starts at `spectrum`. Then z = gelu(y), output z ⊙ σ(W z), as in the
    paper. B and C are the real kernels (D, 2N) and (2N, D). Runs as a parallel scan of the element-wise recurrence.

    Training O(T·D·(N + D)) time, O(T·(N + D)) memory; decoding state N complex numbers. Raises ValueError for states below 1 and a step that is not positive.
    """

    states: int = 32
    spectrum: Spectrum = HiPPO()
    step: tuple[float, float] = (0.001, 0.1)
    output_init: Initializer = FanIn()
    implementation: str | None = None

    def init_state(self, batch, length, width, dtype):
        check_states(self)
        return RecurrentState.empty(batch, complex_memory(batch, self.states, dtype))

    def flops(self, length, width):
        return 14.0 * self.states

    @nn.compact
    def __call__(self, x_btd, *, positions, segment_ids, state=None):
        check_states(self)
        width, now = x_btd.shape[-1], documents(segment_ids, state, x_btd.shape[:2])
        start_n = self.spectrum(self.states)
        log_real_n = wide_parameter(self, "log_real", Rows(tuple(np.log(-start_n.real).tolist())), (self.states,), ("hidden",))
        imag_n = wide_parameter(self, "imag", Rows(tuple(start_n.imag.tolist())), (self.states,), ("hidden",))
        step_n = jnp.exp(wide_parameter(self, "log_step", LogStep(*self.step), (self.states,), ("hidden",)))
        lambda_n = jax.lax.complex(-jnp.exp(log_real_n), imag_n)
        decay_n = jnp.exp(lambda_n * step_n)
        u_btm = shard(Linear(2 * self.states, ("width", "hidden"), name="input")(x_btd), "batch", "length", "hidden")
        u_btn = jax.lax.complex(*jnp.split(u_btm.astype(jnp.promote_types(u_btm.dtype, jnp.float32)), 2, axis=-1))
        h_btn, last_bn = ops.linear_recurrence(
            decay_n, u_btn * (decay_n - 1) / lambda_n, None if state is None else state.memory,
            real_bt=now.real_bt, reset_bt=now.reset_bt, implementation=self.implementation,
        )  # fmt: skip
        h_btm = jnp.concatenate([h_btn.real, h_btn.imag], axis=-1).astype(x_btd.dtype)
        skip_d = parameter(self, "skip", Fill(1.0), (width,), (None,)).astype(x_btd.dtype)
        z_btd = gelu(2 * Linear(width, ("hidden", "width"), False, name="read")(h_btm) + to_last_axes(skip_d, x_btd.shape) * x_btd)
        y_btd = z_btd * nn.sigmoid(Linear(width, ("width", None), False, self.output_init, name="output")(z_btd))
        return y_btd, None if state is None else RecurrentState(last_bn, (), now.last_b)
