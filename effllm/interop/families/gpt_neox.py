"""gpt_neox (Pythia): attention and MLP side by side, each with its own LayerNorm; q, k and v lie in one tensor head by head."""

from typing import Any

from effllm.interop.families.settings import activation, activation_name, parts, rope, rope_parameters
from effllm.interop.layout import Rows, Tensor, embedding, linear, norm
from effllm.nn import MLP, Attention, Block, DecoderLM, LayerNorm, ParallelBlock, RoPE

TYPES = ("gpt_neox",)
PREFIX = "gpt_neox."
IGNORED = ("*.attention.bias", "*.attention.masked_bias", "*.rotary_emb.inv_freq")
TOP = (*embedding("gpt_neox.embed_in"), *norm("gpt_neox.final_layer_norm", "final_norm"), *linear("embed_out", "head"))


def block_tensors(block: Block) -> tuple[Tensor, ...]:
    """The tensors of a layer."""
    here, by_head = "gpt_neox.layers.{}", Rows(block.mixer.heads)
    return (
        *norm(f"{here}.input_layernorm", "mixer_norm"), *norm(f"{here}.post_attention_layernorm", "ffn_norm"),
        *linear(f"{here}.attention.query_key_value", "mixer.q", "mixer.k", "mixer.v", layout=by_head),
        *linear(f"{here}.attention.dense", "mixer.output"),
        *linear(f"{here}.mlp.dense_h_to_4h", "ffn.up"), *linear(f"{here}.mlp.dense_4h_to_h", "ffn.down"),
    )  # fmt: skip


def model_of(config: dict[str, Any]) -> DecoderLM:
    """The DecoderLM of a config.json. Raises ValueError naming the key that this family does not cover."""
    width, heads, bias = config["hidden_size"], config["num_attention_heads"], config.get("attention_bias", True)
    before = {"rope_theta": config.get("rotary_emb_base", 10000.0), "partial_rotary_factor": config.get("rotary_pct", 0.25)}
    mixer = Attention(
        heads=heads, kv_heads=heads, head_dim=width // heads, position=rope(before | config), bias=bias, output_bias=bias
    )  # fmt: skip
    ffn, layer_norm = MLP(config["intermediate_size"], activation(config, "hidden_act", "gelu"), bias=True), LayerNorm(config["layer_norm_eps"])
    parallel = config.get("use_parallel_residual", True)
    return DecoderLM(
        vocab_size=config["vocab_size"],
        width=width,
        depth=config["num_hidden_layers"],
        blocks=(ParallelBlock(mixer, ffn, layer_norm, shared_norm=False) if parallel else Block(mixer, ffn, layer_norm),),
        norm=layer_norm,
        tied=config.get("tie_word_embeddings", False),
    )


def config_of(model: DecoderLM, context: int) -> dict[str, Any]:
    """The config.json of a model. Raises ValueError for blocks unlike this family's."""
    parallel = isinstance(model.blocks[0], ParallelBlock)
    mixer, ffn = parts(model, ParallelBlock if parallel else Block, Attention, MLP, LayerNorm, RoPE)
    return {
        "architectures": ["GPTNeoXForCausalLM"], "model_type": "gpt_neox", "hidden_size": model.width, "num_attention_heads": mixer.heads,
        "num_hidden_layers": model.depth, "intermediate_size": ffn.width_for(model.width), "vocab_size": model.vocab_size,
        "hidden_act": activation_name(ffn.activation, "gelu_new"), "layer_norm_eps": model.blocks[0].norm.eps, "attention_bias": mixer.bias,
        "use_parallel_residual": parallel, "max_position_embeddings": context, "rope_parameters": rope_parameters(mixer.position),
        "rotary_pct": mixer.position.fraction, "tie_word_embeddings": model.tied,
    }  # fmt: skip
