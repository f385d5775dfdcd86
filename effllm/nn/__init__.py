"""Flax Linen modules: mixers, positions, feed-forward layers, blocks, models (survey §5)."""

import types

from effllm.nn.aft import AFTConv, AFTFull, AFTLocal, AFTSimple
from effllm.nn.alibi import ALiBi
from effllm.nn.attention import Attention
from effllm.nn.bidirectional import Bidirectional
from effllm.nn.bigs import BiGS
from effllm.nn.block import Block
from effllm.nn.block_recurrent import BlockRecurrent, FixedGate, LSTMGate
from effllm.nn.block_state import BlockState
from effllm.nn.blockwise_ffn import BlockwiseFFN
from effllm.nn.cache import KVCache, RingCache
from effllm.nn.cosformer import CosFormer
from effllm.nn.cape import CAPE
from effllm.nn.complex_embedding import ComplexEmbedding
from effllm.nn.clustered import ClusteredAttention
from effllm.nn.decoder import DecoderLM, DecoderState
from effllm.nn.disentangled import Disentangled
from effllm.nn.disentangled_attention import DisentangledAttention, DistanceEmbedding
from effllm.nn.dss import DSS
from effllm.nn.dynamic_ntk import DynamicNTK, dynamic_ntk
from effllm.nn.delta_net import DeltaNet, GatedDeltaNet
from effllm.nn.encoder import EncoderLM, HeadTransform
from effllm.nn.entmax import EntmaxAttention
from effllm.nn.ffn import FFN, MLP, SwiGLU, gelu
from effllm.nn.fire import FIRE
from effllm.nn.floater import FLOATER
from effllm.nn.first_block import FirstBlock
from effllm.nn.fnet import FNet
from effllm.nn.funnel import FunnelAttention, FunnelBlock
from effllm.nn.gated_linear_attention import GatedLinearAttention
from effllm.nn.gss import GSS
from effllm.nn.h3 import H3
from effllm.nn.hyena import Hyena
from effllm.nn.init import Fill, FanIn, Normal
from effllm.nn.kerple import KERPLELog, KERPLEPower
from effllm.nn.hyper import HyperAttention
from effllm.nn.inducing import InducedSetAttention
from effllm.nn.landmark import LandmarkAttention
from effllm.nn.language_model import LanguageModel
from effllm.nn.input_position import InputPosition, Learned, Sinusoidal
from effllm.nn.lightning_attention import LightningAttention
from effllm.nn.linear import Linear
from effllm.nn.linformer import Linformer
from effllm.nn.latent_attention import LatentAttention
from effllm.nn.linear import Kernel, Linear
from effllm.nn.linear_attention import LinearAttention
from effllm.nn.longformer import LongformerAttention
from effllm.nn.loss import NextToken, Objective
from effllm.nn.mamba2 import Mamba2
from effllm.nn.masked_lm import MaskedLM
from effllm.nn.loss import NextToken
from effllm.nn.lru import LRU
from effllm.nn.mamba import Mamba
from effllm.nn.mega import Mega
from effllm.nn.mixer import Mixer
from effllm.nn.mlstm import MLSTM
from effllm.nn.norm import LayerNorm, Norm, RMSNorm
from effllm.nn.paged import PagedCache
from effllm.nn.performer import Performer
from effllm.nn.pose import PoSE
from effllm.nn.nystromformer import Nystromformer
from effllm.nn.pooled import PooledAttention
from effllm.nn.norm import EachHeadLayerNorm, HeadsRMSNorm, LayerNorm, Norm, RMSNorm
from effllm.nn.parallel_block import ParallelBlock
from effllm.nn.position import Position, RoPE
from effllm.nn.post_norm import BranchNormBlock, PostNormBlock, SandwichBlock
from effllm.nn.random_feature_attention import RandomFeatureAttention
from effllm.nn.random_ltd import RandomLTD
from effllm.nn.randomized_positions import RandomizedPositions
from effllm.nn.rebuild import rebuild
from effllm.nn.reformer import Reformer
from effllm.nn.resample import Resample
from effllm.nn.rglru import RGLRU
from effllm.nn.retention import Retention
from effllm.nn.rope_scaling import Llama3Scaling, LongRoPE, NTKAware, PositionInterpolation, RoPEScaling, YaRN
from effllm.nn.routing import RoutingAttention
from effllm.nn.row_loss import RowGradientNorm, RowLoss
from effllm.nn.rwkv4 import RWKV4ChannelMix, RWKV4TimeMix
from effllm.nn.rwkv6 import RWKV6TimeMix
from effllm.nn.rwkv7 import RWKV7ChannelMix, RWKV7TimeMix
from effllm.nn.s4 import S4
from effllm.nn.s4d import S4D
from effllm.nn.s5 import S5
from effllm.nn.sandwich import Sandwich
from effllm.nn.scheduled import Ramp, Scheduled, at_step
from effllm.nn.shape import SHAPE
from effllm.nn.shaw import Shaw
from effllm.nn.short_conv import ShortConv
from effllm.nn.sinkhorn import SinkhornAttention
from effllm.nn.slstm import SLSTM
from effllm.nn.spectrum import HiPPO, InverseSpectrum, Spectrum
from effllm.nn.t5_bias import T5Bias
from effllm.nn.tisa import TISA
from effllm.nn.transformer_xl import TransformerXL
from effllm.nn.value_residual import ValueResidualBlock
from effllm.nn.xpos import XPos
from effllm.ops.pattern import BigBird, BlockLocal, Dilated, Fixed, Longformer, Pattern, StreamingLLM, Strided

# Everything imported above is public: a new technique adds one line.
__all__ = sorted(name for name, value in globals().items() if not name.startswith("_") and not isinstance(value, types.ModuleType))
