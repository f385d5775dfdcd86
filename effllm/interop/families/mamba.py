"""mamba, falcon_mamba: blocks of a selective state space alone, in RMSNorm."""

from typing import Any

from effllm.interop.families.settings import only
from effllm.interop.layout import Filter, Rows, Tensor, embedding, linear, norm
from effllm.nn import Block, DecoderLM, Mamba, RMSNorm

TYPES = ("mamba", "falcon_mamba")
ARCHITECTURE = {"mamba": "MambaForCausalLM", "falcon_mamba": "FalconMambaForCausalLM"}
PREFIX = "backbone."
IGNORED = ()
TOP = (*embedding("backbone.embeddings"), *norm("backbone.norm_f", "final_norm"), *linear("lm_head", "head"))


def block_tensors(block: Block) -> tuple[Tensor, ...]:
    """The tensors of a layer."""
    here = "backbone.layers.{}"
    small = tuple(f"mixer.{name}.kernel" for name in ("step_rank", "b", "c"))
    return (
        *norm(f"{here}.norm", "mixer_norm"), *linear(f"{here}.mixer.in_proj", "mixer.input", "mixer.gate"),
        Tensor(f"{here}.mixer.conv1d.weight", ("mixer.conv.filter",), Filter()), Tensor(f"{here}.mixer.conv1d.bias", ("mixer.conv.bias",)),
        Tensor(f"{here}.mixer.x_proj.weight", small, Rows()), Tensor(f"{here}.mixer.dt_proj.weight", ("mixer.step.kernel",), Rows()),
        Tensor(f"{here}.mixer.dt_proj.bias", ("mixer.step_bias",)), Tensor(f"{here}.mixer.A_log", ("mixer.a_log",)),
        Tensor(f"{here}.mixer.D", ("mixer.skip",)), *linear(f"{here}.mixer.out_proj", "mixer.output"),
    )  # fmt: skip


def model_of(config: dict[str, Any]) -> DecoderLM:
    """The DecoderLM of a config.json. Raises ValueError naming the key that this family does not cover."""
    only(config, hidden_act="silu")
    width, rank = config["hidden_size"], config["time_step_rank"]
    if config.get("intermediate_size", config["expand"] * width) != config["expand"] * width:
        raise ValueError(f"intermediate_size={config['intermediate_size']}: Mamba is covered with expand × hidden_size = {config['expand'] * width}")
    mixer = Mamba(
        states=config["state_size"],
        expand=config["expand"],
        taps=config["conv_kernel"],
        rank=None if rank == "auto" else rank,
        inner_eps=config["mixer_rms_eps"] if config["model_type"] == "falcon_mamba" else None,
        bias=config["use_bias"],
        conv_bias=config["use_conv_bias"],
        step=(config.get("time_step_min", 0.001), config.get("time_step_max", 0.1)),
    )
    eps = config["layer_norm_epsilon"]
    return DecoderLM(
        vocab_size=config["vocab_size"],
        width=width,
        depth=config["num_hidden_layers"],
        blocks=(Block(mixer, None, RMSNorm(eps)),),
        norm=RMSNorm(eps),
        tied=config.get("tie_word_embeddings", True),
    )


def config_of(model: DecoderLM, context: int) -> dict[str, Any]:
    """The config.json of a model. Raises ValueError for blocks unlike this family's."""
    mixer = model.blocks[0].mixer
    if not isinstance(mixer, Mamba):
        raise ValueError(f"a block has a {type(mixer).__name__} for a Mamba")
    kind = "mamba" if mixer.inner_eps is None else "falcon_mamba"
    config = {
        "architectures": [ARCHITECTURE[kind]], "model_type": kind, "hidden_act": "silu", "hidden_size": model.width, "num_hidden_layers": model.depth,
        "intermediate_size": mixer.expand * model.width, "state_size": mixer.states, "expand": mixer.expand, "conv_kernel": mixer.taps,
        "time_step_rank": mixer.rank_for(model.width), "use_bias": mixer.bias, "use_conv_bias": mixer.conv_bias, "time_step_min": mixer.step[0],
        "time_step_max": mixer.step[1], "layer_norm_epsilon": model.norm.eps, "vocab_size": model.vocab_size, "tie_word_embeddings": model.tied,
    }  # fmt: skip
    return config if mixer.inner_eps is None else config | {"mixer_rms_eps": mixer.inner_eps}
