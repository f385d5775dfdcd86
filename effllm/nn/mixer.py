"""The contract of everything that moves information along time."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from effllm.nn.rebuild import rebuild


def at_least(module: nn.Module, least: int, *names: str) -> None:
    """Raise ValueError where one of these fields of a module is a number below `least`; None stands for a default."""
    for name in names:
        value = getattr(module, name)
        if value is not None and value < least:
            raise ValueError(f"{type(module).__name__}: {name}={value} must be at least {least}")


def form(state: Any) -> tuple[Any, tuple[int, ...]]:
    """(tree of a state, numbers of axes of its arrays): what it has whatever the length."""
    return jax.tree.structure(state), tuple(jnp.ndim(leaf) for leaf in jax.tree.leaves(state))


def described(state: Any) -> str:
    """The classes and settings that a state is made of, without its arrays."""
    name = type(state).__name__
    if dataclasses.is_dataclass(state):
        parts = {f.name: getattr(state, f.name) for f in dataclasses.fields(state)}
        said = [f"{n}={described(part)}" for n, part in parts.items() if described(part)]
        return f"{name}({', '.join(said)})" if said else name
    if isinstance(state, dict):
        return f"{{{', '.join(state)}}}"
    if isinstance(state, tuple):
        inner = ", ".join(described(part) or "array" for part in state)
        return name if hasattr(state, "_fields") else f"({inner})"
    return "" if hasattr(state, "shape") else repr(state)


def own_states_only(call: Callable) -> Callable:
    """A mixer's `__call__` that first refuses a state not of the form that the mixer's `init_state` gives."""

    @functools.wraps(call)
    def checked(mixer: "Mixer", x_btd: jax.Array, *, state: Any = None, **others: Any):
        if state is not None and mixer.causal:  # what sees both sides refuses any
            batch, _, width = x_btd.shape
            own = jax.eval_shape(lambda: rebuild(mixer).init_state(batch, 1, width, x_btd.dtype))
            if form(state) != form(own):
                name, given, made = type(mixer).__name__, described(state), described(own)
                raise ValueError(
                    f"{name}: the state is {given}{', of arrays with other axes' * (given == made)}; this mixer has {made}: it is another model's state;"
                    f" init_state(batch={batch}, …) makes one"
                )
        return call(mixer, x_btd, state=state, **others)

    return checked


class Mixer(nn.Module):
    """mixer(x_btd, *, positions, segment_ids, state=None) -> (y_btd, state).

    positions (B, T) int32. segment_ids (B, T) int32 keep packed documents apart; 0 is padding, which writes nothing; None is
    one document without padding. An id should not come back in a row after another one: to recurrences and convolutions it is then a new document, to
    attention the same one. No state in, no state out: training. With a state from `init_state`, the same call serves prefill
    (many tokens) and decoding (one token).

    A state that another kind of mixer made is refused with a ValueError, whichever mixer is called (`own_states_only`).

    `causal` says whether a decoder may use it. `cls()` is valid at widths 32 and 64; `variants` lists further constructor
    arguments that the laws try.
    """

    causal: ClassVar[bool] = True
    variants: ClassVar[tuple[dict[str, Any], ...]] = ()

    def __init_subclass__(cls, **options: Any) -> None:
        if "__call__" in cls.__dict__:
            cls.__call__ = own_states_only(cls.__call__)
        super().__init_subclass__(**options)

    def init_state(self, batch: int, length: int, width: int, dtype: Any) -> Any:
        """An empty state for `length` tokens of `width` channels (an unbound mixer does not know its width)."""
        raise ValueError(f"{type(self).__name__} keeps no state: it cannot decode token by token")

    def flops(self, length: int, width: int) -> float:
        """Forward FLOPs per token of mixing `length` tokens, beyond the products with the weights."""
        return 0.0

    def __call__(self, x_btd: jax.Array, *, positions: jax.Array, segment_ids: jax.Array | None, state: Any = None) -> tuple[jax.Array, Any]:
        raise TypeError(f"{type(self).__name__} does not say how it mixes: it needs a __call__")
