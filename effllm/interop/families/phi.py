"""phi: attention and MLP side by side under one LayerNorm, RoPE on a part of the channels, biases everywhere."""

from typing import Any

from effllm.interop.families.settings import activation, activation_name, only, parts, rope, rope_parameters
from effllm.interop.layout import Tensor, embedding, linear, norm
from effllm.nn import MLP, Attention, Block, DecoderLM, LayerNorm, ParallelBlock, RoPE

TYPES = ("phi",)
PREFIX = "model."
IGNORED = ("*.rotary_emb.inv_freq",)
TOP = (*embedding("model.embed_tokens"), *norm("model.final_layernorm", "final_norm"), *linear("lm_head", "head"))


def block_tensors(block: Block) -> tuple[Tensor, ...]:
    """The tensors of a layer."""
    here = "model.layers.{}"
    return (
        *norm(f"{here}.input_layernorm", "mixer_norm"),
        *linear(f"{here}.self_attn.q_proj", "mixer.q"), *linear(f"{here}.self_attn.k_proj", "mixer.k"), *linear(f"{here}.self_attn.v_proj", "mixer.v"),
        *linear(f"{here}.self_attn.dense", "mixer.output"), *linear(f"{here}.mlp.fc1", "ffn.up"), *linear(f"{here}.mlp.fc2", "ffn.down"),
    )  # fmt: skip


def model_of(config: dict[str, Any]) -> DecoderLM:
    """The DecoderLM of a config.json. Raises ValueError naming the key that this family does not cover."""
    only(config, qk_layernorm=False)
    width, heads = config["hidden_size"], config["num_attention_heads"]
    mixer = Attention(
        heads=heads, kv_heads=config.get("num_key_value_heads") or heads, head_dim=width // heads,
        position=rope({"partial_rotary_factor": 0.5} | config), bias=True, output_bias=True,
    )  # fmt: skip
    ffn, layer_norm = MLP(config["intermediate_size"], activation(config, "hidden_act", "gelu_new"), bias=True), LayerNorm(config["layer_norm_eps"])
    return DecoderLM(
        vocab_size=config["vocab_size"],
        width=width,
        depth=config["num_hidden_layers"],
        blocks=(ParallelBlock(mixer, ffn, layer_norm),),
        norm=layer_norm,
        tied=config.get("tie_word_embeddings", False),
        head_bias=True,
    )


def config_of(model: DecoderLM, context: int) -> dict[str, Any]:
    """The config.json of a model. Raises ValueError for blocks unlike this family's."""
    mixer, ffn = parts(model, ParallelBlock, Attention, MLP, LayerNorm, RoPE)
    return {
        "architectures": ["PhiForCausalLM"], "model_type": "phi", "hidden_size": model.width, "num_attention_heads": mixer.heads,
        "num_key_value_heads": mixer.dims(model.width)[0], "num_hidden_layers": model.depth, "intermediate_size": ffn.width_for(model.width),
        "vocab_size": model.vocab_size, "hidden_act": activation_name(ffn.activation, "gelu_new"), "layer_norm_eps": model.blocks[0].norm.eps,
        "max_position_embeddings": context, "rope_parameters": rope_parameters(mixer.position), "partial_rotary_factor": mixer.position.fraction,
        "tie_word_embeddings": model.tied,
    }  # fmt: skip
