"""The contract of everything that moves information along time."""

from typing import Any, ClassVar

import jax
from flax import linen as nn


def at_least(module: nn.Module, least: int, *names: str) -> None:
    """Raise ValueError where one of these fields of a module is a number below `least`; None stands for a default."""
    for name in names:
        value = getattr(module, name)
        if value is not None and value < least:
            raise ValueError(f"{type(module).__name__}: {name}={value} must be at least {least}")


class Mixer(nn.Module):
    """mixer(x_btd, *, positions, segment_ids, state=None) -> (y_btd, state).

    positions (B, T) int32. segment_ids (B, T) int32 keep packed documents apart; 0 is padding, which writes nothing; None is
    one document without padding. An id should not come back in a row after another one: to recurrences and convolutions it is then a new document, to
    attention the same one. No state in, no state out: training. With a state from `init_state`, the same call serves prefill
    (many tokens) and decoding (one token).

    `causal` says whether a decoder may use it. `cls()` is valid at widths 32 and 64; `variants` lists further constructor
    arguments that the laws try.
    """

    causal: ClassVar[bool] = True
    variants: ClassVar[tuple[dict[str, Any], ...]] = ()

    def init_state(self, batch: int, length: int, width: int, dtype: Any) -> Any:
        """An empty state for `length` tokens of `width` channels (an unbound mixer does not know its width)."""
        raise ValueError(f"{type(self).__name__} keeps no state: it cannot decode token by token")

    def flops(self, length: int, width: int) -> float:
        """Forward FLOPs per token of mixing `length` tokens, beyond the products with the weights."""
        return 0.0

    def __call__(self, x_btd: jax.Array, *, positions: jax.Array, segment_ids: jax.Array | None, state: Any = None) -> tuple[jax.Array, Any]:
        raise TypeError(f"{type(self).__name__} does not say how it mixes: it needs a __call__")
