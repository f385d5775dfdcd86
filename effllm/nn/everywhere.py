"""One array of a model that all its layers read."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import jax

_ARRAY: ContextVar[jax.Array | None] = ContextVar("everywhere", default=None)


@contextmanager
def everywhere(array: jax.Array | None) -> Iterator[None]:
    """Within, `from_everywhere` gives this array to whatever is traced, scanned layers included, which take it as a constant; None is none.

    For what a model has once and a mixer needs, such as embeddings of distances: the contract of a mixer does not know of it.
    """
    token = _ARRAY.set(array)
    try:
        yield
    finally:
        _ARRAY.reset(token)


def from_everywhere() -> jax.Array | None:
    """The array that the model gives to all layers, None where it gives none."""
    return _ARRAY.get()
