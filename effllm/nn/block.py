"""One layer of a model: a mixer over time, then a feed-forward layer over channels."""

from typing import Any

import jax
from flax import linen as nn

from effllm.nn.attention import Attention
from effllm.nn.ffn import FFN, SwiGLU
from effllm.nn.mixer import Mixer
from effllm.nn.norm import Norm, RMSNorm
from effllm.nn.rebuild import adopt
from effllm.shard import shard


class Block(nn.Module):
    """x + mixer(norm(x)), then x + ffn(norm(x)): the pre-norm residual block (Xiong et al. 2020, arXiv 2002.04745).

    `ffn=None` leaves the second half out. `dropout` acts on both branches where the caller gives a "dropout" key, else not.
    """

    mixer: Mixer = Attention()
    ffn: FFN | None = SwiGLU()
    norm: Norm = RMSNorm()
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x_btd: jax.Array, *, positions: jax.Array, segment_ids: jax.Array | None, state: Any = None) -> tuple[jax.Array, Any]:
        y_btd, state = self.mixer(adopt(self, self.norm, "mixer_norm")(x_btd), positions=positions, segment_ids=segment_ids, state=state)
        x_btd = self.residual(x_btd, y_btd)
        if self.ffn is not None:
            x_btd = self.residual(x_btd, self.ffn(adopt(self, self.norm, "ffn_norm")(x_btd)))
        return x_btd, state

    def flops(self, length: int, width: int) -> float:
        """Forward FLOPs per token of mixing `length` tokens, see Mixer.flops."""
        return self.mixer.flops(length, width)

    def residual(self, x_btd: jax.Array, y_btd: jax.Array) -> jax.Array:
        """x + y with dropout on the branch y."""
        y_btd = nn.Dropout(self.dropout, deterministic=not self.has_rng("dropout"))(y_btd)
        return shard(x_btd + y_btd, "batch", "length", "features")


class LinkedBlock(Block):
    """Base of blocks that see something of the linked block before them in the model, beside x: block(x, …, link=) -> (x, state, link).

    A link is arrays of one call, the same in number and shape after every linked block, and no state: `first_link` is what the first one sees.
    """

    def first_link(self, x_btd: jax.Array) -> Any:
        raise TypeError(f"{type(self).__name__} does not say what its first link is: it needs a first_link")


class Period(nn.Module):
    """The blocks of one repetition of a model's pattern, in order: ((x, link), states) from those before. Without a linked block the link is None."""

    blocks: tuple[Block, ...]

    @nn.compact
    def __call__(self, carry, state, positions, segment_ids):
        x_btd, link = carry
        states = (None,) * len(self.blocks) if state is None else state
        after = []
        for block, before in zip(self.blocks, states, strict=True):
            call = {"positions": positions, "segment_ids": segment_ids, "state": before}
            if isinstance(block, LinkedBlock):
                x_btd, new, link = block(x_btd, link=link, **call)
            else:
                x_btd, new = block(x_btd, **call)
            after.append(new)
        return (x_btd, link), None if state is None else tuple(after)
