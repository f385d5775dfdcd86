"""opt: GPT-2's arrangement with ReLU, biases, and learned positions whose table begins with two unused rows."""

from typing import Any

from effllm.interop.families.settings import activation, activation_name, only, parts
from effllm.interop.layout import Tensor, embedding, linear, norm
from effllm.nn import MLP, Attention, Block, DecoderLM, LayerNorm, Learned, Position, PostNormBlock

TYPES = ("opt",)
PREFIX = "model."
IGNORED = ()
TOP = (
    *embedding("model.decoder.embed_tokens"), *embedding("model.decoder.embed_positions", "embed_position"),
    *norm("model.decoder.final_layer_norm", "final_norm"), *linear("lm_head", "head"),
)  # fmt: skip
OFFSET = 2


def block_tensors(block: Block) -> tuple[Tensor, ...]:
    """The tensors of a layer."""
    here = "model.decoder.layers.{}"
    return (
        *norm(f"{here}.self_attn_layer_norm", "mixer_norm"), *norm(f"{here}.final_layer_norm", "ffn_norm"),
        *linear(f"{here}.self_attn.q_proj", "mixer.q"), *linear(f"{here}.self_attn.k_proj", "mixer.k"), *linear(f"{here}.self_attn.v_proj", "mixer.v"),
        *linear(f"{here}.self_attn.out_proj", "mixer.output"), *linear(f"{here}.fc1", "ffn.up"), *linear(f"{here}.fc2", "ffn.down"),
    )  # fmt: skip


def model_of(config: dict[str, Any]) -> DecoderLM:
    """The DecoderLM of a config.json. Raises ValueError naming the key that this family does not cover."""
    width, heads = config["hidden_size"], config["num_attention_heads"]
    only(config, enable_bias=True, layer_norm_elementwise_affine=True, _remove_final_layer_norm=False, word_embed_proj_dim=width)
    mixer = Attention(heads=heads, kv_heads=heads, head_dim=width // heads, position=Position(), bias=True, output_bias=True)
    ffn = MLP(config["ffn_dim"], activation(config, "activation_function", "relu"), bias=True)
    before = config.get("do_layer_norm_before", True)
    return DecoderLM(
        vocab_size=config["vocab_size"],
        width=width,
        depth=config["num_hidden_layers"],
        blocks=((Block if before else PostNormBlock)(mixer, ffn, LayerNorm()),),
        norm=LayerNorm() if before else None,
        tied=config.get("tie_word_embeddings", True),
        input_position=Learned(config["max_position_embeddings"], OFFSET),
    )


def config_of(model: DecoderLM, context: int) -> dict[str, Any]:
    """The config.json of a model; its context is that of the learned positions. Raises ValueError for blocks unlike this family's."""
    before = model.norm is not None
    mixer, ffn = parts(model, Block if before else PostNormBlock, Attention, MLP, LayerNorm, Position)
    if not isinstance(model.input_position, Learned):
        raise ValueError("opt has learned positions in its input")
    return {
        "architectures": ["OPTForCausalLM"], "model_type": "opt", "hidden_size": model.width, "word_embed_proj_dim": model.width,
        "num_attention_heads": mixer.heads, "num_hidden_layers": model.depth, "ffn_dim": ffn.width_for(model.width), "vocab_size": model.vocab_size,
        "activation_function": activation_name(ffn.activation), "do_layer_norm_before": before,
        "max_position_embeddings": model.input_position.length, "tie_word_embeddings": model.tied,
    }  # fmt: skip
