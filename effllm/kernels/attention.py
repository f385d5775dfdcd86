"""Softmax attention as one kernel forward and two backward (FlashAttention-2, Dao 2023, arXiv 2307.08691)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from effllm import ops
from effllm.kernels import softmax
from effllm.kernels.backends import BACKENDS, either, on
from effllm.kernels.decoding import decode, few
from effllm.kernels.pairs import TABLE, Grid, Operand, Result, Visits, visit
from effllm.kernels.tiles import filled, product, width
from effllm.ops.attention import IMPLEMENTATIONS as PLAIN
from effllm.ops.attention import attend
from effllm.ops.blockwise import Rule, active, wide
from effllm.ops.where import Where

IMPLEMENTATIONS = (*PLAIN, *BACKENDS)
WIDEST = 256


def attention(
    q_bthk: jax.Array,
    k_bsgk: jax.Array,
    v_bsgv: jax.Array,
    *,
    q_order_bt: jax.Array | None = None,
    k_order_bs: jax.Array | None = None,
    q_segments_bt: jax.Array | None = None,
    k_segments_bs: jax.Array | None = None,
    q_positions_bt: jax.Array | None = None,
    k_positions_bs: jax.Array | None = None,
    causal: bool = True,
    window: int | None = None,
    pattern: ops.Pattern | None = None,
    bias: ops.Bias | None = None,
    scale: float | None = None,
    soft_cap: float | None = None,
    return_lse: bool = False,
    implementation: str | None = None,
) -> jax.Array | tuple[jax.Array, jax.Array]:
    """ops.attention, which says what it computes, with three more implementations: "pallas" (Triton on a GPU, Mosaic on a TPU), "interpret_gpu" and
    "interpret_tpu" (the same kernels in Pallas's interpreter).

    A program holds a block of queries of one head and walks over the blocks of keys that any of them may see, with a running softmax; backward, one kernel
    does the same for dq, and one holds a block of keys and walks over queries for dk and dv, both from the logsumexp. Which blocks see each other is a table of
    their ranges of orders, positions and documents, made before the kernel; the heads of a group read the same K and V where they lie. Head dimensions are
    filled up to powers of two. Memory O(T + S), and (T/128)·(S/64) numbers for the table unless each block sees a run of neighbours whatever the data, as
    without documents. On a TPU the table lies in SMEM: up to about 180 k tokens.

    Where queries are few, T·H/G at most 128 as in decoding, the forward pass is another kernel: the queries of all heads of a group are one tile, keys and
    values are read where they lie, and programs share the keys out (see kernels/decoding.py); O(T·H·V) numbers more for each share.

    Raises ValueError for a bias that is not a HeadBias (ALiBi's is one), for head dimensions above 256, and for dtypes but float32, bfloat16 and float16;
    implementation="xla" takes them.
    """
    options = {"causal": causal, "window": window, "pattern": pattern, "bias": bias, "scale": scale, "soft_cap": soft_cap}
    where = Where(q_order_bt, k_order_bs, q_segments_bt, k_segments_bs, q_positions_bt, k_positions_bs)
    if implementation not in BACKENDS:
        if implementation not in (None, *PLAIN):
            raise ValueError(f"attention has no implementation {implementation!r}; it has {IMPLEMENTATIONS}")
        return ops.attention(q_bthk, k_bsgk, v_bsgv, **where._asdict(), **options, return_lse=return_lse, implementation=implementation)
    check("attention", implementation, q_bthk, v_bsgv, bias)

    def core(q_bthk, k_bsgk, v_bsgv, params, where, rule):
        return flash(q_bthk, k_bsgk, v_bsgv, where, rule, implementation)

    o_bthv, lse_bth = attend(core, q_bthk, k_bsgk, v_bsgv, where, **options)
    return (o_bthv, lse_bth) if return_lse else o_bthv


def check(op: str, implementation: str, q_bthk: jax.Array, v_bsgv: jax.Array, bias: ops.Bias | None) -> None:
    """Raise ValueError where the kernels of attention do not take what the op does."""
    if bias is not None and not isinstance(bias.function, ops.HeadBias):
        name = getattr(bias.function, "__name__", type(bias.function).__name__)
        raise ValueError(f"{op}: implementation={implementation!r} evaluates a bias that is an ops.HeadBias, not {name}; use implementation='xla'")
    if max(q_bthk.shape[-1], v_bsgv.shape[-1]) > WIDEST:
        raise ValueError(f"{op}: implementation={implementation!r} takes head dimensions up to {WIDEST}; use implementation='xla'")
    if q_bthk.dtype not in (jnp.float32, jnp.bfloat16, jnp.float16):
        raise ValueError(f"{op}: implementation={implementation!r} takes float32, bfloat16 and float16, not {q_bthk.dtype}; use implementation='xla'")


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def flash(q_bthk, k_bsgk, v_bsgv, where: Where, rule: Rule, backend: str) -> tuple[jax.Array, jax.Array]:
    """(attention (B, T, H, V), logsumexp (B, T, H)) by kernels, on one of BACKENDS."""
    return on(backend, *either(_forward, rule), q_bthk, k_bsgk, v_bsgv, where)


def _keeping(q_bthk, k_bsgk, v_bsgv, where, rule, backend):
    both = flash(q_bthk, k_bsgk, v_bsgv, where, rule, backend)
    return both, (q_bthk, k_bsgk, v_bsgv, where, *both)


def _pulled(rule, backend, residuals, d_both):
    *inputs, o_bthv, lse_bth = residuals
    shift_bth = jnp.sum(d_both[0].astype(lse_bth.dtype) * o_bthv.astype(lse_bth.dtype), axis=-1) - d_both[1]
    return *on(backend, *either(_backward, rule), *inputs, d_both[0], lse_bth, shift_bth), None


flash.defvjp(_keeping, _pulled)


class _Blocks:
    """Arrays by head and filled up to whole blocks, and the blocks that meet."""

    def __init__(self, rule: Rule, tpu: bool, interpret: bool, q_bthk, k_bsgk, v_bsgv, where: Where):
        (self.batch, t, _, k_width), (_, s, self.groups, v_width) = q_bthk.shape, v_bsgv.shape
        self.rule, self.tpu, self.interpret, self.lengths, self.widths = rule, tpu, interpret, (t, s), (width(k_width), width(v_width))
        if tpu:
            self.sizes = tuple(128 if n <= 1024 else 512 for n in (t, s))
        else:
            share = max(1, max(self.widths) * q_bthk.dtype.itemsize // 256)  # wide rows make low tiles: three or five of each fit shared memory
            self.sizes = tuple(min(width(n), most // share) for n, most in zip((t, s), (128, 64)))
        self.filled = tuple(n + -n % size for n, size in zip((t, s), self.sizes))
        self.where = where
        self.arrays = {"q": self.by_head(q_bthk, 0), "k": self.by_head(k_bsgk, 1), "v": self.by_head(v_bsgv, 1)}

    def by_head(self, x_bthk, side):
        """(B, G, R or 1, T, K) of the queries' side 0 or the keys' side 1."""
        x_bhtk = jnp.moveaxis(x_bthk, 2, 1)
        return filled(x_bhtk.reshape(self.batch, self.groups, -1, *x_bhtk.shape[2:]), self.filled[side], width(x_bthk.shape[-1]))

    def by_token(self, x_bgrtk, like):
        """by_head undone: the shape and dtype of `like` (B, T, H, K)."""
        b, t, h, k = like.shape
        return jnp.moveaxis(x_bgrtk[..., :t, :k].reshape(b, h, t, k), 1, 2).astype(like.dtype)

    def lanes(self, x_bth):
        """(B, G, R, 1, T) of a number for each query and head."""
        x_bht = jnp.moveaxis(x_bth, 2, 1)
        return filled(x_bht.reshape(self.batch, self.groups, -1, 1, self.lengths[0]), self.filled[0])

    def marks(self):
        """(B or 1, 1, 1, 1, T or S) int32: those arrays of Where that decide, by name."""
        rule, given = self.rule, self.where.filled(*self.lengths)
        if given.q_segments_bt is None and self.filled[1] != self.lengths[1]:  # what fills up the keys is seen by none
            given = given._replace(q_segments_bt=np.ones((1, self.lengths[0])), k_segments_bs=np.ones((1, self.lengths[1])))
        ordered, placed = rule.causal or rule.window is not None, rule.pattern is not None or rule.bias is not None
        deciding = (ordered, ordered, True, True, placed, placed)
        chosen = {name: x for name, x, decides in zip(Where._fields, given, deciding) if decides and x is not None}
        return {name: filled(jnp.asarray(x, jnp.int32)[:, None, None, None], self.filled[name.startswith("k")]) for name, x in chosen.items()}

    def visits(self, hold_queries):
        """The blocks of keys that each block of queries meets, or the other way round."""
        may_bnm = active(self.where, self.rule, self.lengths, self.sizes)
        bound_bnm = active(self.where._replace(q_segments_bt=None, k_segments_bs=None), self.rule, self.lengths, self.sizes)
        if not hold_queries:
            may_bnm, bound_bnm = may_bnm.swapaxes(1, 2), bound_bnm.swapaxes(1, 2)
        most = max(1, int(bound_bnm.sum(-1).max())) if isinstance(bound_bnm, np.ndarray) else bound_bnm.shape[2]
        visits = Visits.of(may_bnm, most).in_runs()
        if self.tpu and visits.block.size > TABLE:
            visits = Visits.of(may_bnm.any(0, keepdims=True), most)
        return visits

    def run(self, hold_queries, begin, step, end, results, lanes=(), more=()):
        """pairs.visit, the block of queries held or that of keys."""
        of_queries = {"q", *dict(more)}
        operands = {name: Operand(x, hold_queries == (name in of_queries)) for name, x in (self.arrays | dict(more)).items()}
        operands |= {name: Operand(x, hold_queries, True) for name, x in dict(lanes).items()}
        operands |= {name: Operand(x, hold_queries == name.startswith("q"), True) for name, x in self.marks().items()}
        if self.rule.bias is not None:
            operands["number"] = Operand(jnp.asarray(self.rule.bias.numbers, jnp.float32).reshape(1, self.groups, -1, 1, 1), None)
        held, passing = self.sizes if hold_queries else self.sizes[::-1]
        warps, stages = 4 if max(self.widths) <= 64 else 8, 3 if hold_queries else 2  # two more copies of blocks of q and d would not fit
        grid = Grid(self.batch, self.groups, self.rule.group, not hold_queries, held, passing, warps, stages)
        return visit(begin, step, end, operands, self.visits(hold_queries), results, grid, self.tpu, self.interpret)


def _forward(rule, tpu, interpret, q_bthk, k_bsgk, v_bsgv, where):
    if few(q_bthk.shape[1], rule):
        o_bthv, lse_bth = decode(rule, tpu, interpret, q_bthk, k_bsgk, v_bsgv, where)
        return o_bthv.astype(v_bsgv.dtype), lse_bth
    blocks, dtype = _Blocks(rule, tpu, interpret, q_bthk, k_bsgk, v_bsgv, where), wide(q_bthk)
    begin = functools.partial(softmax.begin, blocks.sizes[0], blocks.widths[1], dtype)
    lead = blocks.arrays["q"].shape[:3]
    results = Result((*lead, blocks.filled[0], blocks.widths[1]), v_bsgv.dtype), Result((*lead, 1, blocks.filled[0]), dtype, True)
    o, lse = blocks.run(True, begin, functools.partial(softmax.step, rule), softmax.end, results)
    (b, t, h, _), v = q_bthk.shape, v_bsgv.shape[-1]
    o_bthv = blocks.by_token(o, jax.ShapeDtypeStruct((b, t, h, v), v_bsgv.dtype))
    return o_bthv, jnp.moveaxis(lse[..., 0, :t].reshape(b, h, t), 1, 2)


def _backward(rule, tpu, interpret, q_bthk, k_bsgk, v_bsgv, where, d_bthv, lse_bth, shift_bth):
    blocks, dtype = _Blocks(rule, tpu, interpret, q_bthk, k_bsgk, v_bsgv, where), lse_bth.dtype
    more, lanes = {"d": blocks.by_head(d_bthv, 0)}, {"lse": blocks.lanes(lse_bth), "shift": blocks.lanes(shift_bth)}
    q, k, v = blocks.arrays.values()

    def shares(tiles, z, slope, dp):
        """(softmax, gradient of the scaled product), from scores and from the gradient of the softmax."""
        p = jnp.exp(z - tiles["lse"])
        dz = p * (dp - tiles["shift"]) * rule.scale
        return p, dz if slope is None else dz * slope

    def of_queries(tiles, carry):
        z, slope = softmax.scores(rule, tiles, tiles["q"], tiles["k"], dtype)
        _, dz = shares(tiles, z, slope, product(tiles["d"], tiles["v"], (False, True), wide=dtype))
        return (carry[0] + product(dz.astype(q.dtype), tiles["k"], wide=dtype),)

    def of_keys(tiles, carry):
        z, slope = softmax.scores(rule, tiles, tiles["k"], tiles["q"], dtype)
        p, dz = shares(tiles, z, slope, product(tiles["v"], tiles["d"], (False, True), wide=dtype))
        return carry[0] + product(dz.astype(q.dtype), tiles["q"], wide=dtype), carry[1] + product(p.astype(v.dtype), tiles["d"], wide=dtype)

    def zeros(side, *widths):
        return lambda: tuple(jnp.zeros((blocks.sizes[side], n), dtype) for n in widths)

    def as_it_is(carry):
        return carry

    (dq,) = blocks.run(True, zeros(0, blocks.widths[0]), of_queries, as_it_is, [Result(q.shape, q.dtype)], lanes, more)
    dk, dv = blocks.run(False, zeros(1, *blocks.widths), of_keys, as_it_is, [Result(x.shape, x.dtype) for x in (k, v)], lanes, more)
    return tuple(blocks.by_token(d, like) for d, like in ((dq, q_bthk), (dk, k_bsgk), (dv, v_bsgv)))
