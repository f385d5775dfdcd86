"""The block-recurrent transformer: attention in a window, and states that attend to each block of tokens and are read by the next."""

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn

from effllm import ops
from effllm.nn.cache import RingCache
from effllm.nn.heads import head_dim, split_heads
from effllm.nn.init import Fill, FanIn, Initializer, Normal
from effllm.nn.linear import Kernel, Linear, parameter
from effllm.nn.mixer import Mixer, at_least
from effllm.nn.position import Position, RoPE
from effllm.nn.recurrent import Documents, RecurrentState, documents
from effllm.ops.documents import compact
from effllm.shard import shard

Step = Callable[[jax.Array, jax.Array], jax.Array]


class StateGate(nn.Module):
    """Base of the gates: gate(d_in, width, dtype) -> step(c, h), the states after a block that found h (…, d_in) in states c (…, width).

    A function, so that it can stand in a scan. `maps` counts its products of h.
    """

    maps: ClassVar[int] = 1

    def affine(self, name: str, d_in: int, width: int, dtype: Any) -> Callable[[jax.Array], jax.Array]:
        """h ↦ h·W + b in at least float32."""
        kernel = Kernel(d_in, width, ("heads", "width"), name=name)(dtype)
        bias = parameter(self, f"{name}_bias", Fill(0.0), (width,), (None,))
        return lambda h: jnp.matmul(h, kernel).astype(jnp.promote_types(dtype, jnp.float32)) + bias

    def __call__(self, d_in: int, width: int, dtype: Any) -> Step:
        raise TypeError(f"{type(self).__name__} does not say how states change: it needs a __call__")


class FixedGate(StateGate):
    """c ⊙ g + z ⊙ (1 − g), z = h·W_z + b_z, g = σ(b_g): a moving average whose pace is learned for each channel, the paper's best.

    `remember` is the first b_g.
    """

    remember: float = 1.0

    @nn.compact
    def __call__(self, d_in, width, dtype):
        z, g = self.affine("candidate", d_in, width, dtype), jax.nn.sigmoid(parameter(self, "gate", Fill(self.remember), (width,), (None,)))
        return lambda c, h: c * g + z(h) * (1 - g)


class LSTMGate(StateGate):
    """c ⊙ f + z ⊙ i, z = tanh(h·W_z + b_z), i = σ(h·W_i + b_i − 1), f = σ(h·W_f + b_f + 1)."""

    maps: ClassVar[int] = 3

    @nn.compact
    def __call__(self, d_in, width, dtype):
        z, i, f = (self.affine(name, d_in, width, dtype) for name in ("candidate", "input", "forget"))
        return lambda c, h: c * jax.nn.sigmoid(f(h) + 1) + jnp.tanh(z(h)) * jax.nn.sigmoid(i(h) - 1)


class Ends(NamedTuple):
    """Where blocks end. The call's real tokens in order are cut into N stretches of W; two ends lie at least W apart: a stretch has one at most.

    ends_bn whether stretch n has one; block_bn the number of the block that ends there, from 0 in its document. tokens_bnw are that block's tokens: those
    of the call from 0, those before it by −1, −2, …. reads_bt is what each token sees: 0 nothing (padding), 1 the initial states, 2 + n those before
    stretch n. length_b counts the tokens of each row's last document.
    """

    ends_bn: jax.Array
    block_bn: jax.Array
    tokens_bnw: jax.Array
    reads_bt: jax.Array
    length_b: jax.Array


