"""Typed weight leaves: what may stand in the place of a dense kernel."""

from effllm.weights.base import Weight, materialise, matmul, nbytes, spec

__all__ = ["Weight", "materialise", "matmul", "nbytes", "spec"]
