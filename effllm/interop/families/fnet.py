"""fnet: BERT's arrangement with Fourier transforms for attention, and a linear map after the embeddings."""

from typing import Any

from effllm.interop.families import bert
from effllm.interop.layout import Tensor, linear, norm
from effllm.nn import EncoderLM, FNet, PostNormBlock

TYPES = ("fnet",)
PREFIX = "fnet."
IGNORED = bert.ignored(PREFIX)
TOP = (*bert.top(PREFIX), *linear("fnet.embeddings.projection", "embed_projection"))


def block_tensors(block: PostNormBlock) -> tuple[Tensor, ...]:
    """The tensors of a layer."""
    layer = "fnet.encoder.layer.{}"
    return *norm(f"{layer}.fourier.output.LayerNorm", "mixer_norm"), *bert.ffn_tensors(layer)


def model_of(config: dict[str, Any]) -> EncoderLM:
    """The EncoderLM of a config.json. Raises ValueError naming the key that this family does not cover."""
    return bert.of({"hidden_act": "gelu_new"} | config, FNet(), project_embedding=True)


def config_of(model: EncoderLM, context: int) -> dict[str, Any]:
    """The config.json of a model; its context is that of the learned positions. Raises ValueError for blocks unlike this family's."""
    _, said = bert.said_of(model, FNet)
    # Its fast transforms on TPUs are of one length, and change no number.
    return {"architectures": ["FNetForMaskedLM"], "model_type": "fnet", "use_tpu_fourier_optimizations": False} | said
