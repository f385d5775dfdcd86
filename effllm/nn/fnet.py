"""Fourier transforms instead of attention."""

import math
from typing import ClassVar

from effllm import ops
from effllm.nn.mixer import Mixer


class FNet(Mixer):
    """y = Re FFT_time(FFT_width(x)), without parameters (Lee-Thorp et al. 2021, arXiv 2105.03824). O(T log T · D); sees both sides.

    Each document of a packed row is transformed by itself, at its own length. A row holds at most `documents` of them; later ones give NaN.
    """

    documents: int = 8
    causal: ClassVar[bool] = False

    def flops(self, length, width):
        return 5.0 * width * math.log2(max(2, length * width))  # 5·N·log₂N for N points

    def __call__(self, x_btd, *, positions, segment_ids, state=None):
        return ops.fourier(x_btd, segment_ids, count=self.documents), None
