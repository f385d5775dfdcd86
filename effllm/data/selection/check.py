"""Checks that the selections share."""

import numpy as np


def count_of(keep: float, total: int) -> int:
    """How many of `total` a share `keep` is, at least 1. Raises ValueError outside (0, 1] or for an empty set."""
    if not 0 < keep <= 1 or total < 1:
        raise ValueError(f"keep={keep} of {total}: give a share in (0, 1] of at least one example")
    return max(1, round(keep * total))


def check_count(count: int, total: int) -> None:
    """Raises ValueError unless 1 ≤ count ≤ total."""
    if not 1 <= count <= total:
        raise ValueError(f"{count} of {total} examples: give 1 to {total}")


def check_weights(logw_d: np.ndarray, count: int) -> None:
    """Raises ValueError where a log weight is NaN, or fewer than `count` are above −∞."""
    if np.isnan(logw_d).any():
        raise ValueError(f"the weight of document {int(np.flatnonzero(np.isnan(logw_d))[0])} is not a number: weigh it again, or leave it out")
    if (left := int(np.count_nonzero(logw_d > -np.inf))) < count:
        raise ValueError(f"{count} documents are to be drawn and only {left} have a weight above −∞: draw fewer")


def check_embeddings(embedding_de: np.ndarray) -> None:
    """Raises ValueError for an embedding that is not finite."""
    if len(bad := np.flatnonzero(~np.isfinite(embedding_de).all(axis=1))):
        raise ValueError(f"embedding {bad[0]} is not finite: it lies nowhere; embed it again, or leave it out")


def chosen(order: np.ndarray, total: int) -> np.ndarray:
    """keep_d (total,) bool, True at `order`."""
    keep_d = np.zeros(total, bool)
    keep_d[np.asarray(order)] = True
    return keep_d
