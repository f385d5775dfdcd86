"""bloom: ALiBi, a norm on the embeddings, an MLP with biases; q, k and v lie in one tensor head by head."""

from typing import Any

from flax import linen

from effllm.interop.families.settings import only, parts, renamed
from effllm.interop.layout import Rows, Tensor, embedding, linear, norm
from effllm.nn import MLP, ALiBi, Attention, Block, DecoderLM, LayerNorm

TYPES = ("bloom",)
PREFIX = "transformer."
IGNORED = ()
TOP = (
    *embedding("transformer.word_embeddings"), *norm("transformer.word_embeddings_layernorm", "embed_norm"), *norm("transformer.ln_f", "final_norm"),
    *linear("lm_head", "head"),
)  # fmt: skip


def block_tensors(block: Block) -> tuple[Tensor, ...]:
    """The tensors of a layer."""
    here, by_head = "transformer.h.{}", Rows(block.mixer.heads)
    return (
        *norm(f"{here}.input_layernorm", "mixer_norm"), *norm(f"{here}.post_attention_layernorm", "ffn_norm"),
        *linear(f"{here}.self_attention.query_key_value", "mixer.q", "mixer.k", "mixer.v", layout=by_head),
        *linear(f"{here}.self_attention.dense", "mixer.output"),
        *linear(f"{here}.mlp.dense_h_to_4h", "ffn.up"), *linear(f"{here}.mlp.dense_4h_to_h", "ffn.down"),
    )  # fmt: skip


def model_of(config: dict[str, Any]) -> DecoderLM:
    """The DecoderLM of a config.json. Raises ValueError naming the key that this family does not cover."""
    config = renamed(config, num_attention_heads="n_head", num_hidden_layers="n_layer")
    only(config, apply_residual_connection_post_layernorm=False)
    width, heads = config.get("hidden_size") or config["n_embed"], config["n_head"]
    mixer = Attention(heads=heads, kv_heads=heads, head_dim=width // heads, position=ALiBi(), bias=True, output_bias=True)
    layer_norm = LayerNorm(config["layer_norm_epsilon"])
    return DecoderLM(
        vocab_size=config["vocab_size"],
        width=width,
        depth=config["n_layer"],
        blocks=(Block(mixer, MLP(4 * width, linen.gelu, bias=True), layer_norm),),
        norm=layer_norm,
        tied=config.get("tie_word_embeddings", True),
        embedding_norm=layer_norm,
    )


def config_of(model: DecoderLM, context: int) -> dict[str, Any]:
    """The config.json of a model. Raises ValueError for blocks unlike this family's."""
    mixer, _ = parts(model, Block, Attention, MLP, LayerNorm, ALiBi)
    return {
        "architectures": ["BloomForCausalLM"], "model_type": "bloom", "hidden_size": model.width, "n_head": mixer.heads, "n_layer": model.depth,
        "vocab_size": model.vocab_size, "layer_norm_epsilon": model.blocks[0].norm.eps, "tie_word_embeddings": model.tied,
    }  # fmt: skip
