"""llama, mistral, qwen2, qwen3: pre-norm blocks of softmax attention with RoPE and SwiGLU, in RMSNorm."""

from typing import Any

from effllm.interop.families.settings import only, parts, rope, rope_parameters
from effllm.interop.layout import Tensor, embedding, linear, norm
from effllm.interop.normal import shortest
from effllm.nn import Attention, Block, DecoderLM, DynamicNTK, RMSNorm, RoPE, SwiGLU

TYPES = ("llama", "mistral", "qwen2", "qwen3")
ARCHITECTURE = {"llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
PREFIX = "model."
IGNORED = ("*.rotary_emb.inv_freq",)
TOP = (*embedding("model.embed_tokens"), *norm("model.norm", "final_norm"), *linear("lm_head", "head"))


def block_tensors(block: Block) -> tuple[Tensor, ...]:
    """The tensors of a layer."""
    here = "model.layers.{}"
    attention = (linear(f"{here}.self_attn.{theirs}_proj", f"mixer.{ours}") for ours, theirs in (("q", "q"), ("k", "k"), ("v", "v"), ("output", "o")))
    return (
        *norm(f"{here}.input_layernorm", "mixer_norm"), *norm(f"{here}.post_attention_layernorm", "ffn_norm"),
        *norm(f"{here}.self_attn.q_norm", "mixer.q_norm"), *norm(f"{here}.self_attn.k_norm", "mixer.k_norm"), *sum(attention, ()),
        *sum((linear(f"{here}.mlp.{name}_proj", f"ffn.{name}") for name in ("gate", "up", "down")), ()),
    )  # fmt: skip


def model_of(config: dict[str, Any]) -> DecoderLM:
    """The DecoderLM of a config.json. Raises ValueError naming the key that this family does not cover."""
    kind = config["model_type"]
    only(config, hidden_act="silu")
    heads, depth = config["num_attention_heads"], config["num_hidden_layers"]
    # Qwen's projections of q, k, v have biases whatever the key says; Mistral has none.
    bias = kind == "qwen2" or config.get("attention_bias", False)

    def block(window):
        mixer = Attention(
            heads=heads,
            kv_heads=config.get("num_key_value_heads", heads),
            head_dim=config.get("head_dim") or (128 if kind == "qwen3" else config["hidden_size"] // heads),
            position=rope(config),
            qk_norm=RMSNorm(config["rms_norm_eps"]) if kind == "qwen3" else None,
            bias=bias,
            output_bias=bias and kind != "qwen2",
            window=window,
        )
        return Block(mixer, SwiGLU(config["intermediate_size"], bias=config.get("mlp_bias", False)), RMSNorm(config["rms_norm_eps"]))

    return DecoderLM(
        vocab_size=config["vocab_size"],
        width=config["hidden_size"],
        depth=depth,
        blocks=shortest(tuple(map(block, layer_windows(config, depth)))),
        norm=RMSNorm(config["rms_norm_eps"]),
        tied=config.get("tie_word_embeddings", False),
    )


def layer_windows(config: dict[str, Any], depth: int) -> list[int | None]:
    """The window of each layer, None where it sees all: llama has none, mistral the same in all layers, qwen one in some layers where it uses it."""
    kind, window = config["model_type"], config.get("sliding_window", 4096)
    if kind == "mistral":
        return [window] * depth
    if kind == "llama" or not config.get("use_sliding_window", False):
        return [None] * depth
    full = config.get("max_window_layers", 28)
    types = config.get("layer_types") or ["full_attention" if i < full else "sliding_attention" for i in range(depth)]
    return [window if t == "sliding_attention" else None for t in types]


def windows_said(model: DecoderLM) -> dict[str, Any]:
    """What config.json says of windows in some layers."""
    windows = [b.mixer.window for b in model.blocks] * model.periods
    if not any(windows):
        return {}
    return {"sliding_window": max(filter(None, windows)), "layer_types": ["sliding_attention" if w else "full_attention" for w in windows]}


def config_of(model: DecoderLM, context: int) -> dict[str, Any]:
    """The config.json of a model. Raises ValueError for blocks unlike this family's."""
    mixer, ffn = parts(model, Block, Attention, SwiGLU, RMSNorm, RoPE, DynamicNTK)
    widest = max(b.mixer.window or 0 for b in model.blocks)
    kind = "qwen3" if mixer.qk_norm is not None else "qwen2" if mixer.bias and not mixer.output_bias else "mistral" if widest else "llama"
    kv_heads, head_dim = mixer.dims(model.width)
    config = {
        "architectures": [ARCHITECTURE[kind]], "model_type": kind, "hidden_act": "silu", "hidden_size": model.width, "num_hidden_layers": model.depth,
        "num_attention_heads": mixer.heads, "num_key_value_heads": kv_heads, "head_dim": head_dim, "intermediate_size": ffn.width_for(model.width),
        "vocab_size": model.vocab_size, "rms_norm_eps": model.blocks[0].norm.eps, "tie_word_embeddings": model.tied,
        "max_position_embeddings": getattr(mixer.position, "trained_length", context), "rope_parameters": rope_parameters(mixer.position),
    }  # fmt: skip
    if kind == "mistral":
        config["sliding_window"] = widest
    if kind in ("qwen2", "qwen3"):
        config |= {"use_sliding_window": widest > 0} | windows_said(model)
    if kind == "llama":
        config |= {"attention_bias": mixer.bias, "mlp_bias": ffn.bias}
    if kind == "qwen3":
        config["attention_bias"] = mixer.bias
    return config
