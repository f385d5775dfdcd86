"""Attention over keys and values in pages, which the kernel reads through the table (PagedAttention, Kwon et al. 2023, arXiv 2309.06180)."""

import functools

import jax

from effllm import ops
from effllm.kernels.attention import check, flash
from effllm.kernels.backends import BACKENDS, either, on
from effllm.kernels.decoding import decode, few
from effllm.ops.attention import attend
from effllm.ops.paged_attention import IMPLEMENTATIONS as PLAIN
from effllm.ops.paged_attention import gathered, through
from effllm.ops.where import Where

IMPLEMENTATIONS = (*PLAIN, *BACKENDS)


def paged_attention(
    q_bthk: jax.Array,
    k_pngk: jax.Array,
    v_pngv: jax.Array,
    table_bm: jax.Array,
    *,
    q_order_bt: jax.Array,
    k_order_pn: jax.Array | None = None,
    q_segments_bt: jax.Array | None = None,
    k_segments_pn: jax.Array | None = None,
    q_positions_bt: jax.Array | None = None,
    k_positions_pn: jax.Array | None = None,
    causal: bool = True,
    window: int | None = None,
    pattern: ops.Pattern | None = None,
    bias: ops.Bias | None = None,
    scale: float | None = None,
    soft_cap: float | None = None,
    return_lse: bool = False,
    implementation: str | None = None,
) -> jax.Array | tuple[jax.Array, jax.Array]:
    """ops.paged_attention, which says what it computes, with three more implementations: "pallas" (Triton on a GPU, Mosaic on a TPU), "interpret_gpu" and
    "interpret_tpu" (the same kernels in Pallas's interpreter).

    Where queries are few, T·H/G at most 128 as in decoding, programs read the pages where they lie (see kernels/decoding.py); more queries have their rows'
    pages gathered for the kernel of kernels.attention, and so has the backward pass.

    Raises ValueError for what kernels.attention does not take, and for pages that are not a power of two of at least 8 keys; implementation="xla" takes them.
    """
    options = {"causal": causal, "window": window, "pattern": pattern, "bias": bias, "scale": scale, "soft_cap": soft_cap}
    where = Where(q_order_bt, k_order_pn, q_segments_bt, k_segments_pn, q_positions_bt, k_positions_pn)
    if implementation not in BACKENDS:
        if implementation not in (None, *PLAIN):
            raise ValueError(f"paged_attention has no implementation {implementation!r}; it has {IMPLEMENTATIONS}")
        marks = dict(zip(("q_order_bt", "k_order_pn", "q_segments_bt", "k_segments_pn", "q_positions_bt", "k_positions_pn"), where))
        return ops.paged_attention(q_bthk, k_pngk, v_pngv, table_bm, **marks, **options, return_lse=return_lse, implementation=implementation)
    check("paged_attention", implementation, q_bthk, v_pngv, bias)
    page = k_pngk.shape[1]
    if page < 8 or page & (page - 1):
        raise ValueError(f"paged_attention: implementation={implementation!r} takes pages of 8, 16, 32, … keys, not {page}; use implementation='xla'")

    def core(q_bthk, k_pngk, v_pngv, params, where, rule):
        where = through(table_bm, where, k_pngk.shape, q_bthk.shape[1])
        form = _paged if few(q_bthk.shape[1], rule) else _gathered
        return form(q_bthk, k_pngk, v_pngv, table_bm, where, rule, implementation)

    o_bthv, lse_bth = attend(core, q_bthk, k_pngk, v_pngv, where, **options)
    return (o_bthv, lse_bth) if return_lse else o_bthv


def _gathered(q_bthk, k_pngk, v_pngv, table_bm, where, rule, backend):
    k_bsgk, v_bsgv = (gathered(x, table_bm).astype(q_bthk.dtype) for x in (k_pngk, v_pngv))
    return flash(q_bthk, k_bsgk, v_bsgv, where, rule, backend)


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def _paged(q_bthk, k_pngk, v_pngv, table_bm, where, rule, backend):
    return on(backend, *either(_forward, rule), q_bthk, k_pngk, v_pngv, table_bm, where)


def _forward(rule, tpu, interpret, q_bthk, k_pngk, v_pngv, table_bm, where):
    o_bthv, lse_bth = decode(rule, tpu, interpret, q_bthk, k_pngk, v_pngv, where, table_bm)
    return o_bthv.astype(q_bthk.dtype), lse_bth


def _keeping(*arguments):
    return _paged(*arguments), arguments[:5]


def _pulled(rule, backend, arguments, d_both):
    *inputs, table_bm, where = arguments
    return *jax.vjp(lambda *inputs: _gathered(*inputs, table_bm, where, rule, backend), *inputs)[1](d_both), None, None


_paged.defvjp(_keeping, _pulled)
