"""The decoder-only language model."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import struct

from effllm.nn.input_position import InputPosition
from effllm.nn.language_model import LanguageModel
from effllm.nn.norm import Norm
from effllm.nn.rebuild import rebuild
from effllm.shard import shard


class DecoderState(struct.PyTreeNode):
    """What decoding carries: tokens seen by each row, and the mixers' states with a leading layer axis."""

    length_b: jax.Array
    blocks: tuple[Any, ...]


class DecoderLM(LanguageModel):
    """A decoder: a language model (see the base for its fields) in which no token sees a later one, so that it can generate.

    model.apply({"params": p}, tokens_bt, positions=, segment_ids=, state=) -> (logits_btv float32, state). A state comes from
    `model.init_state(batch, length)`; without one nothing is kept. Positions that are not given count the row's tokens, from the state's length on where
    there is one; padding takes none.

    Before the blocks the embeddings are multiplied by `embedding_scale` (Gemma: √width), encoded by `input_position` (GPT-2: Learned) and
    normalised by `embedding_norm` (BLOOM); None leaves a part out.

    Raises ValueError for a depth that the pattern does not divide, for a mixer that is not causal, for a text or a state longer than
    input_position or trained_length, for a row without a token, and for a state of another batch size.
    """

    embedding_scale: float | None = None
    input_position: InputPosition | None = None
    embedding_norm: Norm | None = None
    decodes: ClassVar[bool] = True

    def validate(self) -> None:
        super().validate()
        if self.tied and self.head_bias:
            raise ValueError("DecoderLM: head_bias=True needs tied=False, a tied head has no bias")
        for block in self.blocks:
            if not block.mixer.causal:
                raise ValueError(f"DecoderLM: {type(block.mixer).__name__} is not causal, a decoder would see the future; use it in EncoderLM")

    def setup(self):
        super().setup()
        if self.input_position is not None:
            self.embed_position = rebuild(self.input_position)
        if self.embedding_norm is not None:
            self.embed_norm = rebuild(self.embedding_norm)

    def embedded(self, tokens_bt, positions, segment_ids):
        """What the first block reads, (B, T, D)."""
        x_btd = self.embed(tokens_bt, jnp.dtype(self.dtype))
        x_btd = x_btd if self.embedding_scale is None else x_btd * self.embedding_scale
        if self.input_position is not None:
            x_btd = self.embed_position(x_btd, tokens_bt=tokens_bt, positions_bt=positions, segment_ids=segment_ids)
        x_btd = x_btd if self.embedding_norm is None else self.embed_norm(x_btd)
        return shard(x_btd, "batch", "length", "features")

    def within_limit(self, length: int) -> None:
        """Raise ValueError for a text longer than those that input_position knows or the model has learned to read."""
        super().within_limit(length)
        limit = None if self.input_position is None else self.input_position.limit
        if limit is not None and length > limit:
            name = type(self.input_position).__name__
            raise ValueError(f"DecoderLM: {length} tokens are more than the {limit} positions of input_position={name}; shorten the text or use Sinusoidal, RoPE or ALiBi")

    def check_state(self, state: Any, rows: int) -> None:
        """Raise ValueError for a state that is not this pattern's and depth's for so many rows; what is in it each mixer checks itself."""
        remedy = f"init_state(batch={rows}, …) makes one"
        if not isinstance(state, DecoderState):
            raise ValueError(f"DecoderLM: the state is a {type(state).__name__}, not a DecoderState: {remedy}")
        if len(state.length_b) != rows:
            raise ValueError(f"DecoderLM: the state holds {len(state.length_b)} rows, the tokens have {rows}: {remedy}")
        held = len(state.blocks), *{len(a) for a in jax.tree.leaves(state.blocks)}
        if held != (len(self.blocks), self.periods):
            raise ValueError(
                f"DecoderLM: the state is of (blocks in the pattern, repetitions) = {held}, this model of {len(self.blocks), self.periods}:"
                f" it is another model's state; {remedy}"
            )

    def features(self, tokens_bt, *, positions=None, segment_ids=None, state=None):
        """(hidden states (B, T, D) before the head, state)."""
        counted = positions is None and segment_ids is None
        if state is not None:
            self.check_state(state, len(tokens_bt))
        positions = self.placed(tokens_bt, positions, segment_ids, None if state is None else state.length_b)
        if counted:
            self.within_limit(tokens_bt.shape[1])
        x_btd, blocks = self.through(self.embedded(tokens_bt, positions, segment_ids), None if state is None else state.blocks, positions, segment_ids)
        if state is not None:
            written = tokens_bt.shape[1] if segment_ids is None else jnp.sum(segment_ids > 0, axis=1, dtype=jnp.int32)
            state = DecoderState(state.length_b + written, blocks)
        return self.normed(x_btd), state

    def __call__(self, tokens_bt, *, positions=None, segment_ids=None, state=None):
        x_btd, state = self.features(tokens_bt, positions=positions, segment_ids=segment_ids, state=state)
        return shard(self.logits(x_btd), "batch", "length", "vocab"), state

    def init_state(self, batch: int, length: int, dtype: Any = None) -> DecoderState:
        """An empty decoding state for rows of up to `length` tokens."""
        self.within_limit(length)
        dtype = jnp.dtype(self.dtype if dtype is None else dtype)
        states = tuple(block.mixer.init_state(batch, length, self.width, dtype) for block in self.blocks)
        stacked = jax.tree.map(lambda a: jnp.broadcast_to(a, (self.periods, *a.shape)), states)
        return DecoderState(jnp.zeros((batch,), jnp.int32), stacked)
