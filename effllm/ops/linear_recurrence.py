"""The element-wise linear recurrence h_t = a_t h_{t−1} + b_t (Martin & Cundy 2018, arXiv 1709.04057)."""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

IMPLEMENTATIONS = ("reference", "associative", "blockwise", "sequential")


def linear_recurrence(
    a: jax.Array,
    b_btd: jax.Array,
    start_bd: jax.Array | None = None,
    *,
    real_bt: jax.Array | None = None,
    reset_bt: jax.Array | None = None,
    implementation: str | None = None,
) -> tuple[jax.Array, jax.Array]:
    """(h (B, T, D), its last row (B, D)) of h_t = a_t ⊙ h_{t−1} + b_t from h_{−1} = start, or zero; real or complex.

    `a` is (B, T, D), or (D,) where it is the same at all times. Where reset_bt is true h forgets all before it; where real_bt is false h stays as it is
    (padding). Computed in the widest type among a, b and start, and at least float32; h keeps that type.

    implementation: "reference" takes one step after another; "associative" combines pairs in a tree of depth log T; "blockwise" steps through all
    blocks of √T tokens at once, then from block to block: O(√T) steps of O(T·D) work; "sequential" takes T steps, each of which writes h where b
    stood. None is "sequential" on a CPU and "blockwise" elsewhere. All but the reference keep only a and h for the backward pass, which is the
    same recurrence from the end.

    Raises ValueError for an `a` or `start` of another shape and for an unknown implementation.
    """
    if implementation not in (None, *IMPLEMENTATIONS):
        raise ValueError(f"linear_recurrence has no implementation {implementation!r}; it has {IMPLEMENTATIONS}")
    a_btd, b_btd, start_bd = prepared(a, b_btd, start_bd, real_bt, reset_bt)
    if b_btd.shape[1] == 1:
        h_btd = a_btd * start_bd[:, None] + b_btd
    elif implementation == "reference":
        h_btd = _steps(a_btd, b_btd, start_bd)
    else:
        h_btd = _fast(a_btd, b_btd, start_bd, FORMS[implementation])
    return h_btd, h_btd[:, -1]


