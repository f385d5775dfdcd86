"""Blocks whose mixers see the values of the model's first layer."""

from flax import linen as nn

from effllm.nn.block import LinkedBlock
from effllm.nn.first_values import FirstValues, ValueMixer
from effllm.nn.rebuild import adopt
from effllm.nn.rwkv7 import RWKV7TimeMix


class ValueResidualBlock(LinkedBlock):
    """A pre-norm block whose mixer blends its values with those of the model's first such block (Zhou et al. 2024, arXiv 2410.17897; RWKV-7, Peng
    et al. 2025, arXiv 2503.14456).

    As deep tokens then keep what they were at first, memory of a token need not be carried by x alone. The mixer says how it blends; all such blocks of a
    model need values of one shape. Training keeps B·T·H·V numbers more a layer, decoding nothing.
    """

    mixer: ValueMixer = RWKV7TimeMix()

    def first_link(self, x_btd) -> FirstValues:
        return self.mixer.first_values(x_btd)

    @nn.compact
    def __call__(self, x_btd, *, positions, segment_ids, state=None, link=None):
        normed_btd = adopt(self, self.norm, "mixer_norm")(x_btd)
        y_btd, state, link = self.mixer.with_values(normed_btd, link, positions=positions, segment_ids=segment_ids, state=state)
        x_btd = self.residual(x_btd, y_btd)
        if self.ffn is not None:
            x_btd = self.residual(x_btd, self.ffn(adopt(self, self.norm, "ffn_norm")(x_btd)))
        return x_btd, state, link
