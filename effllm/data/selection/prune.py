"""Pruning by a score: perplexity, loss, EL2N, forgetting, the score of a small proxy.

Letters: d document.
"""

from typing import Literal

import numpy as np

from effllm.data.selection.check import chosen, count_of

Part = Literal["bottom", "middle", "top"]


def prune(score_d: np.ndarray, keep: float, part: Part) -> np.ndarray:
    """keep_d: the share `keep` with the lowest, middle or highest scores; of equal scores the first documents count as lower.

    With perplexities this is Marion et al. 2023 (arXiv 2309.04564), where the middle wins, and Ankner et al. 2024 (arXiv 2405.20541), where a
    125M model's perplexities choose for a larger one and the best part depends on the data: so `part` has no default. Raises
    ValueError for a share outside (0, 1], an unknown part, or a score that is not a number.
    """
    score_d = np.asarray(score_d, np.float64)
    count = count_of(keep, len(score_d))
    if np.isnan(score_d).any():
        raise ValueError(f"the score of document {int(np.flatnonzero(np.isnan(score_d))[0])} is not a number: score it again, or leave it out")
    order = np.argsort(score_d, kind="stable")
    start = {"bottom": 0, "middle": (len(order) - count) // 2, "top": len(order) - count}.get(part)
    if start is None:
        raise ValueError(f"part={part!r}: bottom, middle or top")
    return chosen(order[start : start + count], len(order))
