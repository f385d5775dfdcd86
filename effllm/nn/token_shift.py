"""The token before each token, for mixers that blend both."""

import jax
import jax.numpy as jnp

from effllm import ops
from effllm.nn.init import FanIn, Initializer
from effllm.nn.mixer import Mixer, at_least
from effllm.nn.recurrent import RecurrentState
from effllm.ops.short_conv import Tail


def token_shift(x_btd: jax.Array, segment_ids: jax.Array | None, tail: Tail | None = None) -> tuple[jax.Array, Tail]:
    """(the real token before each one in its document, zero at the document's first; the tail that the next call takes)."""
    filter_wd = jnp.broadcast_to(jnp.array([[1.0], [0.0]]), (2, x_btd.shape[-1]))
    return ops.short_conv(x_btd, filter_wd, segments_bt=segment_ids, tail=tail)


class ChannelMix(Mixer):
    """Base of RWKV's feed-forward layers, which see the token before: they stand in a feed-forward layer's place, but move information along time,
    so they are mixers. `hidden=None` is four times the width."""

    hidden: int | None = None
    output_init: Initializer = FanIn()

    def width_for(self, width: int) -> int:
        """The width of keys at this model width."""
        at_least(self, 1, "hidden")
        return 4 * width if self.hidden is None else self.hidden

    def init_state(self, batch, length, width, dtype):
        return RecurrentState.empty(batch, (), Tail.empty(batch, 2, width, dtype))
