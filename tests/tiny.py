"""Small models, batches and corpora that the tests share."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen
from flax.core import meta

from effllm import nn

WIDTH = 32


def mixers() -> list[nn.Mixer]:
    """Every public mixer of effllm.nn, plain and in each of its variants: the subjects of the mixer laws."""
    classes = (getattr(nn, name) for name in nn.__all__)
    found = [c for c in classes if isinstance(c, type) and issubclass(c, nn.Mixer) and c is not nn.Mixer]
    return [c(**kwargs) for c in found for kwargs in ({}, *c.variants)]


def positioned() -> list[nn.Attention]:
    """Attention with every public position, plain and in each of its variants, but for those that Attention's own variants have."""
    classes = (getattr(nn, name) for name in nn.__all__)
    found = [c for c in classes if isinstance(c, type) and issubclass(c, nn.Position) and c not in (nn.Position, nn.RoPE)]
    return [nn.Attention(position=c(**kwargs)) for c in found for kwargs in ({}, *c.variants)]


def label(module) -> str:
    """A short test id."""
    if not isinstance(module, linen.Module):
        return str(module)
    defaults = type(module)()
    changed = [f"{k}={label(getattr(module, k))}" for k in module.__dataclass_fields__ if k not in ("parent", "name") and getattr(module, k) != getattr(defaults, k)]
    return "-".join([type(module).__name__, *(c.replace("\n", "").replace(" ", "")[:24] for c in changed)])


def inputs(batch: int, length: int, width: int = WIDTH, seed: int = 0, dtype=jnp.float32):
    """(x (B, T, D), positions (B, T))."""
    x_btd = jax.random.normal(jax.random.key(seed), (batch, length, width), dtype)
    return x_btd, jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32), (batch, length))


def random(shape, dtype, seed):
    """Standard normal numbers."""
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape).astype(dtype))


def init(module, *args, seed: int = 0, **kwargs):
    """Unboxed parameters, with vectors moved off their neutral values."""
    params = meta.unbox(jax.jit(lambda: module.init(jax.random.key(seed), *args, **kwargs))().get("params", {}))
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed + 1), max(1, len(leaves)))
    return jax.tree.unflatten(tree, [p + 0.1 * jax.random.normal(k, p.shape, p.dtype) for p, k in zip(leaves, keys)])


def batch(rows: int, length: int, vocab: int, seed: int = 0) -> dict[str, np.ndarray]:
    """A packed language-model batch with two documents and some padding a row."""
    rng = np.random.default_rng(seed)
    segments = np.ones((rows, length), np.int32)
    for row in segments:
        row[rng.integers(2, length - 3) :] = 2
    segments[::2, length - 2 :] = 0
    starts = np.maximum.accumulate(np.where(np.diff(segments, prepend=0) != 0, np.arange(length), 0), axis=1)
    weights = ((segments > 0) & (np.roll(segments, -1, 1) == segments)).astype(np.float32)
    weights[:, -1] = 0
    tokens = rng.integers(1, vocab, (rows, length)).astype(np.int32)
    return {
        "tokens": tokens, "targets": np.roll(tokens, -1, 1), "segment_ids": segments, "positions": np.arange(length, dtype=np.int32) - starts.astype(np.int32),
        "weights": weights,
    }  # fmt: skip


def model(**changes) -> nn.DecoderLM:
    """A decoder of two periods of a two-block pattern."""
    blocks = (nn.Block(nn.Attention(heads=4, kv_heads=2), nn.SwiGLU(hidden=48)), nn.Block(nn.Attention(heads=4), nn.MLP(hidden=64), nn.LayerNorm()))
    return nn.DecoderLM(**({"vocab_size": 64, "width": WIDTH, "depth": 4, "blocks": blocks} | changes))


def close(actual, expected, tolerance: float) -> None:
    """Assert trees equal within `tolerance` of each array's largest value (a tenth of the tree's, where that is more: exact zeros have rounding too)."""
    scale = max((float(np.abs(e).max(initial=0)) for e in jax.tree.leaves(expected)), default=0.0)

    def one(a, e):
        wide = np.complex128 if np.iscomplexobj(e) else np.float64
        a, e = np.asarray(a, wide), np.asarray(e, wide)
        np.testing.assert_allclose(a, e, rtol=0, atol=tolerance * max(np.abs(e).max(initial=0), scale / 10))

    jax.tree.map(one, actual, expected)
