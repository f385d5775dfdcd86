"""The mathematics of each technique as pure functions on arrays."""

import types

from effllm.ops.aft import aft
from effllm.ops.alibi import ALiBiBias, alibi_slopes
from effllm.ops.attention import attention
from effllm.ops.auxiliary import with_loss
from effllm.ops.bias import Bias, HeadBias
from effllm.ops.buckets import deberta_buckets, t5_buckets
from effllm.ops.clustered import clustered_attention
from effllm.ops.cross_entropy import linear_cross_entropy
from effllm.ops.distance import behind
from effllm.ops.entmax import entmax, entmax_attention
from effllm.ops.fire import fire_bias
from effllm.ops.fourier import fourier
from effllm.ops.delta_rule import delta_rule
from effllm.ops.dplr import dplr
from effllm.ops.linear_attention import linear_attention
from effllm.ops.linear_recurrence import linear_recurrence
from effllm.ops.long_conv import long_conv
from effllm.ops.grouped_matmul import grouped_matmul
from effllm.ops.groups import group_attention, ranks, remembered_group_attention
from effllm.ops.landmark import landmark_attention
from effllm.ops.hyper import hamming_hash, hyper_attention
from effllm.ops.kerple import kerple_log_bias, kerple_power_bias
from effllm.ops.longformer import GlobalQueries, LocalQueries
from effllm.ops.norm import layer_norm, rms_norm
from effllm.ops.paged_attention import paged_attention
from effllm.ops.pattern import BigBird, BlockLocal, Dilated, Fixed, Longformer, Pattern, StreamingLLM, Strided, join
from effllm.ops.relative_keys import DisentangledBias, RelativeKeyBias
from effllm.ops.documents import Documents, documents, mean_by
from effllm.ops.neighbours import neighbours
from effllm.ops.nystrom import nystrom
from effllm.ops.rotary import rotary
from effllm.ops.sandwich import SandwichBias
from effllm.ops.short_conv import short_conv
from effllm.ops.selective_scan import selective_scan
from effllm.ops.ssm import ssm
from effllm.ops.sinkhorn import sinkhorn, sinkhorn_attention
from effllm.ops.sinusoid import frequencies, sinusoid
from effllm.ops.t5_bias import BucketBias
from effllm.ops.tisa import tisa_bias
from effllm.ops.transformer_xl import relative_query
from effllm.ops.wkv import wkv
from effllm.ops.xpos import xpos_scale

# Everything imported above is public: a new technique adds one line.
__all__ = sorted(name for name, value in globals().items() if not name.startswith("_") and not isinstance(value, types.ModuleType))
