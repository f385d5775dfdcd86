"""xlstm: the 7 B model's blocks of an mLSTM and a SwiGLU, in RMSNorm, with capped logits."""

from typing import Any

from effllm.interop.families.settings import only
from effllm.interop.layout import Tensor, embedding, linear, norm
from effllm.nn import MLSTM, Block, DecoderLM, EachHeadLayerNorm, RMSNorm, SwiGLU

TYPES = ("xlstm",)
PREFIX = "backbone."
IGNORED = ()
TOP = (*embedding("backbone.embeddings"), *norm("backbone.out_norm", "final_norm"), *linear("lm_head", "head"))
GATES = ("input_gate", "igate_preact"), ("forget_gate", "fgate_preact")
FFN_FACTOR, FFN_MULTIPLE = 2.667, 64


def block_tensors(block: Block) -> tuple[Tensor, ...]:
    """The tensors of a layer."""
    here = "backbone.blocks.{}"
    inside = f"{here}.mlstm_layer"
    mixer = (*((n, n) for n in "qkv"), ("gate", "ogate_preact"), ("output", "out_proj"), *GATES)
    ffn = ("gate", "proj_up_gate"), ("up", "proj_up"), ("down", "proj_down")
    return (
        *norm(f"{here}.norm_mlstm", "mixer_norm"), *norm(f"{inside}.multihead_norm", "mixer.head_norm"), *norm(f"{here}.norm_ffn", "ffn_norm"),
        *sum((linear(f"{inside}.{theirs}", f"mixer.{ours}") for ours, theirs in mixer), ()),
        *(Tensor(f"{inside}.{theirs}.bias", (f"mixer.{ours}_bias",)) for ours, theirs in GATES),
        *sum((linear(f"{here}.ffn.{theirs}", f"ffn.{ours}") for ours, theirs in ffn), ()),
    )  # fmt: skip


def model_of(config: dict[str, Any]) -> DecoderLM:
    """The DecoderLM of a config.json. Raises ValueError naming the key that this family does not cover."""
    width, heads = config["hidden_size"], config["num_heads"]
    only(config, use_bias=False, add_out_norm=True, weight_mode="single", embedding_dim=width, num_blocks=config["num_hidden_layers"])
    channels = {key: int(width * config.get(key, default)) for key, default in (("qk_dim_factor", 0.5), ("v_dim_factor", 1.0))}
    for key, count in channels.items():
        if count % heads:
            raise ValueError(f"{key}={config[key]}: {count} channels are not a multiple of num_heads={heads}")
    multiple = config.get("ffn_round_up_to_multiple_of", FFN_MULTIPLE)
    normed, eps = RMSNorm(config["norm_eps"]), config["norm_eps"]
    mixer = MLSTM(
        heads, channels["v_dim_factor"] // heads, channels["qk_dim_factor"] // heads, config.get("gate_soft_cap", 15.0), config.get("eps", 1e-6),
        EachHeadLayerNorm(eps), chunk=config.get("chunk_size", 64),
    )  # fmt: skip
    return DecoderLM(
        vocab_size=config["vocab_size"],
        width=width,
        depth=config["num_hidden_layers"],
        blocks=(Block(mixer, SwiGLU(rounded(width * config.get("ffn_proj_factor", FFN_FACTOR), multiple)), normed),),
        norm=normed,
        tied=config.get("tie_word_embeddings", False),
        soft_cap=config.get("output_logit_soft_cap", 30.0),
    )


def rounded(number: float, multiple: int) -> int:
    """Up to a multiple."""
    return int((number + multiple - 1) // multiple * multiple)


def config_of(model: DecoderLM, context: int) -> dict[str, Any]:
    """The config.json of a model; nothing in it limits the context. Raises ValueError for blocks unlike this family's."""
    for block in model.blocks:
        if type(block) is not Block or type(block.mixer) is not MLSTM or type(block.ffn) is not SwiGLU:
            raise ValueError(f"a {type(block).__name__} of {type(block.mixer).__name__} is none of this family's")
    block, width = model.blocks[0], model.width
    (key, value), hidden, mixer = block.mixer.dims(width), block.ffn.width_for(width), block.mixer
    usual = hidden == rounded(width * FFN_FACTOR, FFN_MULTIPLE)
    return {
        "architectures": ["xLSTMForCausalLM"], "model_type": "xlstm", "hidden_size": width, "embedding_dim": width, "num_hidden_layers": model.depth,
        "num_blocks": model.depth, "num_heads": mixer.heads, "qk_dim_factor": mixer.heads * key / width, "v_dim_factor": mixer.heads * value / width,
        "ffn_proj_factor": FFN_FACTOR if usual else hidden / width, "ffn_round_up_to_multiple_of": FFN_MULTIPLE if usual else hidden,
        "gate_soft_cap": mixer.gate_cap, "output_logit_soft_cap": model.soft_cap, "chunk_size": mixer.chunk or 64, "eps": mixer.eps, "norm_eps": block.norm.eps,
        "use_bias": False, "add_out_norm": True, "weight_mode": "single", "vocab_size": model.vocab_size, "tie_word_embeddings": model.tied,
    }  # fmt: skip
