"""The Llama family of transformers (llama, mistral, qwen2, qwen3): pre-norm blocks of softmax attention with RoPE and SwiGLU, in RMSNorm."""

from typing import Any

from effllm.nn import Attention, Block, DecoderLM, Llama3Scaling, PositionInterpolation, RMSNorm, RoPE, RoPEScaling, SwiGLU, YaRN

TYPES = ("llama", "mistral", "qwen2", "qwen3")
ARCHITECTURE = {"llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
TOP = {"embed.embedding": "model.embed_tokens.weight", "final_norm.scale": "model.norm.weight", "head.kernel": "lm_head.weight"}
IN_BLOCK = {
    "mixer_norm.scale": "input_layernorm.weight",
    "ffn_norm.scale": "post_attention_layernorm.weight",
    "mixer.q_norm.scale": "self_attn.q_norm.weight",
    "mixer.k_norm.scale": "self_attn.k_norm.weight",
    **{f"mixer.{ours}.{kind}": f"self_attn.{theirs}_proj.{named}" for ours, theirs in (("q", "q"), ("k", "k"), ("v", "v"), ("output", "o"))
       for kind, named in (("kernel", "weight"), ("bias", "bias"))},
    **{f"ffn.{name}.{kind}": f"mlp.{name}_proj.{named}" for name in ("gate", "up", "down") for kind, named in (("kernel", "weight"), ("bias", "bias"))},
}  # fmt: skip


def model_of(config: dict[str, Any]) -> DecoderLM:
    """The DecoderLM of a config.json. Raises ValueError naming the key that this family does not cover."""
    kind = config["model_type"]
    if config.get("hidden_act", "silu") != "silu":
        raise ValueError(f"hidden_act={config['hidden_act']!r}: the {kind} family is covered with silu")
    heads, depth = config["num_attention_heads"], config["num_hidden_layers"]
    # Qwen's projections of q, k, v have biases whatever the key says; Mistral has none.
    bias = kind == "qwen2" or config.get("attention_bias", False)

    def block(window):
        mixer = Attention(
            heads=heads,
            kv_heads=config.get("num_key_value_heads", heads),
            head_dim=config.get("head_dim") or config["hidden_size"] // heads,
            position=RoPE(*rope(config)),
            qk_norm=RMSNorm(config["rms_norm_eps"]) if kind == "qwen3" else None,
            bias=bias,
            output_bias=bias and kind != "qwen2",
            window=window,
        )
        return Block(mixer, SwiGLU(config["intermediate_size"], bias=config.get("mlp_bias", False)), RMSNorm(config["rms_norm_eps"]))

    windows = layer_windows(config, depth)
    period = next(p for p in range(1, depth + 1) if depth % p == 0 and windows == windows[:p] * (depth // p))
    return DecoderLM(
        vocab_size=config["vocab_size"],
        width=config["hidden_size"],
        depth=depth,
        blocks=tuple(map(block, windows[:period])),
        norm=RMSNorm(config["rms_norm_eps"]),
        tied=config.get("tie_word_embeddings", False),
    )


def layer_windows(config: dict[str, Any], depth: int) -> list[int | None]:
    """The window of each layer, None where it sees all."""
    window = config.get("sliding_window") if config.get("use_sliding_window", True) else None
    types = config.get("layer_types") or ["sliding_attention" if window else "full_attention"] * depth
    return [window if t == "sliding_attention" else None for t in types]


def rope(config: dict[str, Any]) -> tuple[float, float, bool, RoPEScaling]:
    """RoPE's fields of a config.json, which says them in rope_parameters, or in rope_theta and rope_scaling before transformers 5."""
    said = config.get("rope_parameters") or {**(config.get("rope_scaling") or {}), "rope_theta": config.get("rope_theta", 10000.0)}
    kind = said.get("rope_type", said.get("type", "default"))
    trained = said.get("original_max_position_embeddings", config["max_position_embeddings"])
    if kind == "default":
        scaling = RoPEScaling()
    elif kind == "linear":
        scaling = PositionInterpolation(float(said["factor"]))
    elif kind == "yarn":
        known = {"rope_type", "type", "rope_theta", "factor", "original_max_position_embeddings", "beta_fast", "beta_slow"}
        if set(said) - known:
            raise ValueError(f"rope_parameters: yarn with {', '.join(sorted(set(said) - known))} is not covered")
        scaling = YaRN(float(said["factor"]), trained, float(said.get("beta_fast", 32)), float(said.get("beta_slow", 1)))
    elif kind == "llama3":
        scaling = Llama3Scaling(float(said["factor"]), trained, float(said["low_freq_factor"]), float(said["high_freq_factor"]))
    else:
        raise ValueError(f"rope_type={kind!r} is not covered; default, linear, yarn and llama3 are")
    return float(said["rope_theta"]), float(said.get("partial_rotary_factor", 1.0)), False, scaling


def config_of(model: DecoderLM, context: int) -> dict[str, Any]:
    """The config.json of a model. Raises ValueError for one that is not of this family."""
    first = model.blocks[0]
    mixer, ffn = first.mixer, first.ffn
    if not isinstance(mixer, Attention) or not isinstance(ffn, SwiGLU):
        raise ValueError(f"a block of {type(mixer).__name__} and {type(ffn).__name__} is no Llama: transformers has no family for it here")
    if not isinstance(mixer.position, RoPE):
        raise ValueError(f"transformers' Llama family cannot say position={type(mixer.position).__name__}, only RoPE")
    kind = "qwen3" if mixer.qk_norm is not None else "qwen2" if mixer.bias and not mixer.output_bias else "mistral" if mixer.window else "llama"
    kv_heads, head_dim = mixer.dims(model.width)
    config = {
        "architectures": [ARCHITECTURE[kind]], "model_type": kind, "hidden_act": "silu", "hidden_size": model.width, "num_hidden_layers": model.depth,
        "num_attention_heads": mixer.heads, "num_key_value_heads": kv_heads, "head_dim": head_dim, "intermediate_size": ffn.width_for(model.width),
        "vocab_size": model.vocab_size, "rms_norm_eps": model.norm.eps, "tie_word_embeddings": model.tied, "max_position_embeddings": context,
        "rope_parameters": rope_parameters(mixer.position),
    }  # fmt: skip
    windows = [b.mixer.window for b in model.blocks] * model.periods
    if any(windows):
        config["sliding_window"] = max(filter(None, windows))
        config["use_sliding_window"] = True
        config["layer_types"] = ["sliding_attention" if w else "full_attention" for w in windows]
    if kind == "llama":
        config |= {"attention_bias": mixer.bias, "mlp_bias": ffn.bias}
    if kind == "qwen3":
        config["attention_bias"] = mixer.bias
    if model_of(config).clone(dtype=model.dtype) != normal(model):
        raise ValueError("this model has what transformers' Llama family cannot say (blocks that differ, a soft cap, an interleaved or partial RoPE, …)")
    return config


def rope_parameters(position: RoPE) -> dict[str, Any]:
    """What config.json says of a RoPE."""
    said: dict[str, Any] = {"rope_type": "default", "rope_theta": position.base}
    match position.scaling:
        case PositionInterpolation(factor):
            said |= {"rope_type": "linear", "factor": factor}
        case YaRN(factor, trained, fast, slow):
            said |= {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": trained, "beta_fast": fast, "beta_slow": slow}
        case Llama3Scaling(factor, trained, low, high):
            said |= {"rope_type": "llama3", "factor": factor, "original_max_position_embeddings": trained, "low_freq_factor": low, "high_freq_factor": high}
    return said


def normal(model: DecoderLM) -> DecoderLM:
    """The model as `model_of` would build it: sizes said outright, training's own fields at their defaults, one block where all are alike."""

    def block(b):
        kv_heads, head_dim = b.mixer.dims(model.width)
        plain = Attention()
        mixer = b.mixer.clone(kv_heads=kv_heads, head_dim=head_dim, output_init=plain.output_init, implementation=None)
        ffn = b.ffn.clone(hidden=b.ffn.width_for(model.width), output_init=SwiGLU().output_init)
        return b.clone(mixer=mixer, ffn=ffn, dropout=0.0)

    blocks = tuple(map(block, model.blocks))
    period = next(p for p in range(1, len(blocks) + 1) if len(blocks) % p == 0 and blocks == blocks[:p] * (len(blocks) // p))
    plain = DecoderLM()
    return model.clone(blocks=blocks[:period], embedding_init=plain.embedding_init, head_init=plain.head_init, remat=None, unroll=1)
