"""funnel: layers over fewer and fewer tokens and a decoder over all, one block of ours."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from effllm.interop.families.settings import activation, activation_name, only, renamed
from effllm.interop.layout import Layout, Shape, Tensor, embedding, linear, norm
from effllm.nn import MLP, EncoderLM, FunnelAttention, FunnelBlock, LayerNorm

TYPES = ("funnel",)
PREFIX = "funnel."
IGNORED = ("lm_head.weight", "discriminator_predictions.*")
TOP = (*embedding("funnel.embeddings.word_embeddings"), *norm("funnel.embeddings.layer_norm", "embed_norm"), Tensor("lm_head.bias", ("head.bias",)))


@dataclass(frozen=True)
class ByHead(Layout):
    """A kernel (in, heads·K) stored (in, heads, K)."""

    heads: int

    def shape(self, ours: Sequence[Shape]) -> Shape:
        return ours[0][0], self.heads, ours[0][1] // self.heads

    def split(self, tensor: np.ndarray, ours: Sequence[Shape]) -> list[np.ndarray]:
        return [tensor.reshape(ours[0])]

    def join(self, arrays: Sequence[np.ndarray]) -> np.ndarray:
        return arrays[0].reshape(self.shape([arrays[0].shape]))


def block_tensors(block: FunnelBlock) -> tuple[Tensor, ...]:
    """The tensors of all layers."""
    vectors = ("r_w_bias", "v_content"), ("r_r_bias", "v_position"), ("r_s_bias", "v_kind"), ("seg_embed", "kinds")

    def layer(there, here):
        heads = (linear(f"{there}.attention.{name}_head", f"{here}.mixer.{name}") for name in "qkv")
        return (
            *sum(heads, ()), *linear(f"{there}.attention.post_proj", f"{here}.mixer.output"), *norm(f"{there}.attention.layer_norm", f"{here}.mixer_norm"),
            *(Tensor(f"{there}.attention.{theirs}", (f"{here}.mixer.{ours}",)) for theirs, ours in vectors),
            Tensor(f"{there}.attention.r_kernel", (f"{here}.mixer.r.kernel",), ByHead(block.mixer.heads)), *linear(f"{there}.ffn.linear_1", f"{here}.ffn.up"),
            *linear(f"{there}.ffn.linear_2", f"{here}.ffn.down"), *norm(f"{there}.ffn.layer_norm", f"{here}.ffn_norm"),
        )  # fmt: skip

    encoder = (
        layer(f"funnel.encoder.blocks.{stage}.{n}", f"stage_{stage}_layer_{n}") for stage, layers in enumerate(block.stages) for n in range(layers)
    )
    return sum((*encoder, *(layer(f"funnel.decoder.layers.{n}", f"decoder_layer_{n}") for n in range(block.decoder))), ())


def model_of(config: dict[str, Any]) -> EncoderLM:
    """The EncoderLM of a config.json. Raises ValueError naming the key that this family does not cover.

    attention_type is how transformers computes the same numbers. Texts are of one kind (token_type_ids alike), and of more tokens than its
    pooling can halve: it leaves the pooling out for those of one or two tokens.
    """
    config, stages = renamed(config, hidden_size="d_model", num_attention_heads="n_head"), tuple(config.get("block_sizes", (4, 4, 4)))
    only(config, pool_q_only=True, pooling_type="mean", tie_word_embeddings=True)
    only({"block_repeats": None} | config, block_repeats=config.get("block_repeats") and [1] * len(stages))
    if config.get("attention_type", "relative_shift") not in ("relative_shift", "factorized"):
        raise ValueError(f"attention_type={config['attention_type']!r} is not covered; 'relative_shift' and 'factorized' are")
    width, heads, dim = config["d_model"], config["n_head"], config.get("d_head", 64)
    layer_norm = LayerNorm(config.get("layer_norm_eps", 1e-9))
    block = FunnelBlock(
        FunnelAttention(heads, None if heads * dim == width else dim, config.get("separate_cls", True), bias=True),
        MLP(config["d_inner"], activation(config, "hidden_act", "gelu_new"), bias=True), layer_norm, stages=stages,
        decoder=config.get("num_decoder_layers", 2), truncate=config.get("truncate_seq", True),
    )  # fmt: skip
    return EncoderLM(
        vocab_size=config["vocab_size"], width=width, depth=1, blocks=(block,), norm=None, tied=True, head_bias=True, embedding_norm=layer_norm
    )


def config_of(model: EncoderLM, context: int) -> dict[str, Any]:
    """The config.json of a model. Raises ValueError for blocks unlike this family's."""
    block = model.blocks[0]
    if type(model) is not EncoderLM or tuple(map(type, (block, block.ffn, block.norm))) != (FunnelBlock, MLP, LayerNorm):
        raise ValueError(f"a {type(block).__name__} of {type(block.mixer).__name__} is none of this family's")
    mixer = block.mixer
    return {
        "architectures": ["FunnelForMaskedLM"], "model_type": "funnel", "vocab_size": model.vocab_size, "d_model": model.width, "n_head": mixer.heads,
        "d_head": mixer.head_dim or model.width // mixer.heads, "d_inner": block.ffn.width_for(model.width), "block_sizes": list(block.stages),
        "block_repeats": [1] * len(block.stages), "num_decoder_layers": block.decoder, "hidden_act": activation_name(block.ffn.activation),
        "layer_norm_eps": block.norm.eps, "separate_cls": mixer.separate_first, "truncate_seq": block.truncate, "attention_type": "relative_shift",
        "pooling_type": "mean", "pool_q_only": True, "hidden_dropout": block.dropout, "tie_word_embeddings": True,
    }  # fmt: skip
