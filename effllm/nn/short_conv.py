"""The short convolution as a module that recurrent mixers put before their recurrence."""

from collections.abc import Callable
from typing import Any

import jax
from flax import linen as nn

from effllm import ops
from effllm.nn.init import Fill, FanIn, Initializer
from effllm.nn.linear import parameter
from effllm.nn.mixer import at_least
from effllm.ops.short_conv import Tail


class ShortConv(nn.Module):
    """conv(x_btd, segment_ids, tail=None) -> (y_btd, tail): causal depthwise convolution of `taps` tokens (see ops.short_conv).

    The filter is (W, D); its last tap is the token itself. It starts at variance 1/W, which keeps the inputs' variance. A mixer holds the tail
    in its state: no tail in, no tail out. `axis` is the logical name of the channels. Cost 2·W FLOPs a channel and token.
    """

    taps: int = 4
    activation: Callable | None = nn.silu
    bias: bool = False
    init: Initializer = FanIn()
    axis: str | None = None

    def init_tail(self, batch: int, width: int, dtype: Any) -> Tail:
        """The tail before the first token."""
        return Tail.empty(batch, self.taps, width, dtype)

    def flops(self, width: int) -> float:
        """Forward FLOPs per token."""
        return 2.0 * self.taps * width

    @nn.compact
    def __call__(self, x_btd: jax.Array, segment_ids: jax.Array | None, tail: Tail | None = None) -> tuple[jax.Array, Tail | None]:
        at_least(self, 2, "taps")
        width = x_btd.shape[-1]
        filter_wd = parameter(self, "filter", self.init, (self.taps, width), (None, self.axis))
        bias_d = parameter(self, "bias", Fill(0.0), (width,), (self.axis,)) if self.bias else None
        y_btd, after = ops.short_conv(x_btd, filter_wd, bias_d, segments_bt=segment_ids, tail=tail, activation=self.activation)
        return y_btd, None if tail is None else after
