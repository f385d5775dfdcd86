"""Gated state spaces: a small state space in a wide gate."""

from flax import linen as nn

from effllm.nn.ffn import gelu
from effllm.nn.init import FanIn, Initializer
from effllm.nn.linear import Linear
from effllm.nn.mixer import Mixer, at_least
from effllm.nn.recurrent import RecurrentState, documents
from effllm.nn.spectrum import HiPPO, Spectrum
from effllm.nn.state_space import DiagonalSSM, check_states
from effllm.shard import shard


class GSS(Mixer):
    """W_o(W_y SSM(gelu(W_u x)) ⊙ gelu(W_v x)): DSS over E = `inner` channels (None: a quarter of the width) gates F = `hidden` (None: four times it)
    (Mehta et al. 2022, arXiv 2206.13947).

    Training O(T·(D·F + E·(D + F + 64 + N))); decoding state E·N complex numbers. Raises ValueError for states below 1 and a step that is not positive.
    """

    inner: int | None = None
    hidden: int | None = None
    states: int = 32
    spectrum: Spectrum = HiPPO()
    step: tuple[float, float] = (0.001, 0.1)
    output_init: Initializer = FanIn()
    implementation: str | None = None

    def ssm(self):
        check_states(self)
        return DiagonalSSM(self.states, self.spectrum, self.step, axis="hidden", implementation=self.implementation, parent=None)

    def widths_for(self, width: int) -> tuple[int, int]:
        """(E, F) at this width."""
        at_least(self, 1, "inner", "hidden")
        return max(1, width // 4) if self.inner is None else self.inner, 4 * width if self.hidden is None else self.hidden

    def init_state(self, batch, length, width, dtype):
        return RecurrentState.empty(batch, self.ssm().init_memory(batch, self.widths_for(width)[0], dtype))

    def flops(self, length, width):
        inner, hidden = self.widths_for(width)
        return self.ssm().flops(length, inner) + hidden

    @nn.compact
    def __call__(self, x_btd, *, positions, segment_ids, state=None):
        inner, hidden = self.widths_for(x_btd.shape[-1])
        now = documents(segment_ids, state, x_btd.shape[:2])
        u_bte = shard(gelu(Linear(inner, ("width", "hidden"), name="input")(x_btd)), "batch", "length", "hidden")
        v_btf = shard(gelu(Linear(hidden, ("width", "hidden"), name="gate")(x_btd)), "batch", "length", "hidden")
        y_bte, last_ben = self.ssm().clone(parent=self, name="ssm")(u_bte, now, None if state is None else state.memory)
        y_btf = Linear(hidden, (None, "hidden"), name="read")(y_bte) * v_btf
        y_btd = Linear(x_btd.shape[-1], ("hidden", "width"), False, self.output_init, name="output")(y_btf)
        return y_btd, None if state is None else RecurrentState(last_ben, (), now.last_b)
