"""Where the eigenvalues of a state space start: HiPPO and its diagonal approximations."""

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Spectrum:
    """Base: `spectrum(states)` gives `states` complex eigenvalues, the ones with non-negative imaginary part of pairs; this one is S4D-Lin, λ_n = −½ + iπn
    (Gu et al. 2022, arXiv 2206.11893)."""

    def __call__(self, states: int) -> np.ndarray:
        return -0.5 + 1j * math.pi * np.arange(states)


@dataclass(frozen=True)
class InverseSpectrum(Spectrum):
    """S4D-Inv, λ_n = −½ + i (N/π)(N/(2n+1) − 1) with N = 2·states (Gu et al. 2022, arXiv 2206.11893)."""

    def __call__(self, states):
        size = 2 * states
        return -0.5 + 1j * size / math.pi * (size / (2 * np.arange(states) + 1) - 1)


@dataclass(frozen=True)
class HiPPO(Spectrum):
    """The eigenvalues of the normal part of HiPPO-LegS (Gu et al. 2020, arXiv 2008.07669; Gupta et al. 2022, arXiv 2203.14343)."""

    def __call__(self, states):
        return hippo_dplr(2 * states)[0][states:]  # eigh sorts: the upper half has the positive imaginary parts


def hippo(size: int) -> tuple[np.ndarray, np.ndarray]:
    """(A (N, N), B (N,)) of HiPPO-LegS: A_nk = −√((2n+1)(2k+1)) below the diagonal, −(n+1) on it; B_n = √(2n+1)."""
    root = np.sqrt(2 * np.arange(size) + 1.0)
    return -np.tril(np.outer(root, root), -1) - np.diag(np.arange(size) + 1.0), root


def hippo_dplr(size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(Λ, P, B), all (N,) complex, with V(diag(Λ) − P P*)V* = A and V B the B of HiPPO-LegS (Gu et al. 2021, arXiv 2111.00396, appendix C)."""
    a, b = hippo(size)
    p = np.sqrt(np.arange(size) + 0.5)
    normal = a + np.outer(p, p)  # −½ I plus a skew-symmetric matrix
    imaginary, v = np.linalg.eigh(-1j * (normal + 0.5 * np.eye(size)))
    return -0.5 + 1j * imaginary, v.conj().T @ p, v.conj().T @ b
