"""Attention through landmarks, by the Nyström method."""

from typing import ClassVar

from flax import linen as nn

from effllm import ops
from effllm.nn.heads import head_dim, merge_heads, nan_where, split_heads
from effllm.nn.init import Normal
from effllm.nn.linear import parameter
from effllm.nn.mixer import Mixer


class Nystromformer(Mixer):
    """o = softmax(q k̃ᵀ) softmax(q̃ k̃ᵀ)⁺ softmax(q̃ kᵀ) v + conv(v) (Xiong et al. 2021, arXiv 2102.03902; see ops.nystrom). Sees both sides.

    A document's landmarks q̃, k̃ are means over `landmarks` equal stretches of it. The pseudo-inverse takes `iterations` steps, each matrix begun
    at its own scale. `conv` taps (odd; 0 leaves the convolution out) run over each head's values. A row holds at most `documents` documents;
    later ones give NaN. `shared_scale` begins all matrices of a batch at one scale, as transformers does: its published models need it, but then rows
    of a batch touch one another, so that it refuses packed rows. O(T·landmarks·D) time without packing, O(T) memory.

    Raises ValueError for an even convolution, for no landmark, and for segments with shared_scale.
    """

    heads: int = 4
    landmarks: int = 32
    conv: int = 33
    iterations: int = 6
    bias: bool = False
    output_bias: bool = False
    shared_scale: bool = False
    documents: int = 8
    causal: ClassVar[bool] = False
    variants: ClassVar = ({"landmarks": 3, "conv": 3, "bias": True},)

    def flops(self, length, width):
        square = min(self.landmarks, length)
        return 8.0 * square * width + 2.0 * self.conv * width + (8.0 * self.iterations * square**3 + 2.0 * square**2 * width) / length

    @nn.compact
    def __call__(self, x_btd, *, positions, segment_ids, state=None):
        (batch, length, width), dim = x_btd.shape, head_dim(self, x_btd.shape[-1])
        if self.landmarks < 1 or self.iterations < 1:
            raise ValueError(f"Nystromformer: landmarks={self.landmarks} and iterations={self.iterations} must be at least 1")
        if self.conv < 0 or self.conv and self.conv % 2 == 0:
            raise ValueError(f"Nystromformer: conv={self.conv} has no middle; give an odd number of taps, or 0 for none")
        if self.shared_scale and segment_ids is not None:
            raise ValueError("Nystromformer: shared_scale=True mixes the documents of a packed batch; leave it out, or give segment_ids=None")
        q_bthk, k_bthk, v_bthk = (split_heads(x_btd, self.heads, dim, name, self.bias) for name in ("q", "k", "v"))
        found = ops.documents(segment_ids, (batch, length), self.documents)
        o_bthk = ops.nystrom(q_bthk, k_bthk, v_bthk, found, landmarks=self.landmarks, iterations=self.iterations, shared_scale=self.shared_scale)
        if self.conv:
            filter_wh = parameter(self, "filter", Normal(self.conv**-0.5), (self.conv, self.heads), (None, "heads"))
            o_bthk = o_bthk + ops.neighbours(v_bthk, filter_wh, segment_ids)
        return nan_where(found.lost_bt, merge_heads(o_bthk, width, self.output_bias)), None
