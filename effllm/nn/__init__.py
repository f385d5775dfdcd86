"""Flax Linen modules: mixers, positions, feed-forward layers, blocks, models (survey §5)."""

from effllm.nn.attention import Attention
from effllm.nn.block import Block
from effllm.nn.cache import KVCache, RingCache
from effllm.nn.decoder import DecoderLM, DecoderState
from effllm.nn.ffn import FFN, MLP, SwiGLU, gelu
from effllm.nn.init import Fill, FanIn, Normal
from effllm.nn.linear import Linear
from effllm.nn.loss import NextToken
from effllm.nn.mixer import Mixer
from effllm.nn.norm import LayerNorm, Norm, RMSNorm
from effllm.nn.position import Position, RoPE
from effllm.nn.random_ltd import RandomLTD
from effllm.nn.rebuild import rebuild
from effllm.nn.rope_scaling import Llama3Scaling, LongRoPE, NTKAware, PositionInterpolation, RoPEScaling, YaRN
from effllm.nn.row_loss import RowLoss

__all__ = [
    "Attention", "Block", "DecoderLM", "DecoderState", "FFN", "FanIn", "Fill", "KVCache", "LayerNorm", "Linear", "Llama3Scaling",
    "LongRoPE", "MLP", "Mixer", "NTKAware", "NextToken", "Norm", "Normal", "Position", "PositionInterpolation", "RMSNorm", "RandomLTD",
    "RingCache", "RoPE", "RoPEScaling", "RowLoss", "SwiGLU", "YaRN", "gelu", "rebuild",
]  # fmt: skip
