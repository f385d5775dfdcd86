"""Cross-entropy of a linear head as one kernel forward and two backward: logits exist in tiles only (Wijmans et al. 2024, arXiv 2411.09009)."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as mosaic
from jax.experimental.pallas import triton

from effllm import ops
from effllm.kernels.backends import BACKENDS, addressed, either, on
from effllm.kernels.tiles import filled, product, width
from effllm.ops.cross_entropy import IMPLEMENTATIONS as PLAIN

IMPLEMENTATIONS = (*PLAIN, *BACKENDS)


def linear_cross_entropy(
    x_nd: jax.Array,
    w_dv: jax.Array,
    labels_n: jax.Array,
    weights_n: jax.Array,
    *,
    bias_v: jax.Array | None = None,
    soft_cap: float | None = None,
    z_loss: float = 0.0,
    chunk: int | None = None,
    implementation: str | None = None,
) -> tuple[jax.Array, jax.Array]:
    """ops.linear_cross_entropy, which says what it computes, with three more implementations: "pallas" (Triton on a GPU, Mosaic on a TPU), "interpret_gpu" and
    "interpret_tpu" (the same kernels in Pallas's interpreter).

    A program holds a block of tokens and walks over tiles of the vocabulary with a running logsumexp. Backward, one kernel does the same for dx; another holds
    a block of the vocabulary and walks over tokens for dW and db; both make the logits of a tile anew, 5 products where "xla" has 3. Memory beyond inputs and
    gradients: O(N). `chunk` says nothing to the kernels. On a TPU a block has the whole width D, which VMEM bounds.
    """
    if implementation not in BACKENDS:
        if implementation not in (None, *PLAIN):
            raise ValueError(f"linear_cross_entropy has no implementation {implementation!r}; it has {IMPLEMENTATIONS}")
        options = {"bias_v": bias_v, "soft_cap": soft_cap, "z_loss": z_loss, "chunk": chunk}
        return ops.linear_cross_entropy(x_nd, w_dv, labels_n, weights_n, **options, implementation=implementation)
    bias_v = jnp.zeros((w_dv.shape[1],), w_dv.dtype) if bias_v is None else bias_v
    lse_n, label_n = _lse_and_label(x_nd, w_dv, bias_v, labels_n, soft_cap, implementation)
    nll_n = lse_n - label_n
    return jnp.sum(weights_n * (nll_n + z_loss * lse_n**2)), jax.lax.stop_gradient(jnp.sum(weights_n * nll_n))


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _lse_and_label(x_nd, w_dv, bias_v, labels_n, soft_cap, backend):
    """(N,) logsumexp of each token's logits and the logit of its label."""
    return on(backend, *either(_forward, soft_cap), x_nd, w_dv, bias_v, labels_n)


def _keeping(x_nd, w_dv, bias_v, labels_n, soft_cap, backend):
    both = _lse_and_label(x_nd, w_dv, bias_v, labels_n, soft_cap, backend)
    return both, (x_nd, w_dv, bias_v, labels_n, both[0])


def _pulled(soft_cap, backend, residuals, d_both):
    return *on(backend, *either(_backward, soft_cap), *residuals, *d_both), None


_lse_and_label.defvjp(_keeping, _pulled)


class _Operand(NamedTuple):
    """An array in blocks of tokens along its rows, or of the vocabulary along its columns."""

    array: Any
    by_token: bool


class _Place(NamedTuple):
    """Where a tile lies in the references that a kernel has, and the number of its first word in the vocabulary."""

    row: Any
    column: Any
    first: Any


class _Tiles:
    """Arrays filled up to whole tiles of (rows, columns), multiplied in steps of `depth`."""

    def __init__(self, soft_cap, tpu, interpret, x_nd, w_dv, bias_v, labels_n):
        self.soft_cap, self.tpu, self.interpret, (self.n, self.d), self.v = soft_cap, tpu, interpret, x_nd.shape, w_dv.shape[1]
        self.wide = jnp.promote_types(x_nd.dtype, jnp.float32)
        if tpu:
            self.rows = self.columns = 128 if self.d > 2048 or max(self.n, self.v) <= 1024 else 256
            self.depth = self.d + -self.d % 128
        else:
            self.rows, self.columns, self.depth = (min(width(size), most) for size, most in ((self.n, 64), (self.v, 128), (self.d, 64)))
        self.shape = self.n + -self.n % self.rows, self.d + -self.d % self.depth, self.v + -self.v % self.columns
        x, w = filled(x_nd, *self.shape[:2]), filled(w_dv.astype(x_nd.dtype), *self.shape[1:])
        bias = filled(bias_v.astype(self.wide)[None], self.shape[2])
        self.operands = [_Operand(x, True), _Operand(w, False), _Operand(bias, False), self.column(labels_n.astype(jnp.int32))]

    def column(self, x_n):
        """A number for each token."""
        return _Operand(filled(x_n[:, None], self.shape[0], 1), True)

    def products(self, step: Callable, start: Any) -> Any:
        """start folded by step(slice of the width, ·)."""
        if self.shape[1] == self.depth:
            return step(slice(None), start)
        return jax.lax.fori_loop(0, self.shape[1] // self.depth, lambda n, total: step(pl.ds(n * self.depth, self.depth), total), start)

    def logits(self, refs, place: _Place):
        """(logits (rows, columns), −∞ beyond the vocabulary; derivative of the cap or None; whether the column is the row's label)."""
        x_ref, w_ref, bias_ref, label_ref, *_ = refs
        rows, columns, slope = pl.ds(place.row, self.rows), pl.ds(place.column, self.columns), None

        def add(part, z):
            return z + product(x_ref[rows, part], w_ref[part, columns], wide=self.wide)

        z = self.products(add, jnp.zeros((self.rows, self.columns), self.wide)) + bias_ref[:, columns]
        if self.soft_cap is not None:
            squashed = jnp.tanh(z / self.soft_cap)
            z, slope = self.soft_cap * squashed, 1 - squashed * squashed
        word = place.first + jax.lax.broadcasted_iota(jnp.int32, (1, self.columns), 1)
        return jnp.where(word < self.v, z, -jnp.inf), slope, word == label_ref[rows, :]

    def run(self, hold_tokens: bool, carry: Sequence, start: Callable, step: Callable, end: Callable, more: Sequence[_Operand], results: Sequence[_Operand]):
        """`results` (arrays by shape and dtype) that start(refs, place), carry = step(refs, place, carry) over the tiles and end(refs, place, carry) write.

        carry: (shape, fill) of what goes from tile to tile. Tiles are those of a held block of tokens, or of the vocabulary.
        """
        operands, wide = [*self.operands, *more], self.wide
        counts = (self.shape[0] // self.rows, self.shape[2] // self.columns)[:: 1 if hold_tokens else -1]
        out_shape = [jax.ShapeDtypeStruct(r.array.shape, r.array.dtype) for r in results]

        def pair(held, passing):
            return (held, passing) if hold_tokens else (passing, held)

        def on_gpu(*refs):
            held = pl.program_id(0)

            def at(passing):
                i, j = pair(held, passing)
                return _Place(i * self.rows, j * self.columns, j * self.columns)

            start(refs, at(0))
            now = tuple(jnp.full(shape, fill, wide) for shape, fill in carry)
            end(refs, at(0), jax.lax.fori_loop(0, counts[1], lambda n, now: step(refs, at(n), now), now))

        def on_tpu(*refs):
            refs, now_refs = refs[: len(operands) + len(results)], refs[len(operands) + len(results) :]
            held, passing = pl.program_id(0), pl.program_id(1)
            place = _Place(0, 0, pair(held, passing)[1] * self.columns)

            @pl.when(passing == 0)
            def _():
                start(refs, place)
                for ref, (shape, fill) in zip(now_refs, carry):
                    ref[...] = jnp.full(shape, fill, wide)

            for ref, value in zip(now_refs, step(refs, place, tuple(ref[...] for ref in now_refs))):
                ref[...] = value

            @pl.when(passing == counts[1] - 1)
            def _():
                end(refs, place, tuple(ref[...] for ref in now_refs))

        def spec(operand):
            a, b = operand.array.shape
            if operand.by_token:
                return pl.BlockSpec((self.rows, b), lambda *at: (pair(*at)[0], 0))
            return pl.BlockSpec((a, self.columns), lambda *at: (0, pair(*at)[1]))

        arrays = [o.array for o in operands]
        if not self.tpu:
            addressed(*arrays, *out_shape)
            params = triton.CompilerParams(num_warps=8, num_stages=2)
            return pl.pallas_call(on_gpu, out_shape=out_shape, grid=counts[:1], interpret=self.interpret, compiler_params=params)(*arrays)
        return pl.pallas_call(
            on_tpu, out_shape=out_shape, grid=counts, interpret=self.interpret, in_specs=[spec(o) for o in operands], out_specs=[spec(r) for r in results],
            scratch_shapes=[mosaic.VMEM(shape, wide) for shape, _ in carry],
            compiler_params=mosaic.CompilerParams(dimension_semantics=("parallel", "arbitrary"), vmem_limit_bytes=2**26),
        )(*arrays)  # fmt: skip

    def settle(self):
        """Between two additions of one program to the same numbers in a GPU's memory."""
        if not (self.tpu or self.interpret):
            triton.debug_barrier()


def _forward(soft_cap, tpu, interpret, x_nd, w_dv, bias_v, labels_n):
    tiles = _Tiles(soft_cap, tpu, interpret, x_nd, w_dv, bias_v, labels_n)
    number = (tiles.rows, 1)
    lowest = float(jnp.finfo(tiles.wide).min)

    def step(refs, place, carry):
        before, total, label = carry
        z, _, hit = tiles.logits(refs, place)
        top = jnp.maximum(before, jnp.max(z, axis=1, keepdims=True))
        total = total * jnp.exp(before - top) + jnp.sum(jnp.exp(z - top), axis=1, keepdims=True)
        return top, total, label + jnp.sum(jnp.where(hit, z, 0), axis=1, keepdims=True)

    def end(refs, place, carry):
        rows = pl.ds(place.row, tiles.rows)
        refs[-2][rows, :], refs[-1][rows, :] = carry[0] + jnp.log(carry[1]), carry[2]

    out = _Operand(jax.ShapeDtypeStruct((tiles.shape[0], 1), tiles.wide), True)
    found = tiles.run(True, [(number, lowest), (number, 0.0), (number, 0.0)], lambda refs, place: None, step, end, (), [out, out])
    return tuple(x[: tiles.n, 0] for x in found)


def _backward(soft_cap, tpu, interpret, x_nd, w_dv, bias_v, labels_n, lse_n, d_lse_n, d_label_n):
    tiles = _Tiles(soft_cap, tpu, interpret, x_nd, w_dv, bias_v, labels_n)
    more = [tiles.column(a) for a in (lse_n, d_lse_n, d_label_n)]

    def gradient(refs, place):
        """Of the tile's logits."""
        rows = pl.ds(place.row, tiles.rows)
        lse, d_lse, d_label = (ref[rows, :] for ref in refs[4:7])
        z, slope, hit = tiles.logits(refs, place)
        dz = jnp.exp(z - lse) * d_lse + jnp.where(hit, d_label, 0)
        return dz if slope is None else dz * slope

    def change(ref, at, new):
        """A block of dx or dw, by parts of its width: new(part, what stands there)."""

        def write(part, carry):
            ref[at(part)] = new(part, ref[at(part)])
            return carry

        tiles.products(write, 0)
        tiles.settle()

    def of_x(refs, place, new):
        change(refs[-1], lambda part: (pl.ds(place.row, tiles.rows), part), new)

    def of_w(refs, place, new):
        change(refs[-2], lambda part: (part, pl.ds(place.column, tiles.columns)), new)

    def zeros(part, old):
        return jnp.zeros(old.shape, old.dtype)

    def step_x(refs, place, carry):
        dz, columns = gradient(refs, place).astype(x_nd.dtype), pl.ds(place.column, tiles.columns)
        of_x(refs, place, lambda part, old: old + product(dz, refs[1][part, columns], (False, True), wide=tiles.wide))
        return carry

    def step_w(refs, place, carry):
        dz, rows = gradient(refs, place), pl.ds(place.row, tiles.rows)
        narrow = dz.astype(x_nd.dtype)
        of_w(refs, place, lambda part, old: old + product(refs[0][rows, part], narrow, (True, False), wide=tiles.wide))
        return (carry[0] + jnp.sum(dz, axis=0, keepdims=True),)

    def end_w(refs, place, carry):
        refs[-1][:, pl.ds(place.column, tiles.columns)] = carry[0]

    n, d, v = tiles.shape
    dx, dw, db = (_Operand(jax.ShapeDtypeStruct(shape, tiles.wide), by_token) for shape, by_token in (((n, d), True), ((d, v), False), ((1, v), False)))
    (dx_nd,) = tiles.run(True, [], lambda refs, place: of_x(refs, place, zeros), step_x, lambda refs, place, carry: None, more, [dx])
    dw_dv, db_1v = tiles.run(False, [((1, tiles.columns), 0.0)], lambda refs, place: of_w(refs, place, zeros), step_w, end_w, more, [dw, db])
    return dx_nd[: tiles.n, : tiles.d].astype(x_nd.dtype), dw_dv[: tiles.d, : tiles.v].astype(w_dv.dtype), db_1v[0, : tiles.v].astype(bias_v.dtype)
