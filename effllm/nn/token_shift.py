"""The token before each token, for mixers that blend both."""

import jax
import jax.numpy as jnp

from effllm import ops
from effllm.ops.short_conv import Tail


def token_shift(x_btd: jax.Array, segment_ids: jax.Array | None, tail: Tail | None = None) -> tuple[jax.Array, Tail]:
    """(the real token before each one in its document, zero at the document's first; the tail that the next call takes)."""
    filter_wd = jnp.broadcast_to(jnp.array([[1.0], [0.0]]), (2, x_btd.shape[-1]))
    return ops.short_conv(x_btd, filter_wd, segments_bt=segment_ids, tail=tail)
