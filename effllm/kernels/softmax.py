"""A softmax that runs over blocks of keys: what the kernels of attention compute on their tiles."""

from typing import Any

import jax.numpy as jnp

from effllm.kernels.tiles import product
from effllm.ops.blockwise import Rule, meet
from effllm.ops.where import Where


def scores(rule: Rule, tiles: dict[str, Any], rows, columns, dtype):
    """(scores of one side's rows against the other's, −∞ where hidden, derivative of the cap or None)."""
    z, where, slope = rule.scale * product(rows, columns, (False, True), wide=dtype), Where(*map(tiles.get, Where._fields)), None
    if rule.bias is not None:
        z = z + rule.bias.of_head(tiles["number"], where.q_positions_bt, where.k_positions_bs)
    if rule.soft_cap is not None:
        squashed = jnp.tanh(z / rule.soft_cap)
        z, slope = rule.soft_cap * squashed, 1 - squashed * squashed
    seen = meet(where, rule)
    return z if seen is None else jnp.where(seen, z, -jnp.inf), slope


def begin(rows: int, values: int, dtype) -> tuple:
    """(greatest score so far, sum of exponentials below it, their sum over values) of each row before any key."""
    return jnp.full((rows, 1), float(jnp.finfo(dtype).min), dtype), jnp.zeros((rows, 1), dtype), jnp.zeros((rows, values), dtype)


def step(rule: Rule, tiles: dict[str, Any], carry: tuple) -> tuple:
    """`carry` after the keys of `tiles`: their q, k, v, the marks of Where by name, and the number of a HeadBias."""
    before, total, values = carry
    dtype = total.dtype
    z, _ = scores(rule, tiles, tiles["q"], tiles["k"], dtype)
    top = jnp.maximum(before, jnp.max(z, axis=1, keepdims=True))
    e, kept = jnp.exp(z - top), jnp.exp(before - top)
    values = values * kept + product(e.astype(tiles["v"].dtype), tiles["v"], wide=dtype)
    return top, total * kept + jnp.sum(e, axis=1, keepdims=True), values


def end(carry: tuple) -> tuple:
    """(attention, logsumexp as a column); a row that sees nothing gives 0 and the lowest number."""
    top, total, values = carry
    norm = jnp.where(total == 0, 1, total)
    return values / norm, top + jnp.log(norm)
