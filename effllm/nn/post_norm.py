"""Where else than before a branch a block can normalise."""

from flax import linen as nn

from effllm.nn.block import Block
from effllm.nn.rebuild import adopt


class PostNormBlock(Block):
    """norm(x + mixer(x)), then norm(x + ffn(x)): the residual stream itself is normalised (Vaswani et al. 2017, arXiv 1706.03762; BERT)."""

    @nn.compact
    def __call__(self, x_btd, *, positions, segment_ids, state=None):
        y_btd, state = self.mixer(x_btd, positions=positions, segment_ids=segment_ids, state=state)
        x_btd = adopt(self, self.norm, "mixer_norm")(self.residual(x_btd, y_btd))
        if self.ffn is not None:
            x_btd = adopt(self, self.norm, "ffn_norm")(self.residual(x_btd, self.ffn(x_btd)))
        return x_btd, state


class BranchNormBlock(Block):
    """x + norm(mixer(x)), then x + norm(ffn(x)): what each branch adds is normalised (Liu et al. 2021, arXiv 2111.09883; OLMo 2, arXiv 2501.00656)."""

    @nn.compact
    def __call__(self, x_btd, *, positions, segment_ids, state=None):
        y_btd, state = self.mixer(x_btd, positions=positions, segment_ids=segment_ids, state=state)
        x_btd = self.residual(x_btd, adopt(self, self.norm, "mixer_norm")(y_btd))
        if self.ffn is not None:
            x_btd = self.residual(x_btd, adopt(self, self.norm, "ffn_norm")(self.ffn(x_btd)))
        return x_btd, state


class SandwichBlock(Block):
    """x + norm'(mixer(norm(x))), then x + norm'(ffn(norm(x))): before and after each branch (CogView, Ding et al. 2021, arXiv 2105.13290; Gemma 2, arXiv 2408.00118)."""

    @nn.compact
    def __call__(self, x_btd, *, positions, segment_ids, state=None):
        def norm(name, x_btd):
            return adopt(self, self.norm, name)(x_btd)

        y_btd, state = self.mixer(norm("mixer_norm", x_btd), positions=positions, segment_ids=segment_ids, state=state)
        x_btd = self.residual(x_btd, norm("mixer_post_norm", y_btd))
        if self.ffn is not None:
            x_btd = self.residual(x_btd, norm("ffn_post_norm", self.ffn(norm("ffn_norm", x_btd))))
        return x_btd, state
