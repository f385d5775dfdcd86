"""How often to read from each domain or language, by its size.

Letters: k domain.
"""

import numpy as np


def temperature_mix(size_k: np.ndarray, temperature: float) -> np.ndarray:
    """p_k ∝ size_k^(1/T): T=1 proportional, T→∞ uniform; multilingual BERT has 1/0.7, mT5 1/0.3 (Xue et al. 2021, arXiv 2010.11934).

    Raises ValueError for a temperature or a size that is not positive.
    """
    size_k = _sizes(size_k)
    if temperature <= 0:
        raise ValueError(f"temperature={temperature}: give a positive number")
    log_k = np.log(size_k) / temperature
    p_k = np.exp(log_k - log_k.max())
    return p_k / p_k.sum()


def unimax(size_k: np.ndarray, budget: float, epochs: float = 4.0) -> np.ndarray:
    """p_k: as uniform as can be without reading any domain more than `epochs` times within `budget` tokens (Chung et al. 2023, arXiv 2304.09151).

    From the smallest domain on, each gets an equal share of what is left, or epochs · size if that is less. Shares are normalised: where
    even all domains, `epochs` times, do not fill the budget, every domain is read that often and no more. Raises ValueError for
    what is not positive.
    """
    size_k = _sizes(size_k)
    if budget <= 0 or epochs <= 0:
        raise ValueError(f"budget={budget}, epochs={epochs}: give positive numbers")
    given_k, left = np.zeros(len(size_k)), float(budget)
    for place, k in enumerate(np.argsort(size_k, kind="stable")):
        given_k[k] = min(left / (len(size_k) - place), epochs * size_k[k])
        left -= given_k[k]
    return given_k / given_k.sum()


def _sizes(size_k: np.ndarray) -> np.ndarray:
    size_k = np.asarray(size_k, np.float64)
    if not len(size_k) or not (size_k > 0).all():
        raise ValueError(f"sizes {size_k.tolist()}: every domain needs a positive size")
    return size_k
