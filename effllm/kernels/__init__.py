"""Pallas forms of the hot ops: same name and signature as the op in effllm.ops."""

import types

from effllm.kernels.attention import attention
from effllm.kernels.cross_entropy import linear_cross_entropy
from effllm.kernels.delta_rule import delta_rule
from effllm.kernels.grouped_matmul import grouped_matmul
from effllm.kernels.linear_attention import linear_attention
from effllm.kernels.linear_recurrence import linear_recurrence
from effllm.kernels.paged_attention import paged_attention
from effllm.kernels.selective_scan import selective_scan

# Everything imported above is public: a new kernel adds one line.
__all__ = sorted(name for name, value in globals().items() if not name.startswith("_") and not isinstance(value, types.ModuleType))
