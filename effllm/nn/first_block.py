"""The first block of a model that normalises its embeddings."""

from flax import linen as nn

from effllm.nn.block import Block
from effllm.nn.rebuild import adopt


class FirstBlock(Block):
    """x + mixer(x), then x + ffn(norm(x)): the mixer reads embeddings that were just normalised, and no second norm (ModernBERT, Warner et al. 2024, arXiv 2412.13663)."""

    @nn.compact
    def __call__(self, x_btd, *, positions, segment_ids, state=None):
        y_btd, state = self.mixer(x_btd, positions=positions, segment_ids=segment_ids, state=state)
        x_btd = self.residual(x_btd, y_btd)
        if self.ffn is not None:
            x_btd = self.residual(x_btd, self.ffn(adopt(self, self.norm, "ffn_norm")(x_btd)))
        return x_btd, state
