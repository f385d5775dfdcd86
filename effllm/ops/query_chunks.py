"""A function of queries, some of them at a time."""

from collections.abc import Callable

import jax
import jax.numpy as jnp


def by_query_chunks(function: Callable[..., jax.Array], chunk: int, *arrays_bt: jax.Array) -> jax.Array:
    """function(*arrays) for arrays (B, T, …) that it treats query by query, `chunk` of them at a time; (B, T, …)."""
    length = arrays_bt[0].shape[1]
    if length <= chunk:
        return function(*arrays_bt)

    def cut(a_bt):
        a_bt = jnp.pad(a_bt, ((0, 0), (0, -length % chunk), *[(0, 0)] * (a_bt.ndim - 2)))
        return jnp.moveaxis(a_bt.reshape(a_bt.shape[0], -1, chunk, *a_bt.shape[2:]), 1, 0)

    out_nbc = jax.lax.map(lambda parts: function(*parts), tuple(map(cut, arrays_bt)))
    out_bt = jnp.moveaxis(out_nbc, 0, 1)
    return out_bt.reshape(out_bt.shape[0], -1, *out_bt.shape[3:])[:, :length]