def prepared(a, b_btd, start_bd, real_bt, reset_bt) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(a (B, T, D), b, start) in one type at least float32, with a = 0 where a document begins and a = 1, b = 0 where padding stands."""
    batch, length, width = b_btd.shape
    if a.shape not in ((width,), (batch, length, width)):
        raise ValueError(f"linear_recurrence: a has shape {a.shape}, b needs {(batch, length, width)} or {(width,)}")
    if start_bd is not None and start_bd.shape != (batch, width):
        raise ValueError(f"linear_recurrence: start has shape {start_bd.shape}, b needs {(batch, width)}: it is another model's state")
    wide = functools.reduce(jnp.promote_types, (x.dtype for x in (a, b_btd, start_bd) if x is not None), jnp.float32)
    start_bd = jnp.zeros((batch, width), wide) if start_bd is None else start_bd.astype(wide)
    a_btd, b_btd = jnp.broadcast_to(a.astype(wide), b_btd.shape), b_btd.astype(wide)
    if reset_bt is not None:
        a_btd = jnp.where(reset_bt[..., None], 0, a_btd)
    if real_bt is not None:
        a_btd, b_btd = jnp.where(real_bt[..., None], a_btd, 1), jnp.where(real_bt[..., None], b_btd, 0)
    return a_btd, b_btd, start_bd


def _steps(a_btd, b_btd, start_bd):
    def step(h_bd, ab):
        h_bd = ab[0] * h_bd + ab[1]
        return h_bd, h_bd

    _, h_tbd = jax.lax.scan(step, start_bd, (jnp.swapaxes(a_btd, 0, 1), jnp.swapaxes(b_btd, 0, 1)))
    return jnp.swapaxes(h_tbd, 0, 1)


class Form(NamedTuple):
    """A way to compute h from (a, b, start), and from the end g_t = d_t + a_{t+1} g_{t+1} from (a, d). Time is axis 1 of any number of axes."""

    forward: Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
    backward: Callable[[jax.Array, jax.Array], jax.Array]


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _fast(a_btd, b_btd, start_bd, form):
    return form.forward(a_btd, b_btd, start_bd)


def _fast_forward(a_btd, b_btd, start_bd, form):
    h_btd = form.forward(a_btd, b_btd, start_bd)
    return h_btd, (a_btd, h_btd, start_bd)


def _fast_backward(form, residuals, d_btd):
    a_btd, h_btd, start_bd = residuals
    g_btd = form.backward(a_btd, d_btd)
    before_btd = jnp.concatenate([start_bd[:, None], h_btd[:, :-1]], axis=1)
    return g_btd * before_btd, g_btd, a_btd[:, 0] * g_btd[:, 0]


_fast.defvjp(_fast_forward, _fast_backward)


def _turned(forward):
    """A form that goes from the end by going forward over reversed arrays, with a moved by one."""

    def backward(a_btd, d_btd):
        after_btd = jnp.concatenate([a_btd[:, 1:], jnp.zeros_like(a_btd[:, :1])], axis=1)
        return forward(after_btd[:, ::-1], d_btd[:, ::-1], jnp.zeros_like(d_btd[:, 0]))[:, ::-1]

    return Form(forward, backward)


def _tree(a_btd, b_btd, start_bd):
    first_btd = b_btd.at[:, 0].add(a_btd[:, 0] * start_bd)
    return jax.lax.associative_scan(lambda x, y: (x[0] * y[0], y[0] * x[1] + y[1]), (a_btd, first_btd), axis=1)[1]


def _blocks(a_btd, b_btd, start_bd):
    batch, length, *width = b_btd.shape
    size = math.isqrt(length - 1) + 1
    blocks = -(-length // size)

    def cut(x_btd):
        """(steps within a block, blocks, B, …); what fills the last block changes nothing that is read."""
        x_btd = jnp.pad(x_btd, ((0, 0), (0, blocks * size - length), *((0, 0),) * len(width)))
        return jnp.moveaxis(x_btd.reshape(batch, blocks, size, *width), (2, 1), (0, 1))

    def within(carry, ab):
        product, h = carry
        product, h = ab[0] * product, ab[0] * h + ab[1]
        return (product, h), (product, h)

    a, b = cut(a_btd), cut(b_btd)
    (product_cbd, h_cbd), (products, h) = jax.lax.scan(within, (jnp.ones_like(a[0]), jnp.zeros_like(b[0])), (a, b))
    _, before_cbd = jax.lax.scan(lambda h_bd, ab: (ab[0] * h_bd + ab[1], h_bd), start_bd, (product_cbd, h_cbd))
    h = h + products * before_cbd
    return jnp.moveaxis(h, (0, 1), (2, 1)).reshape(batch, -1, *width)[:, :length]


def _in_place(a_btd, x_btd, h_bd, count, places):
    """x once h = a[s] h + x[t] has replaced x[t] at places(0) = (s, t), then at places(1), …

    h is carried beside x: a step that read it from x would have XLA copy all of x.
    """

    def step(i, carry):
        (h_bd, x_btd), (s, t) = carry, places(i)
        a_bd, b_bd = (jax.lax.dynamic_index_in_dim(y_btd, at, 1, False, allow_negative_indices=False) for y_btd, at in ((a_btd, s), (x_btd, t)))
        h_bd = a_bd * h_bd + b_bd
        return h_bd, jax.lax.dynamic_update_index_in_dim(x_btd, h_bd, t, 1, allow_negative_indices=False)

    return jax.lax.fori_loop(0, count, step, (h_bd, x_btd))[1]


def _forward_in_place(a_btd, b_btd, start_bd):
    return _in_place(a_btd, b_btd, start_bd, b_btd.shape[1], lambda i: (i, i))


def _backward_in_place(a_btd, d_btd):
    last = d_btd.shape[1] - 1
    return _in_place(a_btd, d_btd, d_btd[:, last], last, lambda i: (last - i, last - 1 - i))


def _by_platform(cpu, other):
    def of(direction):
        return lambda *arrays: jax.lax.platform_dependent(*arrays, cpu=getattr(cpu, direction), default=getattr(other, direction))

    return Form(of("forward"), of("backward"))


FORMS = {"associative": _turned(_tree), "blockwise": _turned(_blocks), "sequential": Form(_forward_in_place, _backward_in_place)}
FORMS[None] = _by_platform(cpu=FORMS["sequential"], other=FORMS["blockwise"])
