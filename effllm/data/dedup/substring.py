"""Exact repeated substrings: a suffix array by prefix doubling, and the removal of later copies.

Letters: t position in the concatenated text.
"""

from collections.abc import Sequence

import numpy as np


def suffix_array(data: bytes, depth: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """(order_t, rank_t) int64: suffixes in order, and of each how many are smaller, compared by their first `depth` bytes (None: whole).

    Suffixes that agree in `depth` bytes share a rank, and stand in `order_t` by position. Prefix doubling (Manber & Myers 1993), where only suffixes
    that are not yet told apart are sorted again (Larsson & Sadakane 2007). Memory: about 60 bytes a byte of text at first. An end of text is
    smaller than every byte. Raises ValueError for a depth below 1.
    """
    if depth is not None and depth < 1:
        raise ValueError(f"depth={depth}: compare at least one byte")
    count = len(data)
    depth = max(count, 1) if depth is None else depth
    compared = min(depth, 7)
    padded = np.zeros(count + compared, np.uint64)
    padded[:count] = np.frombuffer(data, np.uint8)
    padded[:count] += np.uint64(1)
    key_t = np.zeros(count, np.uint64)
    for offset in range(compared):
        key_t = key_t * np.uint64(257) + padded[offset : offset + count]
    order_t = np.argsort(key_t, kind="stable")
    rank_t = np.empty(count, np.int64)
    rank_t[order_t] = _run_starts(key_t[order_t])
    del key_t, padded
    open_t = _not_alone(order_t, rank_t)
    while compared < depth and len(open_t):
        step = min(compared, depth - compared)
        beyond = open_t + step
        next_t = np.where(beyond < count, rank_t[np.minimum(beyond, count - 1)], -1)
        order = np.lexsort((open_t, next_t, rank_t[open_t]))
        open_t, next_t, group_t = open_t[order], next_t[order], rank_t[open_t][order]
        first = _run_starts(group_t)
        finer = np.r_[True, (group_t[1:] != group_t[:-1]) | (next_t[1:] != next_t[:-1])]
        start = np.maximum.accumulate(np.where(finer, np.arange(len(open_t)), 0))
        order_t[group_t + np.arange(len(open_t)) - first] = open_t
        rank_t[open_t] = group_t + start - first
        compared += step
        open_t = open_t[_shared(rank_t[open_t])]
    return order_t, rank_t


def repeated_spans(texts: Sequence[bytes], length: int = 50) -> list[list[tuple[int, int]]]:
    """For each text the spans (start, end) whose every `length`-byte window stood before, in an earlier text or earlier in the same.

    Removing them keeps the first copy of everything (ExactSubstr of Lee et al. 2022, arXiv 2107.06499, whose windows are 50 tokens;
    about 200 bytes). Spans never cut a UTF-8 character, never cross texts and do not touch each other. Memory as suffix_array().
    """
    if length < 1:
        raise ValueError(f"length={length}: a repeated span has at least one byte")
    size_d = np.array([len(text) for text in texts], np.int64)
    start_d = np.concatenate([[0], np.cumsum(size_d)])
    data = b"".join(texts)
    _, rank_t = suffix_array(data, length)
    end_t = np.repeat(start_d[1:], size_d)
    whole_t = np.flatnonzero(np.arange(len(data)) + length <= end_t)
    rank_w = rank_t[whole_t]
    _, first_w = np.unique(rank_w, return_index=True)
    later_w = np.ones(len(whole_t), bool)
    later_w[first_w] = False
    covered_t = np.zeros(len(data) + 1, np.int32)
    np.add.at(covered_t, whole_t[later_w], 1)
    np.add.at(covered_t, whole_t[later_w] + length, -1)
    inside_t = np.cumsum(covered_t[:-1]) > 0
    out = []
    for first, last in zip(start_d, start_d[1:]):
        edge = np.flatnonzero(np.diff(np.r_[False, inside_t[first:last], False].astype(np.int8)))
        out.append([span for span in (_at_characters(data, first, a, b) for a, b in edge.reshape(-1, 2).tolist()) if span[0] < span[1]])
    return out


def without(text: bytes, spans: Sequence[tuple[int, int]]) -> bytes:
    """The text with the spans taken out."""
    edges = [0, *(edge for span in spans for edge in span), len(text)]
    return b"".join(text[a:b] for a, b in zip(edges[::2], edges[1::2]))


def _at_characters(data: bytes, base: int, start: int, end: int) -> tuple[int, int]:
    """The span shrunk to whole UTF-8 characters."""
    base = int(base)
    while start < end and data[base + start] & 0xC0 == 0x80:
        start += 1
    while start < end and base + end < len(data) and data[base + end] & 0xC0 == 0x80:
        end -= 1
    return start, end


def _run_starts(key: np.ndarray) -> np.ndarray:
    """For each position of sorted keys, where its run of equal keys begins."""
    begins = np.r_[True, key[1:] != key[:-1]] if len(key) else np.zeros(0, bool)
    return np.maximum.accumulate(np.where(begins, np.arange(len(key)), 0))


def _shared(key: np.ndarray) -> np.ndarray:
    """Whether a neighbour has the same key; equal keys are adjacent."""
    same = key[1:] == key[:-1]
    return np.r_[same, False] | np.r_[False, same] if len(key) else np.zeros(0, bool)


def _not_alone(order_t: np.ndarray, rank_t: np.ndarray) -> np.ndarray:
    return order_t[_shared(rank_t[order_t])]
