"""The mathematics of each technique as pure functions on arrays."""

from effllm.ops.attention import attention
from effllm.ops.cross_entropy import linear_cross_entropy
from effllm.ops.norm import layer_norm, rms_norm
from effllm.ops.rotary import rotary

__all__ = ["attention", "layer_norm", "linear_cross_entropy", "rms_norm", "rotary"]
