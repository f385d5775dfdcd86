"""Families of transformers models. One is a module and a line here; it says

    TYPES: tuple[str, ...]                     the model_type of each config.json that it reads
    PREFIX: str                                the inner model's name in tensor names, which some writers leave out
    IGNORED: tuple[str, ...]                   patterns of tensors that are no parameters (masks, rotary tables)
    TOP: tuple[Tensor, ...]                    tensors outside the layers
    model_of(config) -> model                  ValueError naming the key that it does not cover
    config_of(model, context) -> config        ValueError for blocks unlike its own; `hf.save` checks that model_of brings the model back
    block_tensors(block) -> tuple[Tensor, ...] tensors of a block, {} in their names for its number ({half}: of two blocks)
"""

from typing import Any, Protocol

from effllm.interop.families import (
    bert, bloom, deberta_v2, falcon, fnet, funnel, gemma, gpt2, gpt_bigcode, gpt_neox, gptj, llama, longformer, mamba, mamba2, modernbert, mpt, nystromformer, olmo2,
    opt, phi, recurrent_gemma, rwkv, xlstm,
)  # fmt: skip
from effllm.interop.layout import Tensor


class Family(Protocol):
    """What a module here offers."""

    __name__: str
    TYPES: tuple[str, ...]
    PREFIX: str
    IGNORED: tuple[str, ...]
    TOP: tuple[Tensor, ...]

    def model_of(self, config: dict[str, Any]) -> Any: ...

    def config_of(self, model: Any, context: int) -> dict[str, Any]: ...

    def block_tensors(self, block: Any) -> tuple[Tensor, ...]: ...


FAMILIES: tuple[Family, ...] = (
    llama,
    olmo2,
    gemma,
    gpt2,
    gpt_bigcode,
    gpt_neox,
    gptj,
    phi,
    opt,
    falcon,
    bloom,
    mpt,
    bert,
    fnet,
    modernbert,
    nystromformer,
    deberta_v2,
    longformer,
    funnel,
    mamba,
    mamba2,
    rwkv,
    recurrent_gemma,
    xlstm,
)  # fmt: skip

TYPES = {name: family for family in FAMILIES for name in family.TYPES}
