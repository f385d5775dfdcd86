"""S4 with a diagonal state matrix."""

from typing import ClassVar, Literal

from flax import linen as nn

from effllm.nn.ffn import gelu
from effllm.nn.init import FanIn, Initializer
from effllm.nn.linear import Linear
from effllm.nn.mixer import Mixer
from effllm.nn.recurrent import RecurrentState, documents
from effllm.nn.spectrum import HiPPO, Spectrum
from effllm.nn.state_space import DiagonalSSM, check_states


class S4D(Mixer):
    """W_o gelu(SSM(x) + D ⊙ x) with a diagonal complex state space for each channel (Gu et al. 2022, arXiv 2206.11893).

    `states` N conjugate pairs start at `spectrum` (HiPPO(): S4D-LegS, InverseSpectrum(): S4D-Inv, Spectrum(): S4D-Lin). See DiagonalSSM.

    Training O(T·D·(64 + N)) by chunks of 64, beside W_o's D²; decoding state D·N complex numbers. Raises ValueError for states below 1, a step
    that is not positive, and another method.
    """

    states: int = 32
    spectrum: Spectrum = HiPPO()
    step: tuple[float, float] = (0.001, 0.1)
    method: Literal["zoh", "bilinear"] = "zoh"
    output_init: Initializer = FanIn()
    implementation: str | None = None
    variants: ClassVar = ({"states": 4, "spectrum": Spectrum(), "method": "bilinear"},)

    def ssm(self):
        check_states(self)
        if self.method not in ("zoh", "bilinear"):
            raise ValueError(f"{type(self).__name__}: method={self.method!r} must be 'zoh' or 'bilinear'")
        return DiagonalSSM(self.states, self.spectrum, self.step, self.method, implementation=self.implementation, parent=None)

    def init_state(self, batch, length, width, dtype):
        return RecurrentState.empty(batch, self.ssm().init_memory(batch, width, dtype))

    def flops(self, length, width):
        return self.ssm().flops(length, width)

    @nn.compact
    def __call__(self, x_btd, *, positions, segment_ids, state=None):
        now = documents(segment_ids, state, x_btd.shape[:2])
        y_btd, last_bdn = self.ssm().clone(parent=self, name="ssm")(x_btd, now, None if state is None else state.memory)
        y_btd = Linear(x_btd.shape[-1], (None, "width"), False, self.output_init, name="output")(gelu(y_btd))
        return y_btd, None if state is None else RecurrentState(last_bdn, (), now.last_b)
