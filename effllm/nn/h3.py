"""H3: two state spaces in the place of linear attention's sum."""

from flax import linen as nn

from effllm.nn.init import FanIn, Initializer
from effllm.nn.linear import Linear
from effllm.nn.mixer import Mixer
from effllm.nn.recurrent import RecurrentState, documents
from effllm.nn.short_conv import ShortConv
from effllm.nn.spectrum import HiPPO, Spectrum
from effllm.nn.state_space import DiagonalSSM, check_states
from effllm.shard import shard


class H3(Mixer):
    """W_o(q ⊙ SSM_diag(SSM_shift(k) ⊙ v)) with heads of one channel (Fu et al. 2022, arXiv 2212.14052).

    The shift state space remembers the last `taps` keys, a learned filter over them; the diagonal one is S4D with N = `states` conjugate pairs.

    Training O(T·D·(D + 64 + N + taps)); decoding state D·N complex numbers and a tail of (taps − 1)·D. Raises ValueError for states below 1
    and a step that is not positive.
    """

    states: int = 32
    taps: int = 4
    spectrum: Spectrum = HiPPO()
    step: tuple[float, float] = (0.001, 0.1)
    output_init: Initializer = FanIn()
    implementation: str | None = None

    def shift(self):
        return ShortConv(self.taps, None, axis="hidden", parent=None)

    def ssm(self):
        check_states(self)
        return DiagonalSSM(self.states, self.spectrum, self.step, axis="hidden", implementation=self.implementation, parent=None)

    def init_state(self, batch, length, width, dtype):
        return RecurrentState.empty(batch, self.ssm().init_memory(batch, width, dtype), self.shift().init_tail(batch, width, dtype))

    def flops(self, length, width):
        return self.ssm().flops(length, width) + self.shift().flops(width) + 2.0 * width

    @nn.compact
    def __call__(self, x_btd, *, positions, segment_ids, state=None):
        width, now = x_btd.shape[-1], documents(segment_ids, state, x_btd.shape[:2])
        q_btd, k_btd, v_btd = (shard(Linear(width, ("width", "hidden"), name=n)(x_btd), "batch", "length", "hidden") for n in "qkv")
        k_btd, tail = self.shift().clone(parent=self, name="shift")(k_btd, now.segments_bt, None if state is None else state.tails)
        y_btd, last_bdn = self.ssm().clone(parent=self, name="ssm")(k_btd * v_btd, now, None if state is None else state.memory)
        y_btd = Linear(width, ("hidden", "width"), False, self.output_init, name="output")(q_btd * y_btd)
        return y_btd, None if state is None else RecurrentState(last_bdn, tail, now.last_b)
