"""falcon: RoPE or ALiBi; attention and MLP side by side under one LayerNorm or two; each group's queries lie before its key and value.

transformers rounds ALiBi's slopes and its biases to bfloat16, whatever it computes in; ours are exact.
"""

from typing import Any

from effllm.interop.families.settings import activation, activation_name, parts, rope, rope_parameters
from effllm.interop.layout import Rows, Tensor, embedding, linear, norm
from effllm.nn import MLP, ALiBi, Attention, Block, DecoderLM, LayerNorm, ParallelBlock, RoPE

TYPES = ("falcon",)
PREFIX = "transformer."
IGNORED = ("*.rotary_emb.inv_freq",)
TOP = (*embedding("transformer.word_embeddings"), *norm("transformer.ln_f", "final_norm"), *linear("lm_head", "head"))


def block_tensors(block: Block) -> tuple[Tensor, ...]:
    """The tensors of a layer."""
    here, by_group = "transformer.h.{}", Rows(block.mixer.kv_heads)
    two = type(block) is ParallelBlock and not block.shared_norm
    return (
        *norm(f"{here}.{'ln_attn' if two else 'input_layernorm'}", "mixer_norm"),
        *norm(f"{here}.{'ln_mlp' if two else 'post_attention_layernorm'}", "ffn_norm"),
        *linear(f"{here}.self_attention.query_key_value", "mixer.q", "mixer.k", "mixer.v", layout=by_group),
        *linear(f"{here}.self_attention.dense", "mixer.output"),
        *linear(f"{here}.mlp.dense_h_to_4h", "ffn.up"), *linear(f"{here}.mlp.dense_4h_to_h", "ffn.down"),
    )  # fmt: skip


def model_of(config: dict[str, Any]) -> DecoderLM:
    """The DecoderLM of a config.json. Raises ValueError naming the key that this family does not cover."""
    width, heads, bias, new = config["hidden_size"], config["num_attention_heads"], config.get("bias", False), config.get("new_decoder_architecture", False)
    kv_heads = (config.get("num_kv_heads") or heads) if new else 1 if config.get("multi_query", True) else heads
    position = ALiBi(scaled=True) if config.get("alibi", False) else rope({"max_position_embeddings": 2048} | config)
    mixer = Attention(heads=heads, kv_heads=kv_heads, head_dim=width // heads, position=position, bias=bias, output_bias=bias)
    ffn = MLP(config.get("ffn_hidden_size") or 4 * width, activation(config, "activation", "gelu"), bias=bias)
    layer_norm = LayerNorm(config.get("layer_norm_epsilon", 1e-5))
    parallel = new or config.get("parallel_attn", True)
    shared = not new or config.get("num_ln_in_parallel_attn") == 1
    return DecoderLM(
        vocab_size=config["vocab_size"],
        width=width,
        depth=config["num_hidden_layers"],
        blocks=(ParallelBlock(mixer, ffn, layer_norm, shared_norm=shared) if parallel else Block(mixer, ffn, layer_norm),),
        norm=layer_norm,
        tied=config.get("tie_word_embeddings", True),
    )


def config_of(model: DecoderLM, context: int) -> dict[str, Any]:
    """The config.json of a model. Raises ValueError for blocks unlike this family's."""
    parallel = isinstance(model.blocks[0], ParallelBlock)
    alibi = isinstance(getattr(model.blocks[0].mixer, "position", None), ALiBi)
    mixer, ffn = parts(model, ParallelBlock if parallel else Block, Attention, MLP, LayerNorm, ALiBi if alibi else RoPE)
    kv_heads, _ = mixer.dims(model.width)
    shared = parallel and model.blocks[0].shared_norm
    new = parallel and not (shared and kv_heads in (1, mixer.heads))
    return {
        "architectures": ["FalconForCausalLM"], "model_type": "falcon", "hidden_size": model.width, "num_attention_heads": mixer.heads,
        "num_kv_heads": kv_heads if new else mixer.heads, "num_hidden_layers": model.depth, "ffn_hidden_size": ffn.width_for(model.width),
        "vocab_size": model.vocab_size, "activation": activation_name(ffn.activation), "bias": mixer.bias, "layer_norm_epsilon": model.blocks[0].norm.eps,
        "alibi": alibi, "multi_query": kv_heads == 1, "parallel_attn": parallel, "new_decoder_architecture": new,
        "num_ln_in_parallel_attn": (1 if shared else 2) if new else None, "max_position_embeddings": context,
        "tie_word_embeddings": model.tied,
    } | ({} if alibi else {"rope_parameters": rope_parameters(mixer.position)})  # fmt: skip
