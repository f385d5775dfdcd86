"""Autoregressive generation: prefill and decoding in one jitted program over an explicit state."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from effllm.infer.sampler import Sampler


def pad_prompts(prompts: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """(tokens (B, T), lengths (B,)) of prompts of different lengths, padded on the right. Raises ValueError for an empty one."""
    lengths_b = np.array([len(p) for p in prompts], np.int32)
    if not len(prompts) or lengths_b.min() == 0:
        raise ValueError("every prompt needs at least one token")
    tokens_bt = np.zeros((len(prompts), lengths_b.max()), np.int32)
    for row, prompt in zip(tokens_bt, prompts, strict=True):
        row[: len(prompt)] = prompt
    return tokens_bt, lengths_b


@functools.partial(jax.jit, static_argnames=("model", "tokens", "sampler", "end"))
def generate(
    model: nn.Module,
    params: Any,
    prompts_bt: jax.Array,
    lengths_b: jax.Array,
    key: jax.Array,
    *,
    tokens: int,
    sampler: Sampler = Sampler(),
    end: int | None = None,
) -> tuple[jax.Array, jax.Array]:
    """(new tokens (B, tokens), how many of them count (B,)) after prompts padded on the right (see `pad_prompts`).

    Each row goes on from its own last token: padding writes nothing into the state. A row that draws `end` stops there, that token included,
    and is filled with `end`; the loop stops when all have. Raises ValueError for less than one new token and for an `end` outside the vocabulary.
    """
    if tokens < 1:
        raise ValueError(f"tokens={tokens}: generate at least one")
    if end is not None and not 0 <= end < model.vocab_size:
        raise ValueError(f"end={end} lies outside the vocabulary of {model.vocab_size}, so that no row could stop there")
    batch, longest = prompts_bt.shape
    state = model.init_state(batch, longest + tokens)
    segments_bt = (jnp.arange(longest) < lengths_b[:, None]).astype(jnp.int32)
    x_btd, state = model.apply({"params": params}, prompts_bt, segment_ids=segments_bt, state=state, method="features")
    last_b1d = jnp.take_along_axis(x_btd, (lengths_b - 1)[:, None, None], axis=1)
    logits_bv = model.apply({"params": params}, last_b1d, method="logits")[:, 0]
    out_bn = jnp.full((batch, tokens), 0 if end is None else end, jnp.int32)

    def draw(i, logits_bv, out_bn, counts_b, done_b):
        token_b = sampler(jax.random.fold_in(key, i), logits_bv)
        token_b = jnp.where(done_b, out_bn[:, i], token_b)
        counts_b = counts_b + ~done_b
        return out_bn.at[:, i].set(token_b), counts_b, done_b if end is None else done_b | (token_b == end)

    def more(carry):
        i, *_, done_b = carry
        return (i < tokens) & ~jnp.all(done_b)

    def step(carry):
        i, state, out_bn, counts_b, done_b = carry
        logits_b1v, state = model.apply({"params": params}, out_bn[:, i - 1][:, None], state=state)
        return i + 1, state, *draw(i, logits_b1v[:, 0], out_bn, counts_b, done_b)

    first = draw(0, logits_bv, out_bn, jnp.zeros((batch,), jnp.int32), jnp.zeros((batch,), bool))
    _, _, out_bn, counts_b, _ = jax.lax.while_loop(more, step, (jnp.int32(1), state, *first))
    return out_bn, counts_b
