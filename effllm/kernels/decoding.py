"""Attention of few queries to many keys as one kernel, the keys shared out over programs (Flash-Decoding, Dao et al. 2023,
https://crfm.stanford.edu/2023/10/12/flashdecoding.html).

The queries of all heads of a group are the rows of one tile, m = (t, r), so that each key and value is read once, and where it lies: in a cache (B, S, G, K) or
in pages (P, page, G, K) by a table of each row's pages (PagedAttention, Kwon et al. 2023, arXiv 2309.06180). The blocks of keys that any query may see go round
the programs of a row; each leaves its part's attention and logsumexp, which are joined. The GPU form (Triton) gives one program to each row, group and share;
the TPU form (Mosaic) reads all groups of a block at once and walks its share along the last axis of the grid.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as mosaic
from jax.experimental.pallas import triton

from effllm.kernels import softmax
from effllm.kernels.backends import addressed
from effllm.kernels.pairs import Visits
from effllm.kernels.tiles import filled, width
from effllm.ops.blockwise import Rule, active, wide
from effllm.ops.where import Where

ROWS = 128  # of a tile of queries
PROGRAMS = 264  # that a GPU is given at least, where there are as many blocks: two for each multiprocessor of an H100
VMEM = 2**22  # bytes that blocks of keys and values may take in a TPU, twice: one is read while the other is used


def few(queries: int, rule: Rule) -> bool:
    """Whether queries are so few that all heads of a group fit one tile."""
    return queries * rule.group <= ROWS


class _Task(NamedTuple):
    """What a kernel is made from: static numbers, and its arrays by name, those that say where blocks lie first."""

    rule: Rule
    table: bool
    page: int
    size: int
    keys: int
    most: int
    shares: int
    rows: int
    widths: tuple[int, int]
    arrays: dict[str, jax.Array]

    @property
    def steps(self) -> int:
        return -(-self.most // self.shares)

    def row(self, b):
        """Of the table of blocks."""
        return b if self.arrays["count"].shape[0] > 1 else 0

    @property
    def scalars(self) -> int:
        return 2 + self.table


def decode(rule: Rule, tpu: bool, interpret: bool, q_bthk, k_xsgk, v_xsgv, where: Where, table_bn=None) -> tuple[jax.Array, jax.Array]:
    """(attention (B, T, H, V), logsumexp (B, T, H)), both wide.

    k and v: (B, S, G, ·), or pages (P, page, G, ·) with a table (B, N) of page numbers and S = N·page.
    """
    (b, t, h, k_width), (_, page, g, v_width), dtype = q_bthk.shape, v_xsgv.shape, wide(q_bthk)
    r, m = rule.group, t * rule.group
    rows, keys = width(m), page if table_bn is None else page * table_bn.shape[1]
    size = (_tpu_block if tpu else _gpu_block)(keys, g, (k_width, v_width), k_xsgk.dtype.itemsize, None if table_bn is None else page)
    k_filled, blocks = keys + -keys % size, -(-keys // size)
    may_bnm = active(where, rule, (t, keys), (t, size))
    visits = Visits.of(may_bnm, max(1, int(may_bnm.sum(-1).max())) if isinstance(may_bnm, np.ndarray) else blocks)
    arrays = {"block": visits.block.reshape(-1), "count": visits.count.reshape(-1)}
    if table_bn is not None:
        arrays["table"] = filled(jnp.clip(table_bn, 0, len(k_xsgk) - 1).astype(jnp.int32), -(-k_filled // page)).reshape(-1)
    q_bgmk = jnp.moveaxis(q_bthk.reshape(b, t, g, r, k_width), 2, 1).reshape(b, g, m, k_width)
    arrays |= {"q": filled(q_bgmk, rows, k_width if tpu else width(k_width)), "k": k_xsgk, "v": v_xsgv}
    if rule.bias is not None:
        numbers_gm = jnp.tile(jnp.asarray(rule.bias.numbers, jnp.float32).reshape(g, r), (1, t))
        arrays["number"] = filled(numbers_gm, rows)[..., None]
    for name, x in _marks(rule, where, t, keys, k_filled > keys).items():
        x = jnp.asarray(x, jnp.int32)
        arrays[name] = filled(x, k_filled)[:, None] if name.startswith("k") else filled(jnp.repeat(x, r, axis=1), rows)[..., None]
    shares = min(visits.most, (2 if b == 1 else 1) if tpu else -(-PROGRAMS // (b * g)))
    widths = (k_width, v_width) if tpu else (width(k_width), width(v_width))
    task = _Task(rule, table_bn is not None, page, size, keys, visits.most, shares, rows, widths, arrays)
    results = [jax.ShapeDtypeStruct((b, shares, g, rows, n), dtype) for n in (widths[1], 1)]
    o_bpgmv, lse_bpgm1 = (_tpu if tpu else _gpu)(task, results, interpret)
    top_bgm1 = lse_bpgm1.max(1)
    weight_bpgm1 = jnp.exp(lse_bpgm1 - top_bgm1[:, None])
    total_bgm1 = weight_bpgm1.sum(1)

    def by_token(x_bgmv, n):
        return jnp.moveaxis(x_bgmv[:, :, :m, :n].reshape(b, g, t, r, n), 1, 2).reshape(b, t, h, n)

    o_bgmv = (weight_bpgm1 * o_bpgmv).sum(1) / total_bgm1
    return by_token(o_bgmv, v_width), by_token(top_bgm1 + jnp.log(total_bgm1), 1)[..., 0]


def _marks(rule, where, queries, keys, filling):
    """Those arrays of Where that decide, by name; what fills up the keys is seen by none."""
    where = where.filled(queries, keys)
    if where.q_segments_bt is None and filling:
        where = where._replace(q_segments_bt=np.ones((1, queries)), k_segments_bs=np.ones((1, keys)))
    ordered, placed = rule.causal or rule.window is not None, rule.pattern is not None or rule.bias is not None
    deciding = (ordered, ordered, True, True, placed, placed)
    return {name: x for name, x, decides in zip(Where._fields, where, deciding) if decides and x is not None}


def _gpu_block(keys, groups, widths, itemsize, page):
    return min(width(keys), 64 if max(widths) <= 128 else 32)


def _tpu_block(keys, groups, widths, itemsize, page):
    if page is not None:
        return max(page, 128)
    token = (groups + -groups % 8) * sum(n + -n % 128 for n in widths) * itemsize
    return min(keys + -keys % 128, max(128, 1 << (VMEM // token).bit_length() - 1))


def _gpu(task, results, interpret):
    def kernel(*refs):
        ins, (o_ref, lse_ref) = dict(zip(task.arrays, refs)), refs[len(task.arrays) :]
        b, g, share = (pl.program_id(axis) for axis in range(3))
        row = task.row(b)

        def column(name):
            ref = ins[name]
            lead = g if name == "number" else b if ref.shape[0] > 1 else 0
            return ref[lead, :, 0][:, None]

        held = {name: column(name) for name in ins if name == "number" or name.startswith("q_")} | {"q": ins["q"][b, g]}

        def read(ref, j, columns):
            s, c = j * task.size + jnp.arange(task.size)[:, None], jnp.arange(columns)[None]
            mask = (s < task.keys) & (c < ref.shape[3])
            if not task.table:
                return triton.load(ref.at[b, s, g, c], mask=mask, other=0)
            entries = triton.load(ins["table"].at[b * (len(ins["table"]) // results[0].shape[0]) + jax.lax.div(s, task.page)])
            return triton.load(ref.at[entries, jax.lax.rem(s, task.page), g, c], mask=mask, other=0)

        def meet(n, carry):
            j = ins["block"][row * task.most + share + n * task.shares]
            tiles = {"k": read(ins["k"], j, task.widths[0]).astype(held["q"].dtype), "v": read(ins["v"], j, task.widths[1]).astype(held["q"].dtype)}
            for name in ins:
                if name.startswith("k_"):
                    tiles[name] = ins[name][b if ins[name].shape[0] > 1 else 0, 0, pl.ds(j * task.size, task.size)][None]
            return softmax.step(task.rule, held | tiles, carry)

        mine = jax.lax.div(ins["count"][row] + task.shares - 1 - share, task.shares)
        carry = jax.lax.fori_loop(0, mine, meet, softmax.begin(task.rows, task.widths[1], results[0].dtype))
        o, lse = softmax.end(carry)
        o_ref[b, share, g], lse_ref[b, share, g, :, 0] = o, jnp.sum(lse, axis=1)

    addressed(*task.arrays.values(), *results)
    batch, shares, groups = results[0].shape[:3]
    return pl.pallas_call(
        kernel, out_shape=results, grid=(batch, groups, shares), interpret=interpret,
        compiler_params=triton.CompilerParams(num_warps=4 if task.rows <= 64 else 8, num_stages=2),
    )(*task.arrays.values())  # fmt: skip


def _tpu(task, results, interpret):
    names, groups = [*task.arrays][task.scalars :], results[0].shape[2]
    pieces = task.size // task.page if task.table else 1
    copies = {name: pieces if name in ("k", "v") else 1 for name in names}

    def kernel(*refs):
        block_ref, count_ref = refs[:2]
        refs, ins = list(refs[task.scalars :]), {}
        for name in names:
            ins[name], refs = refs[: copies[name]], refs[copies[name] :]
        (o_ref, lse_ref), now_refs = refs[:2], refs[2:]
        b, share, n = (pl.program_id(axis) for axis in range(3))
        row, number = task.row(b), n * task.shares + share

        @pl.when(n == 0)
        def _():
            for g in range(groups):
                for ref, value in zip(now_refs, softmax.begin(task.rows, task.widths[1], results[0].dtype)):
                    ref[g] = value

        def read(name, g):
            parts = [ref[:, g, :] for ref in ins[name]]
            return (parts[0] if len(parts) == 1 else jnp.concatenate(parts)).astype(task.arrays["q"].dtype)

        @pl.when(number < count_ref[row])
        def _():
            j = block_ref[row * task.most + number]
            marks = {name: ins[name][0][...] for name in names if name.startswith(("q_", "k_"))}
            for g in range(groups):
                tiles = marks | {"q": ins["q"][0][g], "k": read("k", g), "v": read("v", g)}
                if "number" in ins:
                    tiles["number"] = ins["number"][0][g]
                if task.keys % task.size:  # what lies after the last key may be anything
                    s = j * task.size + jax.lax.broadcasted_iota(jnp.int32, (task.size, 1), 0)
                    tiles["v"] = jnp.where(s < task.keys, tiles["v"], 0)
                for ref, value in zip(now_refs, softmax.step(task.rule, tiles, tuple(ref[g] for ref in now_refs))):
                    ref[g] = value

        @pl.when(n == task.steps - 1)
        def _():
            for g in range(groups):
                o_ref[g], lse_ref[g] = softmax.end(tuple(ref[g] for ref in now_refs))

    def block(b, share, n, scalars):
        return scalars[0][task.row(b) * task.most + jnp.minimum(n * task.shares + share, task.most - 1)]

    def spec(name, piece):
        shape = task.arrays[name].shape
        if name == "number":
            return pl.BlockSpec(shape, lambda *at: (0, 0, 0))
        if name not in ("k", "v"):
            def index(b, share, n, *scalars):
                at = block(b, share, n, scalars) if name.startswith("k_") else 0
                return (b if shape[0] > 1 else 0, *(0,) * (len(shape) - 2), at)

            return pl.BlockSpec((None, *shape[1:-1], task.size if name.startswith("k_") else shape[-1]), index)

        def index(b, share, n, *scalars):
            j = block(b, share, n, scalars)
            if not task.table:
                return b, j, 0, 0
            return scalars[2][b * (len(task.arrays["table"]) // results[0].shape[0]) + j * pieces + piece], 0, 0, 0

        return pl.BlockSpec((None, task.page if task.table else task.size, *shape[2:]), index)

    def out(shape):
        return pl.BlockSpec((None, None, *shape[2:]), lambda b, share, n, *scalars: (b, share, 0, 0, 0))

    arrays, (batch, shares) = task.arrays, results[0].shape[:2]
    return pl.pallas_call(
        kernel, out_shape=results, interpret=interpret,
        grid_spec=mosaic.PrefetchScalarGridSpec(
            num_scalar_prefetch=task.scalars, grid=(batch, shares, task.steps), out_specs=[out(r.shape) for r in results],
            in_specs=[spec(name, piece) for name in names for piece in range(copies[name])],
            scratch_shapes=[mosaic.VMEM((groups, task.rows, n), results[0].dtype) for n in (1, 1, task.widths[1])],
        ),
        compiler_params=mosaic.CompilerParams(dimension_semantics=("parallel", "parallel", "arbitrary")),
    )(*[*arrays.values()][: task.scalars], *(arrays[name] for name in names for _ in range(copies[name])))  # fmt: skip
