"""Longformer's pattern in two halves, for the tokens that look about themselves and for those that look at all (Beltagy et al. 2020, arXiv 2004.05150)."""

from dataclasses import dataclass

from effllm.ops.pattern import Longformer, near, overlap


def any_of(numbers: tuple[int, ...], least, most):
    """Whether one of the numbers lies in a range."""
    return sum((overlap(least, most, n, n) for n in numbers), least != least)


@dataclass(frozen=True)
class LocalQueries(Longformer):
    """i sees the positions less than `window` away and the global ones; a global i sees nothing. O(T·(window + globals))."""

    def sees(self, i, j):
        return ((abs(i - j) < self.window) | self.is_global(j)) & ~self.is_global(i)

    def may_see(self, i_least, i_most, j_least, j_most):
        return near(self.window, i_least, i_most, j_least, j_most) | any_of(self.global_positions, j_least, j_most)


@dataclass(frozen=True)
class GlobalQueries(Longformer):
    """A global i sees every position; any other sees nothing. O(T·globals), by blocks of queries that hold a global one."""

    def sees(self, i, j):
        return self.is_global(i) & (j == j)

    def may_see(self, i_least, i_most, j_least, j_most):
        return any_of(self.global_positions, i_least, i_most) & (j_least == j_least)
