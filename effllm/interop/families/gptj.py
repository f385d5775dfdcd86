"""gptj: attention and MLP side by side under one LayerNorm, RoPE that turns neighbouring channels."""

from typing import Any

from effllm.interop.families.settings import GPT_NAMES, activation, activation_name, parts, renamed
from effllm.interop.layout import Tensor, embedding, linear, norm
from effllm.nn import MLP, Attention, Block, DecoderLM, LayerNorm, ParallelBlock, RoPE

TYPES = ("gptj",)
PREFIX = "transformer."
IGNORED = ("*.attn.bias", "*.attn.masked_bias", "*.attn.embed_positions")
TOP = (*embedding("transformer.wte"), *norm("transformer.ln_f", "final_norm"), *linear("lm_head", "head"))


def block_tensors(block: Block) -> tuple[Tensor, ...]:
    """The tensors of a layer."""
    here = "transformer.h.{}"
    return (
        *norm(f"{here}.ln_1", "mixer_norm"),
        *linear(f"{here}.attn.q_proj", "mixer.q"), *linear(f"{here}.attn.k_proj", "mixer.k"), *linear(f"{here}.attn.v_proj", "mixer.v"),
        *linear(f"{here}.attn.out_proj", "mixer.output"), *linear(f"{here}.mlp.fc_in", "ffn.up"), *linear(f"{here}.mlp.fc_out", "ffn.down"),
    )  # fmt: skip


def model_of(config: dict[str, Any]) -> DecoderLM:
    """The DecoderLM of a config.json. Raises ValueError naming the key that this family does not cover."""
    config = renamed(config, **GPT_NAMES)
    width, heads = config["n_embd"], config["n_head"]
    head_dim = width // heads
    position = RoPE(fraction=(config.get("rotary_dim") or head_dim) / head_dim, interleaved=True)
    mixer = Attention(heads=heads, kv_heads=heads, head_dim=head_dim, position=position)
    ffn = MLP(config.get("n_inner") or 4 * width, activation(config, "activation_function", "gelu_new"), bias=True)
    layer_norm = LayerNorm(config["layer_norm_epsilon"])
    return DecoderLM(
        vocab_size=config["vocab_size"],
        width=width,
        depth=config["n_layer"],
        blocks=(ParallelBlock(mixer, ffn, layer_norm),),
        norm=layer_norm,
        tied=config.get("tie_word_embeddings", False),
        head_bias=True,
    )


def config_of(model: DecoderLM, context: int) -> dict[str, Any]:
    """The config.json of a model. Raises ValueError for blocks unlike this family's."""
    mixer, ffn = parts(model, ParallelBlock, Attention, MLP, LayerNorm, RoPE)
    return {
        "architectures": ["GPTJForCausalLM"], "model_type": "gptj", "n_embd": model.width, "n_head": mixer.heads, "n_layer": model.depth,
        "n_inner": ffn.width_for(model.width), "n_positions": context, "vocab_size": model.vocab_size,
        "rotary_dim": round(mixer.dims(model.width)[1] * mixer.position.fraction),
        "activation_function": activation_name(ffn.activation, "gelu_new"), "layer_norm_epsilon": model.blocks[0].norm.eps, "tie_word_embeddings": model.tied,
    }  # fmt: skip
