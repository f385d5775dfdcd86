"""olmo2: Llama's parts with a norm on what each branch adds and one over all heads' queries or keys together."""

from typing import Any

from effllm.interop.families import llama
from effllm.interop.families.settings import only, parts, rope, rope_parameters
from effllm.interop.layout import Tensor, linear, norm
from effllm.nn import Attention, Block, BranchNormBlock, DecoderLM, HeadsRMSNorm, RMSNorm, RoPE, SwiGLU

TYPES = ("olmo2",)
PREFIX, IGNORED, TOP = llama.PREFIX, llama.IGNORED, llama.TOP


def block_tensors(block: Block) -> tuple[Tensor, ...]:
    """The tensors of a layer."""
    here = "model.layers.{}"
    return (
        *norm(f"{here}.post_attention_layernorm", "mixer_norm"), *norm(f"{here}.post_feedforward_layernorm", "ffn_norm"),
        *norm(f"{here}.self_attn.q_norm", "mixer.q_norm"), *norm(f"{here}.self_attn.k_norm", "mixer.k_norm"),
        *linear(f"{here}.self_attn.q_proj", "mixer.q"), *linear(f"{here}.self_attn.k_proj", "mixer.k"), *linear(f"{here}.self_attn.v_proj", "mixer.v"),
        *linear(f"{here}.self_attn.o_proj", "mixer.output"),
        *sum((linear(f"{here}.mlp.{name}_proj", f"ffn.{name}") for name in ("gate", "up", "down")), ()),
    )  # fmt: skip


def model_of(config: dict[str, Any]) -> DecoderLM:
    """The DecoderLM of a config.json. Raises ValueError naming the key that this family does not cover."""
    only(config, hidden_act="silu")
    width, heads, eps, bias = config["hidden_size"], config["num_attention_heads"], config["rms_norm_eps"], config.get("attention_bias", False)
    mixer = Attention(
        heads=heads, kv_heads=config.get("num_key_value_heads") or heads, head_dim=width // heads, position=rope(config), qk_norm=HeadsRMSNorm(eps),
        bias=bias, output_bias=bias,
    )  # fmt: skip
    return DecoderLM(
        vocab_size=config["vocab_size"],
        width=width,
        depth=config["num_hidden_layers"],
        blocks=(BranchNormBlock(mixer, SwiGLU(config["intermediate_size"]), RMSNorm(eps)),),
        norm=RMSNorm(eps),
        tied=config.get("tie_word_embeddings", False),
    )


def config_of(model: DecoderLM, context: int) -> dict[str, Any]:
    """The config.json of a model. Raises ValueError for blocks unlike this family's."""
    mixer, ffn = parts(model, BranchNormBlock, Attention, SwiGLU, RMSNorm, RoPE)
    return {
        "architectures": ["Olmo2ForCausalLM"], "model_type": "olmo2", "hidden_act": "silu", "hidden_size": model.width,
        "num_attention_heads": mixer.heads, "num_key_value_heads": mixer.dims(model.width)[0], "num_hidden_layers": model.depth,
        "intermediate_size": ffn.width_for(model.width), "vocab_size": model.vocab_size, "rms_norm_eps": model.blocks[0].norm.eps, "attention_bias": mixer.bias,
        "max_position_embeddings": context, "rope_parameters": rope_parameters(mixer.position), "tie_word_embeddings": model.tied,
    }  # fmt: skip
