"""mpt: ALiBi, no bias anywhere, LayerNorm without bias; q, k and v lie one after another in one tensor."""

from typing import Any

from effllm.interop.families.settings import only, parts, renamed
from effllm.interop.layout import Tensor, embedding, linear, norm
from effllm.nn import MLP, ALiBi, Attention, Block, DecoderLM, LayerNorm

TYPES = ("mpt",)
PREFIX = "transformer."
IGNORED = ()
TOP = (*embedding("transformer.wte"), *norm("transformer.norm_f", "final_norm"), *linear("lm_head", "head"))


def block_tensors(block: Block) -> tuple[Tensor, ...]:
    """The tensors of a layer."""
    here = "transformer.blocks.{}"
    return (
        *norm(f"{here}.norm_1", "mixer_norm"), *norm(f"{here}.norm_2", "ffn_norm"),
        *linear(f"{here}.attn.Wqkv", "mixer.q", "mixer.k", "mixer.v"), *linear(f"{here}.attn.out_proj", "mixer.output"),
        *linear(f"{here}.ffn.up_proj", "ffn.up"), *linear(f"{here}.ffn.down_proj", "ffn.down"),
    )  # fmt: skip


def model_of(config: dict[str, Any]) -> DecoderLM:
    """The DecoderLM of a config.json. Raises ValueError naming the key that this family does not cover."""
    config = renamed(config, hidden_size="d_model", num_attention_heads="n_heads", num_hidden_layers="n_layers")
    only(config, no_bias=True, logit_scale=None)
    attention = config.get("attn_config") or {}
    only(attention | {"model_type": "mpt"}, attn_type="multihead_attention", alibi=True, clip_qkv=None, qk_ln=False, prefix_lm=False)
    width, heads, layer_norm = config["d_model"], config["n_heads"], LayerNorm(config.get("layer_norm_epsilon", 1e-5), bias=False)
    position = ALiBi(float(attention.get("alibi_bias_max", 8)))
    mixer = Attention(heads=heads, kv_heads=heads, head_dim=width // heads, position=position, scale=attention.get("softmax_scale"))
    return DecoderLM(
        vocab_size=config["vocab_size"],
        width=width,
        depth=config["n_layers"],
        blocks=(Block(mixer, MLP(round(config.get("expansion_ratio", 4) * width)), layer_norm),),
        norm=layer_norm,
        tied=config.get("tie_word_embeddings", True),
    )


def config_of(model: DecoderLM, context: int) -> dict[str, Any]:
    """The config.json of a model. Raises ValueError for blocks unlike this family's."""
    mixer, ffn = parts(model, Block, Attention, MLP, LayerNorm, ALiBi)
    if ffn.width_for(model.width) % model.width:
        raise ValueError("mpt's hidden width is a multiple of the width")
    return {
        "architectures": ["MptForCausalLM"], "model_type": "mpt", "d_model": model.width, "n_heads": mixer.heads, "n_layers": model.depth,
        "expansion_ratio": ffn.width_for(model.width) // model.width, "vocab_size": model.vocab_size, "max_seq_len": context, "no_bias": True,
        "layer_norm_epsilon": model.blocks[0].norm.eps, "tie_word_embeddings": model.tied,
        "attn_config": {"model_type": "", "alibi": True, "alibi_bias_max": round(mixer.position.max_bias), "softmax_scale": mixer.scale},
    }  # fmt: skip
