"""The encoder language model: every token sees both sides."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from effllm.nn.attention import Attention
from effllm.nn.block import Block
from effllm.nn.disentangled_attention import DistanceEmbedding
from effllm.nn.everywhere import everywhere
from effllm.nn.ffn import gelu
from effllm.nn.input_position import InputPosition
from effllm.nn.language_model import Embedding, LanguageModel
from effllm.nn.linear import Linear
from effllm.nn.norm import LayerNorm, Norm
from effllm.nn.rebuild import adopt, rebuild
from effllm.shard import shard


class HeadTransform(nn.Module):
    """norm(activation(W x + b)), which BERT puts before its vocabulary (Devlin et al. 2019, arXiv 1810.04805)."""

    activation: Callable = gelu
    norm: Norm = LayerNorm()
    bias: bool = True

    @nn.compact
    def __call__(self, x_btd):
        width = x_btd.shape[-1]
        return adopt(self, self.norm, "dense_norm")(self.activation(Linear(width, ("width", None), self.bias, name="dense")(x_btd)))


class EncoderLM(LanguageModel):
    """An encoder: a language model (see the base for its fields) whose mixers may see both sides; it fills masks and cannot generate.

    model.apply({"params": p}, tokens_bt, positions=, segment_ids=, types=) -> (logits_btv float32, None). Before the blocks, x = token embedding
    + a learned vector for each of `types` kinds of token (types (B, T), default 0), encoded by `input_position` (BERT: Learned), normalised by
    `embedding_norm`, and mapped linearly where `project_embedding`; 0 or None leaves a part out. `transform` stands before the head, and
    the features end after it. `distances` are embeddings that DisentangledAttention reads in every block. As in BERT (Devlin et al. 2019, arXiv 1810.04805) and FNet (Lee-Thorp et al. 2021, arXiv 2105.03824).

    Raises ValueError for a depth that the pattern does not divide, for a text longer than input_position or trained_length, and for types in a model without.
    """

    blocks: tuple[Block, ...] = (Block(Attention(bidirectional=True)),)
    input_position: InputPosition | None = None
    types: int = 0
    embedding_norm: Norm | None = None
    project_embedding: bool = False
    transform: HeadTransform | None = None
    distances: DistanceEmbedding | None = None

    def validate(self) -> None:
        super().validate()
        if self.types < 0:
            raise ValueError(f"EncoderLM: types={self.types} must not be negative; 0 leaves them out")

    def setup(self):
        super().setup()
        if self.input_position is not None:
            self.embed_position = rebuild(self.input_position)
        if self.types:
            self.embed_type = Embedding(self.types, self.width, self.embedding_init, None)
        if self.embedding_norm is not None:
            self.embed_norm = rebuild(self.embedding_norm)
        if self.project_embedding:
            self.embed_projection = Linear(self.width, ("width", None), bias=True)
        if self.transform is not None:
            self.head_transform = rebuild(self.transform)
        if self.distances is not None:
            self.embed_distance = rebuild(self.distances)

    def embedded(self, tokens_bt, positions, segment_ids, types):
        """What the first block reads, (B, T, D)."""
        dtype = jnp.dtype(self.dtype)
        x_btd = self.embed(tokens_bt, dtype)
        if types is not None and not self.types:
            raise ValueError("EncoderLM: types are given, but the model has types=0 of them")
        if self.types:
            x_btd = x_btd + self.embed_type(jnp.zeros_like(tokens_bt) if types is None else types, dtype)
        if self.input_position is not None:
            x_btd = self.embed_position(x_btd, tokens_bt=tokens_bt, positions_bt=positions, segment_ids=segment_ids)
        x_btd = x_btd if self.embedding_norm is None else self.embed_norm(x_btd)
        x_btd = self.embed_projection(x_btd) if self.project_embedding else x_btd
        return shard(x_btd, "batch", "length", "features")

    def within_limit(self, length: int) -> None:
        """Raise ValueError for a text longer than those that input_position knows or the model has learned to read."""
        super().within_limit(length)
        limit = None if self.input_position is None else self.input_position.limit
        if limit is not None and length > limit:
            raise ValueError(f"EncoderLM: {length} tokens are more than the {limit} positions of its input_position; shorten the text")

    def features(self, tokens_bt, *, positions=None, segment_ids=None, types=None):
        """(hidden states (B, T, D) before the head, None)."""
        if positions is None and segment_ids is None:
            self.within_limit(tokens_bt.shape[1])
        positions = self.placed(tokens_bt, positions, segment_ids)
        x_btd = self.embedded(tokens_bt, positions, segment_ids, types)
        with everywhere(None if self.distances is None else self.embed_distance(self.width, x_btd.dtype)):
            x_btd, _ = self.through(x_btd, None, positions, segment_ids)
        x_btd = self.normed(x_btd)
        return x_btd if self.transform is None else self.head_transform(x_btd), None

    def __call__(self, tokens_bt, *, positions=None, segment_ids=None, types=None):
        x_btd, _ = self.features(tokens_bt, positions=positions, segment_ids=segment_ids, types=types)
        return shard(self.logits(x_btd), "batch", "length", "vocab"), None

    def init_state(self, batch: int, length: int, dtype: Any = None):
        raise ValueError("EncoderLM sees both sides of a token and keeps no state: it cannot generate; use DecoderLM")
