"""Sampling without replacement from unnormalised log weights.

Letters: d document.
"""

import jax
import jax.numpy as jnp
import numpy as np

from effllm.data.selection.check import check_count, check_weights


def gumbel_topk(key: jax.Array, logw_d: jax.Array, count: int) -> jax.Array:
    """(count,) int32: the top `count` of logw + Gumbel noise, which is a draw without replacement with p ∝ exp(logw) (Kool et al. 2019, arXiv 1903.06059).

    The most likely first of the draw comes first; ties go to the smaller index. −∞ excludes. Raises ValueError for a count out of range and,
    where the weights are not traced, for one that is NaN or for fewer than `count` above −∞.
    """
    check_count(count, logw_d.shape[0])
    if not isinstance(logw_d, jax.core.Tracer):
        check_weights(np.asarray(logw_d), count)
    return jax.lax.top_k(logw_d + jax.random.gumbel(key, logw_d.shape), count)[1].astype(jnp.int32)


def sample_by_rating(key: jax.Array, rating_d: jax.Array, count: int, temperature: float = 1.0) -> jax.Array:
    """(count,) int32 drawn without replacement with p ∝ exp(rating/temperature): QuRating's choice over top-k (Wettig et al. 2024, arXiv 2402.09739).

    temperature → 0 is top-k, → ∞ uniform. Raises ValueError for a temperature that is not positive.
    """
    if temperature <= 0:
        raise ValueError(f"temperature={temperature}: give a positive number")
    return gumbel_topk(key, rating_d / temperature, count)
