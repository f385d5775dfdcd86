"""mamba2: blocks of Mamba-2 alone, in RMSNorm; one tensor holds the projections to z, x, B, C and Δ, another the filters of x, B and C."""

from typing import Any

from effllm.interop.families.settings import only
from effllm.interop.layout import Filter, Rows, Tensor, embedding, linear, norm
from effllm.nn import Block, DecoderLM, Mamba2, RMSNorm, ShortConv

TYPES = ("mamba2",)
PREFIX = "backbone."
IGNORED = ()
TOP = (*embedding("backbone.embeddings"), *norm("backbone.norm_f", "final_norm"), *linear("lm_head", "head"))


def block_tensors(block: Block) -> tuple[Tensor, ...]:
    """The tensors of a layer."""
    here, convolved = "backbone.layers.{}", [f"mixer.{name}_conv" for name in "xbc"]
    return (
        *norm(f"{here}.norm", "mixer_norm"), *norm(f"{here}.mixer.norm", "mixer.output_norm"),
        *linear(f"{here}.mixer.in_proj", *(f"mixer.{name}" for name in ("gate", "x", "b", "c", "step"))), *linear(f"{here}.mixer.out_proj", "mixer.output"),
        Tensor(f"{here}.mixer.conv1d.weight", tuple(f"{path}.filter" for path in convolved), Filter()),
        Tensor(f"{here}.mixer.conv1d.bias", tuple(f"{path}.bias" for path in convolved), Rows()),
        Tensor(f"{here}.mixer.A_log", ("mixer.log_a",)), Tensor(f"{here}.mixer.dt_bias", ("mixer.step_bias",)), Tensor(f"{here}.mixer.D", ("mixer.skip",)),
    )  # fmt: skip


def model_of(config: dict[str, Any]) -> DecoderLM:
    """The DecoderLM of a config.json. Raises ValueError naming the key that this family does not cover."""
    width, heads, expand = config["hidden_size"], config["num_heads"], config["expand"]
    only(config, hidden_act="silu", use_bias=False, rms_norm=True, head_dim=expand * width // heads)
    low, high = config.get("time_step_limit", (0.0, float("inf")))
    if low > 0 or high not in (float("inf"), {"__float__": "Infinity"}):
        raise ValueError(f"time_step_limit={[low, high]}: the mamba2 family is covered without a limit")
    normed = RMSNorm(config["layer_norm_epsilon"])
    conv = ShortConv(taps=config["conv_kernel"], bias=config.get("use_conv_bias", True))
    mixer = Mamba2(heads=heads, expand=expand, state=config["state_size"], groups=config["n_groups"], norm=normed, conv=conv, chunk=config["chunk_size"])
    return DecoderLM(
        vocab_size=config["vocab_size"],
        width=width,
        depth=config["num_hidden_layers"],
        blocks=(Block(mixer, None, normed),),
        norm=normed,
        tied=config.get("tie_word_embeddings", False),
    )


def config_of(model: DecoderLM, context: int) -> dict[str, Any]:
    """The config.json of a model; nothing in it limits the context. Raises ValueError for blocks unlike this family's."""
    for block in model.blocks:
        if type(block) is not Block or type(block.mixer) is not Mamba2 or block.ffn is not None or type(block.mixer.conv) is not ShortConv:
            raise ValueError(f"a {type(block).__name__} of {type(block.mixer).__name__} is none of this family's")
    mixer, normed = model.blocks[0].mixer, model.blocks[0].norm
    return {
        "architectures": ["Mamba2ForCausalLM"], "model_type": "mamba2", "hidden_size": model.width, "num_hidden_layers": model.depth,
        "num_heads": mixer.heads, "head_dim": mixer.head_dim(model.width), "expand": mixer.expand, "state_size": mixer.state, "n_groups": mixer.groups,
        "conv_kernel": mixer.conv.taps, "use_conv_bias": mixer.conv.bias, "use_bias": False, "hidden_act": "silu", "vocab_size": model.vocab_size,
        "layer_norm_epsilon": normed.eps, "tie_word_embeddings": model.tied, "chunk_size": mixer.chunk or 256,
    }  # fmt: skip
