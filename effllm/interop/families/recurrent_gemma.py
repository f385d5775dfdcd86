"""recurrent_gemma: Griffin, blocks of the RG-LRU and of attention in a window in turn, GeGLU, scaled embeddings."""

from typing import Any

import ml_dtypes

from effllm.interop.families.settings import activation, activation_name, only, rope_parameters
from effllm.interop.layout import Filter, Tensor, embedding, linear, norm
from effllm.interop.normal import shortest
from effllm.nn import RGLRU, Attention, Block, DecoderLM, RMSNorm, RoPE, SwiGLU

TYPES = ("recurrent_gemma",)
PREFIX = "model."
IGNORED = ("*.rotary_emb.inv_freq",)
TOP = (*embedding("model.embed_tokens"), *norm("model.final_norm", "final_norm"), *linear("lm_head", "head"))


def block_tensors(block: Block) -> tuple[Tensor, ...]:
    """The tensors of a layer."""
    here = "model.layers.{}"
    inside = f"{here}.temporal_block"
    if isinstance(block.mixer, RGLRU):
        gates = (("recurrence", "recurrent"), ("input", "input"))
        time = (
            *linear(f"{inside}.linear_x", "mixer.input"), *linear(f"{inside}.linear_y", "mixer.gate"),
            *linear(f"{inside}.linear_out", "mixer.output"),
            Tensor(f"{inside}.conv_1d.weight", ("mixer.conv.filter",), Filter()), Tensor(f"{inside}.conv_1d.bias", ("mixer.conv.bias",)),
            *(Tensor(f"{inside}.rg_lru.{theirs}_gate_weight", (f"mixer.{ours}_gate",)) for ours, theirs in gates),
            *(Tensor(f"{inside}.rg_lru.{theirs}_gate_bias", (f"mixer.{ours}_bias",)) for ours, theirs in gates),
            Tensor(f"{inside}.rg_lru.recurrent_param", ("mixer.decay_logits",)),
        )  # fmt: skip
    else:
        time = sum((linear(f"{inside}.{theirs}_proj", f"mixer.{ours}") for ours, theirs in (("q", "q"), ("k", "k"), ("v", "v"), ("output", "o"))), ())
    ffn = sum((linear(f"{here}.mlp_block.{name}_proj", f"ffn.{name}") for name in ("gate", "up", "down")), ())
    return *norm(f"{here}.temporal_pre_norm", "mixer_norm"), *norm(f"{here}.channel_pre_norm", "ffn_norm"), *time, *ffn


def model_of(config: dict[str, Any]) -> DecoderLM:
    """The DecoderLM of a config.json. Raises ValueError naming the key that this family does not cover."""
    width, depth, heads = config["hidden_size"], config["num_hidden_layers"], config["num_attention_heads"]
    function = activation(config, "hidden_activation", "gelu_pytorch_tanh")
    rms_norm = RMSNorm(config["rms_norm_eps"], offset=1.0)
    said = config.get("rope_parameters") or config
    only({"rope_type": "default"} | said | {"model_type": config["model_type"]}, rope_type="default")
    mixers = {
        "recurrent": RGLRU(config.get("lru_width") or width, heads, config["conv1d_width"], function),
        "attention": Attention(
            heads=heads, kv_heads=config.get("num_key_value_heads") or heads, head_dim=config.get("head_dim") or width // heads,
            position=RoPE(float(said.get("rope_theta", 10000.0)), said.get("partial_rotary_factor", 0.5)), bias=config.get("attention_bias", False),
            output_bias=True, window=config["attention_window_size"],
        ),
    }  # fmt: skip
    types = config.get("block_types") or config["_block_types"]
    if set(types) - set(mixers):
        raise ValueError(f"block_types={types}: the recurrent_gemma family is covered with 'recurrent' and 'attention'")
    ffn = SwiGLU(config["intermediate_size"] // 2, function, bias=True)
    return DecoderLM(
        vocab_size=config["vocab_size"],
        width=width,
        depth=depth,
        blocks=shortest(tuple(Block(mixers[types[i % len(types)]], ffn, rms_norm) for i in range(depth))),
        norm=rms_norm,
        tied=config.get("tie_word_embeddings", True),
        soft_cap=config.get("logits_soft_cap", 30.0),
        embedding_scale=float(ml_dtypes.bfloat16(width**0.5)),  # as transformers keeps it, whatever it computes in
    )


def config_of(model: DecoderLM, context: int) -> dict[str, Any]:
    """The config.json of a model. Raises ValueError for blocks unlike this family's."""
    recurrent = [b.mixer for b in model.blocks if type(b.mixer) is RGLRU]
    attention = [b.mixer for b in model.blocks if type(b.mixer) is Attention]
    ffn, eps = model.blocks[0].ffn, model.blocks[0].norm.eps
    alike = recurrent and attention and len(recurrent) + len(attention) == len(model.blocks)
    if not alike or type(ffn) is not SwiGLU or type(attention[0].position) is not RoPE:
        raise ValueError("the blocks are not RG-LRUs and attention with RoPE in a window, each with a GeGLU")
    kv_heads, head_dim = attention[0].dims(model.width)
    return {
        "architectures": ["RecurrentGemmaForCausalLM"], "model_type": "recurrent_gemma", "hidden_size": model.width, "num_hidden_layers": model.depth,
        "num_attention_heads": attention[0].heads, "num_key_value_heads": kv_heads, "head_dim": head_dim, "attention_bias": attention[0].bias,
        "attention_window_size": attention[0].window, "intermediate_size": 2 * ffn.width_for(model.width), "rms_norm_eps": eps,
        "hidden_activation": activation_name(ffn.activation, "gelu_pytorch_tanh"), "lru_width": recurrent[0].width_for(model.width),
        "conv1d_width": recurrent[0].taps, "block_types": ["recurrent" if type(b.mixer) is RGLRU else "attention" for b in model.blocks],
        "logits_soft_cap": model.soft_cap, "vocab_size": model.vocab_size, "tie_word_embeddings": model.tied,
        "rope_parameters": rope_parameters(attention[0].position),
    }  # fmt: skip
