"""gemma2, gemma3_text: norms around both branches, GeGLU, scaled embeddings, windows in most layers; Gemma 2 caps logits, Gemma 3 has a RoPE base for each kind of layer."""

from typing import Any

from effllm.interop.families import llama
from effllm.interop.families.settings import activation, activation_name, parts, rope, rope_parameters
from effllm.interop.layout import Tensor, linear, norm
from effllm.interop.normal import shortest
from effllm.nn import Attention, Block, DecoderLM, RMSNorm, RoPE, SandwichBlock, SwiGLU

TYPES = ("gemma2", "gemma3_text")
ARCHITECTURE = {"gemma2": "Gemma2ForCausalLM", "gemma3_text": "Gemma3ForCausalLM"}
PREFIX, IGNORED, TOP = llama.PREFIX, llama.IGNORED, llama.TOP


def block_tensors(block: Block) -> tuple[Tensor, ...]:
    """The tensors of a layer."""
    here = "model.layers.{}"
    return (
        *norm(f"{here}.input_layernorm", "mixer_norm"), *norm(f"{here}.post_attention_layernorm", "mixer_post_norm"),
        *norm(f"{here}.pre_feedforward_layernorm", "ffn_norm"), *norm(f"{here}.post_feedforward_layernorm", "ffn_post_norm"),
        *norm(f"{here}.self_attn.q_norm", "mixer.q_norm"), *norm(f"{here}.self_attn.k_norm", "mixer.k_norm"),
        *linear(f"{here}.self_attn.q_proj", "mixer.q"), *linear(f"{here}.self_attn.k_proj", "mixer.k"), *linear(f"{here}.self_attn.v_proj", "mixer.v"),
        *linear(f"{here}.self_attn.o_proj", "mixer.output"),
        *sum((linear(f"{here}.mlp.{name}_proj", f"ffn.{name}") for name in ("gate", "up", "down")), ()),
    )  # fmt: skip


def model_of(config: dict[str, Any]) -> DecoderLM:
    """The DecoderLM of a config.json. Raises ValueError naming the key that this family does not cover."""
    third = config["model_type"] == "gemma3_text"
    if config.get("use_bidirectional_attention"):
        raise ValueError("use_bidirectional_attention=True sees the future: a decoder is covered with False")
    width, depth, bias, eps = config["hidden_size"], config["num_hidden_layers"], config.get("attention_bias", False), config["rms_norm_eps"]
    rms_norm = RMSNorm(eps, offset=1.0)

    def block(kind):
        mixer = Attention(
            heads=config["num_attention_heads"],
            kv_heads=config["num_key_value_heads"],
            head_dim=config["head_dim"],
            position=_rope(config, kind),
            qk_norm=rms_norm if third else None,
            bias=bias,
            output_bias=bias,
            soft_cap=config.get("attn_logit_softcapping", None if third else 50.0),
            window=config["sliding_window"] if kind == "sliding_attention" else None,
            scale=config["query_pre_attn_scalar"] ** -0.5,
        )
        return SandwichBlock(mixer, SwiGLU(config["intermediate_size"], activation(config, "hidden_activation", "gelu_pytorch_tanh")), rms_norm)

    # Before layer_types was written, every n-th layer saw all.
    every = config.get("sliding_window_pattern", 6 if third else 2)
    types = config.get("layer_types") or ["sliding_attention" if (i + 1) % every else "full_attention" for i in range(depth)]
    return DecoderLM(
        vocab_size=config["vocab_size"],
        width=width,
        depth=depth,
        blocks=shortest(tuple(map(block, types))),
        norm=rms_norm,
        tied=config.get("tie_word_embeddings", True),
        soft_cap=config.get("final_logit_softcapping", None if third else 30.0),
        embedding_scale=width**0.5,
    )


def _rope(config: dict[str, Any], kind: str) -> RoPE:
    if config["model_type"] == "gemma2":
        return rope(config)
    key, base = ("rope_theta", 1e6) if kind == "full_attention" else ("rope_local_base_freq", 1e4)
    scaling = (config.get("rope_scaling") if kind == "full_attention" else None) or {}
    return rope(config, {"rope_theta": config.get(key, base)} | ((config.get("rope_parameters") or {}).get(kind) or {}) | scaling)


def config_of(model: DecoderLM, context: int) -> dict[str, Any]:
    """The config.json of a model. Raises ValueError for blocks unlike this family's."""
    mixer, ffn = parts(model, SandwichBlock, Attention, SwiGLU, RMSNorm, RoPE)
    kind = "gemma2" if mixer.qk_norm is None else "gemma3_text"
    kv_heads, head_dim = mixer.dims(model.width)
    config = {
        "architectures": [ARCHITECTURE[kind]], "model_type": kind, "hidden_activation": activation_name(ffn.activation, "gelu_pytorch_tanh"),
        "hidden_size": model.width, "num_hidden_layers": model.depth, "num_attention_heads": mixer.heads, "num_key_value_heads": kv_heads,
        "head_dim": head_dim, "intermediate_size": ffn.width_for(model.width), "vocab_size": model.vocab_size, "rms_norm_eps": model.blocks[0].norm.eps,
        "attention_bias": mixer.bias, "attn_logit_softcapping": mixer.soft_cap, "final_logit_softcapping": model.soft_cap,
        "query_pre_attn_scalar": head_dim if mixer.scale is None else round(mixer.scale**-2),
        "max_position_embeddings": context, "tie_word_embeddings": model.tied, "rope_parameters": rope_parameters(mixer.position),
    } | llama.windows_said(model)  # fmt: skip
    config.setdefault("sliding_window", context)
    config.setdefault("layer_types", ["full_attention"] * model.depth)
    if kind == "gemma3_text":
        sliding, full = ([b.mixer.position for b in model.blocks if bool(b.mixer.window) == windowed] for windowed in (True, False))
        positions = {"sliding_attention": (sliding or full)[0], "full_attention": (full or sliding)[0]}
        config["rope_parameters"] = {kind: rope_parameters(position) for kind, position in positions.items()}
    return config
