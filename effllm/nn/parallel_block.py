"""Mixer and feed-forward layer side by side."""

from flax import linen as nn

from effllm.nn.block import Block
from effllm.nn.rebuild import adopt


class ParallelBlock(Block):
    """x + mixer(norm(x)) + ffn(norm'(x)): both branches read the same input, so that their products run together (GPT-J, Wang & Komatsuzaki 2021; PaLM, arXiv 2204.02311 §2).

    `shared_norm` normalises once for both (GPT-J, Phi), else each branch has its own (GPT-NeoX, arXiv 2204.06745).
    """

    shared_norm: bool = True

    @nn.compact
    def __call__(self, x_btd, *, positions, segment_ids, state=None):
        normed_btd = adopt(self, self.norm, "mixer_norm")(x_btd)
        y_btd, state = self.mixer(normed_btd, positions=positions, segment_ids=segment_ids, state=state)
        if self.ffn is not None:
            y_btd = y_btd + self.ffn(normed_btd if self.shared_norm else adopt(self, self.norm, "ffn_norm")(x_btd))
        return self.residual(x_btd, y_btd), state
