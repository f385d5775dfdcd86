"""gpt2: pre-norm blocks of attention without rotation and an MLP, in LayerNorm, over learned positions; kernels are stored as (in, out)."""

from typing import Any

from effllm.interop.families.settings import GPT_NAMES, activation, activation_name, only, parts, renamed
from effllm.interop.layout import Columns, Tensor, embedding, linear, norm
from effllm.nn import MLP, Attention, Block, DecoderLM, LayerNorm, Learned, Position

TYPES = ("gpt2",)
PREFIX = "transformer."
IGNORED = ("*.attn.bias", "*.attn.masked_bias")
TOP = (
    *embedding("transformer.wte"), *embedding("transformer.wpe", "embed_position"), *norm("transformer.ln_f", "final_norm"),
    *linear("lm_head", "head"),
)  # fmt: skip


def block_tensors(block: Block) -> tuple[Tensor, ...]:
    """The tensors of a layer."""
    here, stored = "transformer.h.{}", Columns()
    return (
        *norm(f"{here}.ln_1", "mixer_norm"), *norm(f"{here}.ln_2", "ffn_norm"),
        *linear(f"{here}.attn.c_attn", "mixer.q", "mixer.k", "mixer.v", layout=stored), *linear(f"{here}.attn.c_proj", "mixer.output", layout=stored),
        *linear(f"{here}.mlp.c_fc", "ffn.up", layout=stored), *linear(f"{here}.mlp.c_proj", "ffn.down", layout=stored),
    )  # fmt: skip


def model_of(config: dict[str, Any]) -> DecoderLM:
    """The DecoderLM of a config.json. Raises ValueError naming the key that this family does not cover."""
    config = renamed(config, **GPT_NAMES)
    return of(config, config["n_head"])


def of(config: dict[str, Any], kv_heads: int) -> DecoderLM:
    """The same with so many key/value heads."""
    only(config, scale_attn_weights=True, scale_attn_by_inverse_layer_idx=False, add_cross_attention=False)
    width, heads, layer_norm = config["n_embd"], config["n_head"], LayerNorm(config["layer_norm_epsilon"])
    mixer = Attention(heads=heads, kv_heads=kv_heads, head_dim=width // heads, position=Position(), bias=True, output_bias=True)
    ffn = MLP(config.get("n_inner") or 4 * width, activation(config, "activation_function", "gelu_new"), bias=True)
    return DecoderLM(
        vocab_size=config["vocab_size"],
        width=width,
        depth=config["n_layer"],
        blocks=(Block(mixer, ffn, layer_norm),),
        norm=layer_norm,
        tied=config.get("tie_word_embeddings", True),
        input_position=Learned(config["n_positions"]),
    )


def config_of(model: DecoderLM, context: int) -> dict[str, Any]:
    """The config.json of a model; its context is that of the learned positions. Raises ValueError for blocks unlike this family's."""
    mixer, ffn = parts(model, Block, Attention, MLP, LayerNorm, Position)
    if not isinstance(model.input_position, Learned):
        raise ValueError("gpt2 has learned positions in its input")
    return {
        "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "n_embd": model.width, "n_head": mixer.heads, "n_layer": model.depth,
        "n_inner": ffn.width_for(model.width), "n_positions": model.input_position.length, "vocab_size": model.vocab_size,
        "activation_function": activation_name(ffn.activation, "gelu_new"), "layer_norm_epsilon": model.blocks[0].norm.eps, "tie_word_embeddings": model.tied,
    }  # fmt: skip
