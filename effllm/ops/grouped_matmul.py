"""Products of groups of rows with a matrix for each group: what experts compute without a capacity (Gale et al. 2022, arXiv 2211.15841)."""

import jax
import jax.numpy as jnp

IMPLEMENTATIONS = ("reference", "xla")


def grouped_matmul(x_mk: jax.Array, w_gkn: jax.Array, sizes_g: jax.Array, *, implementation: str | None = None) -> jax.Array:
    """(M, N): rows of x in order of their groups, the first sizes[0] of them times w[0], the next sizes[1] times w[1], …, of the dtype of x.

    sizes (G,) are integers and data: a group may be empty, and rows beyond their sum give 0; those of groups that reach beyond M are left out. w is used in x's
    dtype; sums in at least float32.

    implementation: "reference" multiplies all rows with all matrices and chooses; "xla" (the default) is jax.lax.ragged_dot. Raises ValueError for shapes that
    do not fit and for an unknown implementation.
    """
    if implementation not in (None, *IMPLEMENTATIONS):
        raise ValueError(f"grouped_matmul has no implementation {implementation!r}; it has {IMPLEMENTATIONS}")
    check(x_mk, w_gkn, sizes_g)
    w_gkn, wide = w_gkn.astype(x_mk.dtype), jnp.promote_types(x_mk.dtype, jnp.float32)
    if implementation == "reference":
        ends_g = jnp.cumsum(sizes_g)
        row_m1 = jnp.arange(x_mk.shape[0])[:, None]
        is_group_mg = (row_m1 < ends_g) & (row_m1 >= ends_g - sizes_g)
        y_mgn = jnp.einsum("mk,gkn->mgn", x_mk, w_gkn, preferred_element_type=wide)
        return jnp.where(is_group_mg[..., None], y_mgn, 0).sum(1).astype(x_mk.dtype)
    sizes_g = within(sizes_g, x_mk.shape[0])
    real_m1 = jnp.arange(x_mk.shape[0])[:, None] < sizes_g.sum()  # before and after, so that no platform's rows beyond the groups matter, nor their gradients
    y_mn = jax.lax.ragged_dot(jnp.where(real_m1, x_mk, 0), w_gkn, sizes_g, preferred_element_type=wide)
    return jnp.where(real_m1, y_mn, 0).astype(x_mk.dtype)


def check(x_mk: jax.Array, w_gkn: jax.Array, sizes_g: jax.Array) -> None:
    """Raise ValueError for shapes that do not fit."""
    if x_mk.ndim != 2 or w_gkn.ndim != 3 or x_mk.shape[1] != w_gkn.shape[1] or sizes_g.shape != w_gkn.shape[:1]:
        raise ValueError(f"grouped_matmul: x {x_mk.shape}, w {w_gkn.shape} and sizes {sizes_g.shape} are not (M, K), (G, K, N) and (G,)")


def within(sizes_g: jax.Array, rows: int) -> jax.Array:
    """(G,) int32 the sizes of groups less what lies beyond the last row."""
    ends_g = jnp.minimum(jnp.cumsum(sizes_g.astype(jnp.int32)), rows)
    return jnp.diff(ends_g, prepend=0)
