"""The decoder-only language model."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import struct

from effllm.nn.language_model import LanguageModel
from effllm.shard import shard


class DecoderState(struct.PyTreeNode):
    """What decoding carries: tokens seen by each row, and the mixers' states with a leading layer axis."""

    length_b: jax.Array
    blocks: tuple[Any, ...]


class DecoderLM(LanguageModel):
    """A decoder: a language model (see the base for its fields) in which no token sees a later one, so that it can generate.

    model.apply({"params": p}, tokens_bt, positions=, segment_ids=, state=) -> (logits_btv float32, state). A state comes from
    `model.init_state(batch, length)`; without one nothing is kept. Positions count from the state's length on, where there is one.

    Raises ValueError for a depth that the pattern does not divide and for a mixer that is not causal.
    """

    decodes: ClassVar[bool] = True

    def validate(self) -> None:
        super().validate()
        if self.tied and self.head_bias:
            raise ValueError("DecoderLM: head_bias=True needs tied=False, a tied head has no bias")
        for block in self.blocks:
            if not block.mixer.causal:
                raise ValueError(f"DecoderLM: {type(block.mixer).__name__} is not causal, a decoder would see the future; use it in EncoderLM")

    def features(self, tokens_bt, *, positions=None, segment_ids=None, state=None):
        """(hidden states (B, T, D) before the head, state)."""
        positions = self.placed(tokens_bt, positions, segment_ids, None if state is None else state.length_b)
        x_btd = shard(self.embed(tokens_bt, jnp.dtype(self.dtype)), "batch", "length", "features")
        x_btd, blocks = self.layers(x_btd, None if state is None else state.blocks, positions, segment_ids)
        if state is not None:
            written = tokens_bt.shape[1] if segment_ids is None else jnp.sum(segment_ids > 0, axis=1, dtype=jnp.int32)
            state = DecoderState(state.length_b + written, blocks)
        return self.normed(x_btd), state

    def __call__(self, tokens_bt, *, positions=None, segment_ids=None, state=None):
        x_btd, state = self.features(tokens_bt, positions=positions, segment_ids=segment_ids, state=state)
        return shard(self.logits(x_btd), "batch", "length", "vocab"), state

    def init_state(self, batch: int, length: int, dtype: Any = None) -> DecoderState:
        """An empty decoding state for rows of up to `length` tokens."""
        dtype = jnp.dtype(self.dtype if dtype is None else dtype)
        states = tuple(block.mixer.init_state(batch, length, self.width, dtype) for block in self.blocks)
        stacked = jax.tree.map(lambda a: jnp.broadcast_to(a, (self.periods, *a.shape)), states)
        return DecoderState(jnp.zeros((batch,), jnp.int32), stacked)
