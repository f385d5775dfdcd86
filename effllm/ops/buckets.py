"""Relative positions in buckets that widen with the distance, with exact integer boundaries."""

import functools

import numpy as np


def _first(least: int, most: int, k: int, n: int, beyond: bool) -> int:
    """The smallest integer d with (d/least)^n ≥ (most/least)^k, or > where `beyond`; whole numbers throughout, no logarithm."""
    bound = most**k * least ** (n - k)
    d = least
    while d**n < bound or (beyond and d**n == bound):
        d += 1
    return d


@functools.cache
def t5_buckets(buckets: int, max_distance: int, bidirectional: bool) -> np.ndarray:
    """(2·max_distance + 1,) int32: the bucket of j − i for −max_distance … max_distance; beyond lie the ends' buckets (Raffel et al. 2019, arXiv 1910.10683).

    Of n buckets the first E = n/2 hold one distance each; bucket E + k begins at the smallest d ≥ E·(max_distance/E)^(k/(n−E)); the last is open. Bidirectional:
    n is half of all, and later keys have the upper half. Else later keys share bucket 0 with the query itself.
    """
    n = buckets // 2 if bidirectional else buckets
    exact = n // 2
    if exact < 1 or max_distance <= exact:
        raise ValueError(f"T5 buckets: buckets={buckets} need at least {4 if bidirectional else 2}, and max_distance={max_distance} must exceed {exact}, the exact ones")
    starts = [_first(exact, max_distance, k, n - exact, False) for k in range(1, n - exact)]
    distance = np.arange(max_distance + 1)
    behind = np.where(distance < exact, distance, exact + np.searchsorted(starts, distance, side="right"))
    ahead = behind[1:] + n if bidirectional else np.zeros(max_distance)
    return np.concatenate([behind[::-1], ahead]).astype(np.int32)


@functools.cache
def deberta_buckets(buckets: int, max_distance: int | None) -> np.ndarray:
    """(2·max_distance + 1,) int32: the bucket 0 … 2·buckets − 1 of i − j for −max_distance … max_distance (DeBERTa-v2; He et al. 2020, arXiv 2006.03654).

    Up to M = buckets/2 every distance has its own bucket; distance d beyond M has M + ⌈(M−1)·ln(d/M)/ln((max_distance−1)/M)⌉. The sign
    is kept, bucket `buckets` is distance 0, and the ends are open. max_distance=None gives every distance below `buckets` its own, (2·buckets + 1,).
    """
    if max_distance is None:
        if buckets < 1:
            raise ValueError(f"DeBERTa buckets: buckets={buckets} must be at least 1")
        return np.clip(np.arange(2 * buckets + 1), 0, 2 * buckets - 1).astype(np.int32)
    middle = buckets // 2
    if middle < 2 or max_distance <= middle + 1:
        raise ValueError(f"DeBERTa buckets: buckets={buckets} must be at least 4 and max_distance={max_distance} more than {middle + 1}")
    starts = [_first(middle, max_distance - 1, k, middle - 1, True) for k in range(middle)]
    distance = np.arange(max_distance + 1)
    bucket = np.where(distance <= middle, distance, middle + np.searchsorted(starts, distance, side="right"))
    return np.clip(buckets + np.concatenate([-bucket[::-1], bucket[1:]]), 0, 2 * buckets - 1).astype(np.int32)
