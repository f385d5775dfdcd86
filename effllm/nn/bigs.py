"""BiGS: two state spaces, one from each end, in a gate."""

from typing import ClassVar

from flax import linen as nn

from effllm.nn.bidirectional import flip, refuse_state
from effllm.nn.ffn import gelu
from effllm.nn.init import FanIn, Initializer
from effllm.nn.linear import Linear
from effllm.nn.mixer import Mixer, at_least
from effllm.nn.recurrent import documents
from effllm.nn.spectrum import HiPPO, Spectrum
from effllm.nn.state_space import DiagonalSSM, check_states
from effllm.shard import shard


class BiGS(Mixer):
    """W_o(gelu(W_u(U₁ ⊗ U₂)) ⊗ V), V = gelu(W_v x), U₁ = W₁ SSM(gelu(W_f x)), U₂ = W₂ flip(SSM(flip(gelu(W_b x)))): bidirectional and pretrained
    without attention (Wang et al. 2022, arXiv 2212.10544). V has `hidden` channels (None: three times the width); the state spaces are S4D's.

    Training O(T·D·(F + D + 64 + N)); sees both sides, so keeps no state. Raises ValueError for states below 1 and a step that is not positive.
    """

    hidden: int | None = None
    states: int = 32
    spectrum: Spectrum = HiPPO()
    step: tuple[float, float] = (0.001, 0.1)
    output_init: Initializer = FanIn()
    implementation: str | None = None
    causal: ClassVar = False

    def ssm(self):
        check_states(self)
        return DiagonalSSM(self.states, self.spectrum, self.step, axis="hidden", implementation=self.implementation, parent=None)

    def flops(self, length, width):
        return 2 * self.ssm().flops(length, width) + width

    @nn.compact
    def __call__(self, x_btd, *, positions, segment_ids, state=None):
        refuse_state(self, state)
        at_least(self, 1, "hidden")
        width = x_btd.shape[-1]
        hidden = 3 * width if self.hidden is None else self.hidden

        def project(name, size, axes=("width", "hidden")):
            return lambda x: shard(Linear(size, axes, name=name)(x), "batch", "length", axes[1])

        v_btf = gelu(project("gate", hidden)(x_btd))
        forward_btd, _ = self.ssm().clone(parent=self, name="forward_ssm")(gelu(project("forward", width)(x_btd)), documents(segment_ids, None, x_btd.shape[:2]))
        back_btd, _ = self.ssm().clone(parent=self, name="backward_ssm")(flip(gelu(project("backward", width)(x_btd))), documents(flip(segment_ids), None))
        read = "hidden", None
        u_btd = Linear(width, read, name="read_forward")(forward_btd) * Linear(width, read, name="read_backward")(flip(back_btd))
        y_btf = gelu(project("join", hidden)(u_btd)) * v_btf
        return Linear(width, ("hidden", "width"), False, self.output_init, name="output")(y_btf), None
