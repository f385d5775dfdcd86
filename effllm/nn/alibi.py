"""Attention with linear biases."""

import math

from effllm import ops
from effllm.nn.position import Position


class ALiBi(Position):
    """Scores fall by slope_h for each position between query and key, slopes 2^(−max_bias·h/H) (Press et al. 2021, arXiv 2108.12409).

    No parameters; heads that are no power of two take every second slope of the next one (ops.alibi_slopes). The distance is |i − j|,
    so that it also serves an encoder. `scaled` divides the slopes by √K too, as Falcon does, which adds them before it scales.
    """

    max_bias: float = 8.0
    scaled: bool = False

    def bias(self, heads, head_dim):
        slopes = ops.alibi_slopes(heads, self.max_bias) / (math.sqrt(head_dim) if self.scaled else 1.0)
        return ops.Bias((), ops.ALiBiBias(tuple(slopes.tolist())))
