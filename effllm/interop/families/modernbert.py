"""modernbert: pre-norm blocks of rotary attention that sees both sides, whole and in windows by turns, and gated feed-forward layers."""

from typing import Any

from effllm.interop.families.settings import activation, activation_name, only, rope, rope_parameters
from effllm.interop.layout import Tensor, embedding, linear, norm
from effllm.interop.normal import shortest
from effllm.nn import Attention, Block, EncoderLM, FirstBlock, HeadTransform, LayerNorm, RoPE, SwiGLU

TYPES = ("modernbert",)
PREFIX = "model."
IGNORED = ("decoder.weight",)
TOP = (
    *embedding("model.embeddings.tok_embeddings"), *norm("model.embeddings.norm", "embed_norm"), *norm("model.final_norm", "final_norm"),
    *linear("head.dense", "head_transform.dense"), *norm("head.norm", "head_transform.dense_norm"), Tensor("decoder.bias", ("head.bias",)),
)  # fmt: skip


def block_tensors(block: Block) -> tuple[Tensor, ...]:
    """The tensors of a layer."""
    here = "model.layers.{}"
    return (
        *norm(f"{here}.attn_norm", "mixer_norm"), *norm(f"{here}.mlp_norm", "ffn_norm"),
        *linear(f"{here}.attn.Wqkv", "mixer.q", "mixer.k", "mixer.v"), *linear(f"{here}.attn.Wo", "mixer.output"),
        *linear(f"{here}.mlp.Wi", "ffn.gate", "ffn.up"), *linear(f"{here}.mlp.Wo", "ffn.down"),
    )  # fmt: skip


def model_of(config: dict[str, Any]) -> EncoderLM:
    """The EncoderLM of a config.json. Raises ValueError naming the key that this family does not cover."""
    only(config, tie_word_embeddings=True, decoder_bias=True)
    width, heads, depth = config["hidden_size"], config["num_attention_heads"], config["num_hidden_layers"]
    layer_norm = LayerNorm(config.get("norm_eps", 1e-5), config.get("norm_bias", False))
    attention_bias, mlp_bias = config.get("attention_bias", False), config.get("mlp_bias", False)
    every = config.get("global_attn_every_n_layers", 3)
    kinds = config.get("layer_types") or ["sliding_attention" if i % every else "full_attention" for i in range(depth)]

    def block(i, kind):
        window = config.get("local_attention", 128) // 2 + 1 if kind == "sliding_attention" else None
        theta = config.get("local_rope_theta" if window else "global_rope_theta", 10000.0 if window else 160000.0)
        mixer = Attention(
            heads=heads, kv_heads=heads, head_dim=width // heads, window=window, bias=attention_bias, output_bias=attention_bias, bidirectional=True,
            position=rope(config, {"rope_theta": theta} | ((config.get("rope_parameters") or {}).get(kind) or {}) | (config.get("rope_scaling") or {})),
        )  # fmt: skip
        ffn = SwiGLU(config["intermediate_size"], activation(config, "hidden_activation", "gelu"), mlp_bias)
        return (Block if i else FirstBlock)(mixer, ffn, layer_norm)

    return EncoderLM(
        vocab_size=config["vocab_size"], width=width, depth=depth, blocks=shortest(tuple(map(block, range(depth), kinds))), norm=layer_norm, tied=True,
        head_bias=True, embedding_norm=layer_norm,
        transform=HeadTransform(activation(config, "classifier_activation", "gelu"), layer_norm, config.get("classifier_bias", False)),
    )  # fmt: skip


def config_of(model: EncoderLM, context: int) -> dict[str, Any]:
    """The config.json of a model. Raises ValueError for blocks unlike this family's."""
    blocks = model.blocks * model.periods
    for i, block in enumerate(blocks):
        parts = block, block.mixer, block.ffn, block.norm, getattr(block.mixer, "position", None)
        if tuple(map(type, parts)) != (Block if i else FirstBlock, Attention, SwiGLU, LayerNorm, RoPE):
            raise ValueError(f"a {type(block).__name__} of {type(block.mixer).__name__} is none of this family's")
    if type(model) is not EncoderLM or model.transform is None:
        raise ValueError("modernbert is an encoder with a transform before the head")
    first, windows = blocks[0], [b.mixer.window for b in blocks]
    kinds = ["sliding_attention" if w else "full_attention" for w in windows]
    return {
        "architectures": ["ModernBertForMaskedLM"], "model_type": "modernbert", "hidden_size": model.width, "num_hidden_layers": model.depth,
        "num_attention_heads": first.mixer.heads, "intermediate_size": first.ffn.width_for(model.width), "vocab_size": model.vocab_size,
        "hidden_activation": activation_name(first.ffn.activation), "classifier_activation": activation_name(model.transform.activation),
        "norm_eps": first.norm.eps, "norm_bias": first.norm.bias, "attention_bias": first.mixer.bias, "mlp_bias": first.ffn.bias,
        "classifier_bias": model.transform.bias, "decoder_bias": True, "tie_word_embeddings": True, "max_position_embeddings": context,
        "layer_types": kinds, "local_attention": 2 * (max(filter(None, windows), default=65) - 1),
        "rope_parameters": {kind: rope_parameters(b.mixer.position) for kind, b in zip(kinds, blocks, strict=True)},
    }  # fmt: skip
