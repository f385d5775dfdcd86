"""nystromformer: BERT's arrangement with attention through landmarks, and two unused rows before the learned positions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from effllm.interop.families import bert
from effllm.interop.families.settings import only
from effllm.interop.layout import Layout, Shape, Tensor
from effllm.nn import EncoderLM, Learned, Nystromformer, PostNormBlock

TYPES = ("nystromformer",)
PREFIX = "nystromformer."
IGNORED = bert.ignored(PREFIX)
TOP = bert.top(PREFIX)
OFFSET = 2


@dataclass(frozen=True)
class Taps(Layout):
    """A filter (W, H) of ours in the weight (H, 1, W, 1) of a convolution over two axes, of which the second has one place."""

    def shape(self, ours: Sequence[Shape]) -> Shape:
        return ours[0][1], 1, ours[0][0], 1

    def split(self, tensor: np.ndarray, ours: Sequence[Shape]) -> list[np.ndarray]:
        return [tensor[:, 0, :, 0].T]

    def join(self, arrays: Sequence[np.ndarray]) -> np.ndarray:
        return arrays[0].T[:, None, :, None]


def block_tensors(block: PostNormBlock) -> tuple[Tensor, ...]:
    """The tensors of a layer."""
    layer = "nystromformer.encoder.layer.{}"
    filters = Tensor(f"{layer}.attention.self.conv.weight", ("mixer.filter",), Taps())
    return *bert.attention_tensors(layer), *bert.ffn_tensors(layer), filters


def model_of(config: dict[str, Any]) -> EncoderLM:
    """The EncoderLM of a config.json. Raises ValueError naming the key that this family does not cover.

    transformers computes texts of segment_means_seq_len tokens alone, with landmarks of equal stretches; ours takes any. Where it has as many
    landmarks as tokens, it computes plain attention instead, which is not covered.
    """
    only(config, inv_coeff_init_option=False)
    landmarks = config.get("num_landmarks", 64)
    if landmarks >= config.get("segment_means_seq_len", 64):
        raise ValueError(f"num_landmarks={landmarks} is not below segment_means_seq_len={config.get('segment_means_seq_len', 64)}: that is plain attention, a bert")
    mixer = Nystromformer(
        heads=config["num_attention_heads"], landmarks=landmarks, conv=config.get("conv_kernel_size") or 0, bias=True, output_bias=True, shared_scale=True
    )
    return bert.of({"hidden_act": "gelu_new", "layer_norm_eps": 1e-5} | config, mixer, input_position=Learned(config["max_position_embeddings"], OFFSET))


def config_of(model: EncoderLM, context: int) -> dict[str, Any]:
    """The config.json of a model for texts of `context` tokens. Raises ValueError for blocks unlike this family's."""
    mixer, said = bert.said_of(model, Nystromformer)
    return {
        "architectures": ["NystromformerForMaskedLM"], "model_type": "nystromformer", "num_attention_heads": mixer.heads, "num_landmarks": mixer.landmarks,
        "segment_means_seq_len": context, "conv_kernel_size": mixer.conv or None, "inv_coeff_init_option": False,
    } | said  # fmt: skip