def ends(now: Documents, shape: tuple[int, int], size: int, length_b: jax.Array) -> Ends:
    """The ends of blocks of `size` tokens, counted from each document's start, after `length_b` tokens of the documents that go on."""
    (batch, length), count = shape, -(-shape[1] // size)
    real_bt = jnp.ones(shape, bool) if now.real_bt is None else now.real_bt
    order_bt = jnp.cumsum(real_bt, axis=1) - 1
    start_bt = jnp.broadcast_to(-length_b[:, None], shape)
    if now.reset_bt is not None:
        start_bt = jax.lax.cummax(jnp.where(now.reset_bt, order_bt, start_bt), axis=1)
    token_bp, place_bt = (jnp.broadcast_to(jnp.arange(length), shape),) * 2 if now.real_bt is None else compact(real_bt)

    def stretches(x_bt, fill):
        x_bp = jnp.take_along_axis(x_bt, token_bp, axis=1)
        return jnp.pad(x_bp, ((0, 0), (0, count * size - length)), constant_values=fill).reshape(batch, count, size)

    rank_bnw = stretches(jnp.where(real_bt, order_bt - start_bt, -1), -1)
    end_bnw = (rank_bnw >= 0) & ((rank_bnw + 1) % size == 0)
    ends_bn, at_bn = end_bnw.any(-1), jnp.argmax(end_bnw, axis=-1)
    within_w, n_n = jnp.arange(size), jnp.arange(count)
    reads_bnw = jnp.where(rank_bnw < size, 1, 2 + n_n[:, None] + (ends_bn[..., None] & (within_w > at_bn[..., None])))
    reads_bt = jnp.take_along_axis(reads_bnw.reshape(batch, -1), place_bt, axis=1)
    place_bnw = (n_n * size + at_bn)[..., None] - (size - 1) + within_w
    tokens_bnw = jnp.take_along_axis(token_bp, jnp.clip(place_bnw, 0, length - 1).reshape(batch, -1), axis=1).reshape(place_bnw.shape)
    after_b = jnp.where(real_bt.any(1), rank_bnw.reshape(batch, -1)[jnp.arange(batch), jnp.maximum(order_bt[:, -1], 0)] + 1, length_b)
    block_bn = jnp.take_along_axis(rank_bnw, at_bn[..., None], axis=2)[..., 0] // size
    return Ends(ends_bn, block_bn, jnp.where(place_bnw < 0, place_bnw, tokens_bnw), jnp.where(real_bt, reads_bt, 0), after_b)


class BlockRecurrent(Mixer):
    """W_o[attention(tokens) ; attention(tokens → states)], and after each block of W = `block` tokens
    c ← gate(c, [attention(states) ; attention(states → block)]) (the Block-Recurrent Transformer of Hutchins et al. 2022, arXiv 2203.07852, with its
    "skip" cell, which leaves the states' feed-forward layer out).

    Tokens see the W tokens up to their own, and all `states` vectors as they are after the block before theirs; blocks count from a document's start,
    whose first block sees learned initial states. Keys and values of tokens, and of states, are shared by those that look at them; there are four kinds
    of queries. States enter as norm(c) + ids, ids learned. `position` acts between tokens. Only the states go block by block (a scan); what tokens do
    runs at once. No gradient enters the states' step of every `horizon`-th block from the block before: the paper trains on segments of eight blocks,
    between which none passes; None lets all pass, which in texts of hundreds of blocks may overflow.

    Training O(T·D·(D + W + S) + T/W·S·D·(D + S + W)) time, O(T·D·(1 + S/W)) memory; decoding state S·D numbers, and 3·D for each of the last W tokens;
    a token costs O(D·(D·S + W)), as states are projected anew, a block's last one the states' step too. Raises ValueError where heads do not divide
    the width, and for a block, states or horizon below 1.
    """

    heads: int = 4
    block: int = 64
    states: int = 32
    gate: StateGate = FixedGate()
    horizon: int | None = 8
    position: Position = RoPE()
    output_init: Initializer = FanIn()
    implementation: str | None = None
    variants: ClassVar = ({"block": 3, "states": 5, "gate": LSTMGate()},)

    def head_dim(self, width: int) -> int:
        """The channels of a head at this width."""
        at_least(self, 1, "block", "states", "horizon")
        return head_dim(self, width)

    def init_state(self, batch, length, width, dtype):
        dim = self.head_dim(width)
        cache = RingCache.empty(batch, self.block, self.heads, self.position.key_dim(dim) + dim, dim, dtype, window=self.block, first=0)
        memory = jnp.zeros((batch, self.states, width), jnp.promote_types(dtype, jnp.float32))
        return RecurrentState.empty(batch, memory, (cache, jnp.zeros((batch,), jnp.int32)))

    def flops(self, length, width):
        share = self.states / self.block  # states' steps a token
        # A count of kernels takes every one as a product a token; the states' are `share` of one. Only what exceeds that count is mixing: with fewer states
        # than tokens of a block the sum of both is too large, by up to these products.
        products = 2.0 * (4 + 2 * self.gate.maps) * width**2 * max(share - 1, 0)
        return products + 4.0 * width * (min(self.block, length / 2) + self.states + share * (self.states + self.block))

    @nn.compact
    def __call__(self, x_btd, *, positions, segment_ids, state=None):
        (batch, length, width), now = x_btd.shape, documents(segment_ids, state, x_btd.shape[:2])
        dim, dtype, options = self.head_dim(width), x_btd.dtype, {"implementation": self.implementation}
        q_bthk, k_bthk, v_bthk, across_bthk = (split_heads(x_btd, self.heads, dim, name) for name in ("q", "k", "v", "across_q"))
        q_bthk, turned_bthk = self.position.rotate(q_bthk, k_bthk, positions)
        near = {"window": self.block, "bias": self.position.bias(self.heads, dim), "q_positions_bt": positions, **options}
        if state is None:
            order_bt = None if segment_ids is None else jnp.cumsum(segment_ids > 0, axis=1)  # a window counts no padding
            own_bthk = ops.attention(
                q_bthk, turned_bthk, v_bthk, q_order_bt=order_bt, k_order_bs=order_bt, q_segments_bt=segment_ids, k_segments_bs=segment_ids,
                k_positions_bs=positions, **near,
            )  # fmt: skip
            found = ends(now, (batch, length), self.block, jnp.zeros((batch,), jnp.int32))
            k_bshk, v_bshk, source_bnw, cache = k_bthk, v_bthk, jnp.maximum(found.tokens_bnw, 0), None
        else:
            before, length_b = state.tails
            segments_bt = before.segments(segment_ids, x_btd)
            cache, seen = before.extend(jnp.concatenate([turned_bthk, k_bthk], axis=-1), v_bthk, segments_bt, positions)
            turned_bshk, k_bshk = jnp.split(seen.k_bsgk.astype(dtype), [turned_bthk.shape[-1]], axis=-1)
            v_bshk = seen.v_bsgk.astype(dtype)
            own_bthk = ops.attention(
                q_bthk, turned_bshk, v_bshk, q_order_bt=seen.q_order_bt, k_order_bs=seen.k_order_bs, q_segments_bt=segments_bt,
                k_segments_bs=seen.k_segments_bs, k_positions_bs=seen.k_positions_bs, **near,
            )  # fmt: skip
            found = ends(now, (batch, length), self.block, length_b)
            held_bnw = (before.length_b[:, None, None] + found.tokens_bnw) % self.block
            source_bnw = jnp.where(found.tokens_bnw < 0, held_bnw, self.block + found.tokens_bnw)

        scale_d = parameter(self, "state_scale", Fill(1.0), (width,), (None,))
        ids_sd = parameter(self, "state_ids", Normal(0.1), (self.states, width), (None, None))
        initial_sd = parameter(self, "initial_states", Normal(0.1), (self.states, width), (None, None))
        kernels = {name: Kernel(width, width, ("width", "heads"), name=f"state_{name}")(dtype) for name in ("q", "across_q", "k", "v")}
        step = self.gate(2 * width, width, dtype)

        def project(c_bsd, *names):
            """Heads of norm(c) + ids."""
            u_bsd = (ops.rms_norm(c_bsd, scale_d, 1e-6) + ids_sd).astype(dtype)
            heads = (rearrange(jnp.matmul(u_bsd, kernels[name]), "b s (h k) -> b s h k", h=self.heads) for name in names)
            return [shard(x_bshk, "batch", None, "heads", None) for x_bshk in heads]

        def attend_all(q_bshk, k_bwhk, v_bwhk):
            return ops.attention(q_bshk, k_bwhk, v_bwhk, causal=False, implementation="reference")

        def joined(*o_bthk):
            return rearrange(jnp.stack(o_bthk, axis=-1), "b t h k n -> b t (h k n)")

        @jax.checkpoint
        def advance(c_bsd, stretch):
            ends_b, block_b, k_bwhk, v_bwhk = stretch
            cut_bsd = c_bsd if self.horizon is None else jnp.where((block_b % self.horizon == 0)[:, None, None], jax.lax.stop_gradient(c_bsd), c_bsd)
            from_bsd = jnp.where((block_b == 0)[:, None, None], initial_sd, cut_bsd)
            q, across, k, v = project(from_bsd, "q", "across_q", "k", "v")
            h_bsm = joined(attend_all(q, k, v), attend_all(across, k_bwhk, v_bwhk))
            return jnp.where(ends_b[:, None, None], step(from_bsd, h_bsm), c_bsd)

        def scanned(c_bsd, stretch):
            if state is not None and length < self.block:  # in decoding most calls end no block
                return jax.lax.cond(stretch[0].any(), advance, lambda c, _: c, c_bsd, stretch), c_bsd
            return advance(c_bsd, stretch), c_bsd

        def of_blocks(x_bshk):
            x_bmhk = jnp.take_along_axis(x_bshk, source_bnw.reshape(batch, -1, 1, 1), axis=1)
            return rearrange(x_bmhk, "b (n w) h k -> n b w h k", w=self.block)

        memory = jnp.zeros((batch, self.states, width), jnp.promote_types(dtype, jnp.float32)) if state is None else state.memory
        stretches = found.ends_bn.T, found.block_bn.T, of_blocks(k_bshk), of_blocks(v_bshk)
        memory, passed_nbsd = jax.lax.scan(scanned, memory, stretches)
        initial_bsd = jnp.broadcast_to(initial_sd.astype(memory.dtype), memory.shape)
        read_bmd = rearrange(jnp.concatenate([initial_bsd[None], passed_nbsd, memory[None]]), "n b s d -> b n s d")
        ks, vs = (rearrange(x, "(b n) s h k -> b (n s) h k", b=batch) for x in project(rearrange(read_bmd, "b n s d -> (b n) s d"), "k", "v"))
        number_bm = jnp.broadcast_to(jnp.repeat(jnp.arange(1, read_bmd.shape[1] + 1), self.states), ks.shape[:2])
        across_bthk = ops.attention(across_bthk, ks, vs, q_segments_bt=found.reads_bt, k_segments_bs=number_bm, causal=False, **options)
        y_btd = Linear(width, ("heads", "width"), False, self.output_init, name="output")(joined(own_bthk, across_bthk))
        return y_btd, None if state is None else RecurrentState(memory, (cache, found.length_b), now.last_b)
