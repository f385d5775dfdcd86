"""gpt_bigcode (SantaCoder, StarCoder): GPT-2 with one key/value head for all and kernels stored as (out, in)."""

from typing import Any

from effllm.interop.families import gpt2
from effllm.interop.families.settings import GPT_NAMES, activation_name, renamed
from effllm.interop.layout import Rows, Tensor, linear, norm
from effllm.nn import Block, DecoderLM

TYPES = ("gpt_bigcode",)
PREFIX, IGNORED, TOP = gpt2.PREFIX, gpt2.IGNORED, gpt2.TOP


def block_tensors(block: Block) -> tuple[Tensor, ...]:
    """The tensors of a layer: q, k and v one after another for a single key/value head, head by head for as many as queries."""
    here, kv_heads = "transformer.h.{}", block.mixer.kv_heads
    return (
        *norm(f"{here}.ln_1", "mixer_norm"), *norm(f"{here}.ln_2", "ffn_norm"),
        *linear(f"{here}.attn.c_attn", "mixer.q", "mixer.k", "mixer.v", layout=Rows(kv_heads)), *linear(f"{here}.attn.c_proj", "mixer.output"),
        *linear(f"{here}.mlp.c_fc", "ffn.up"), *linear(f"{here}.mlp.c_proj", "ffn.down"),
    )  # fmt: skip


def model_of(config: dict[str, Any]) -> DecoderLM:
    """The DecoderLM of a config.json. Raises ValueError naming the key that this family does not cover."""
    config = {"activation_function": "gelu_pytorch_tanh"} | renamed(config, **GPT_NAMES)
    return gpt2.of(config, 1 if config.get("multi_query", True) else config["n_head"])


def config_of(model: DecoderLM, context: int) -> dict[str, Any]:
    """The config.json of a model; its context is that of the learned positions. Raises ValueError for blocks unlike this family's."""
    config, (block, *_) = gpt2.config_of(model, context), model.blocks
    return config | {
        "architectures": ["GPTBigCodeForCausalLM"], "model_type": "gpt_bigcode", "multi_query": block.mixer.dims(model.width)[0] == 1,
        "activation_function": activation_name(block.ffn.activation, "gelu_pytorch_tanh"),
    }  # fmt: skip
