"""A causal mixer run from both ends, as a mixer for encoders."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from effllm.nn.mixer import Mixer
from effllm.nn.rebuild import adopt
from effllm.nn.recurrent import documents
from effllm.nn.rglru import RGLRU


def flip(x: jax.Array | None) -> jax.Array | None:
    """(B, T, …) from the end."""
    return None if x is None else jnp.flip(x, axis=1)


def flipped_positions(positions: jax.Array, segment_ids: jax.Array | None) -> jax.Array:
    """(B, T) the positions of the flipped text: each document counts its tokens from its own end."""
    if segment_ids is None:
        return jnp.broadcast_to(jnp.arange(positions.shape[1], dtype=positions.dtype), positions.shape)
    now = documents(flip(segment_ids), None)
    order_bt = jnp.cumsum(now.real_bt, axis=1, dtype=positions.dtype) - 1
    return order_bt - jax.lax.cummax(jnp.where(now.reset_bt, order_bt, 0), axis=1)


def refuse_state(mixer: Mixer, state: Any) -> None:
    """Raise ValueError where a mixer that sees both sides is given a state."""
    if state is not None:
        raise ValueError(f"{type(mixer).__name__} sees both sides and keeps no state; call it without one")


class Bidirectional(Mixer):
    """y = forward(x) + flip(backward(flip(x))): two mixers made from one causal one, with their own parameters (Schuster & Paliwal 1997).

    Each document is turned by itself. Costs twice the mixer's training; keeps no state, since every token sees all. Raises ValueError for a mixer that
    is not causal, and for a state.
    """

    mixer: Mixer = RGLRU()
    causal: ClassVar = False

    def validate(self) -> None:
        """Raise ValueError for a mixer that sees both sides already."""
        if not self.mixer.causal:
            raise ValueError(f"Bidirectional: mixer={type(self.mixer).__name__} sees both sides already; use it as it is")

    def flops(self, length, width):
        return 2 * self.mixer.flops(length, width)

    @nn.compact
    def __call__(self, x_btd, *, positions, segment_ids, state=None):
        self.validate()
        refuse_state(self, state)
        forward, _ = adopt(self, self.mixer, "forward")(x_btd, positions=positions, segment_ids=segment_ids)
        backward = adopt(self, self.mixer, "backward")
        back, _ = backward(flip(x_btd), positions=flipped_positions(positions, segment_ids), segment_ids=flip(segment_ids))
        return forward + flip(back), None
