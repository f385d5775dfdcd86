"""Concat-then-split packing: documents to records of equal length and back to batches.

Letters: r record, b batch row, t time, s = t + 1 stored positions.
"""

from collections.abc import Iterable, Iterator

import numpy as np

_BLOCK = 1 << 20


def pack(documents: Iterable[np.ndarray], length: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Cuts the concatenation of `documents` into records (tokens_s, segment_ids_s) of length + 1 positions, int32.

    documents: 1-D integer arrays that already carry their begin and end tokens; empty ones vanish. Record k covers positions
    k·length … (k+1)·length of the concatenation, both ends included: neighbours share one token, so every (input, target) pair
    inside a document lies in exactly one record. segment_ids number the documents within a record from 1; 0 is padding and
    occurs only at the end of the last record. Memory: about fifty bytes a token, of a million tokens or of the longest document.
    """
    for tokens_rs, segments_rs in pack_blocks(documents, length):
        yield from zip(tokens_rs, segments_rs)


def pack_blocks(documents: Iterable[np.ndarray], length: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """`pack`, many records at a time: (tokens_rs, segment_ids_rs)."""
    if length < 1:
        raise ValueError(f"length={length}: a record needs at least one pair of tokens")
    tokens, owners = np.zeros(0, np.int32), np.zeros(0, np.int64)
    number = 0
    for group in _groups(documents, max(_BLOCK, length + 1)):
        sizes = [len(document) for document in group]
        tokens = np.concatenate([tokens, *group], dtype=np.int32, casting="same_kind")
        owners = np.concatenate([owners, np.repeat(np.arange(number, number + len(group)), sizes)])
        number += len(group)
        records = (len(tokens) - 1) // length
        if records > 0:
            yield _cut(tokens, owners, records, length)
            tokens, owners = tokens[records * length:], owners[records * length:]
    if len(tokens) > 1:
        tokens_rs = np.zeros((1, length + 1), np.int32)
        segments_rs = np.zeros((1, length + 1), np.int32)
        tokens_rs[0, :len(tokens)] = tokens
        segments_rs[0, :len(tokens)] = owners - owners[0] + 1
        yield tokens_rs, segments_rs


def _groups(documents: Iterable[np.ndarray], size: int) -> Iterator[list[np.ndarray]]:
    """Runs of non-empty documents that hold at least `size` tokens each; the last may hold fewer."""
    group, held = [], 0
    for document in documents:
        if len(document):
            group.append(document)
            held += len(document)
        if held >= size:
            yield group
            group, held = [], 0
    if group:
        yield group


def _cut(tokens: np.ndarray, owners: np.ndarray, records: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    windows = np.lib.stride_tricks.sliding_window_view
    tokens_rs = windows(tokens, length + 1)[:records * length:length]
    owners_rs = windows(owners, length + 1)[:records * length:length]
    return tokens_rs, (owners_rs - owners_rs[:, :1] + 1).astype(np.int32)


def unpack(tokens_bs: np.ndarray, segments_bs: np.ndarray) -> dict[str, np.ndarray]:
    """Stored records (B, T+1) to a training batch of arrays (B, T).

    tokens, targets (the next token), segment_ids, positions (restarting at 0 in every segment of the record): int32;
    weights: float32, 1 where input and target belong to the same document, 0 at document ends and in padding.
    """
    segments_bt, following_bt = segments_bs[:, :-1], segments_bs[:, 1:]
    index_t = np.arange(segments_bt.shape[1], dtype=np.int32)
    starts_bt = np.zeros(segments_bt.shape, np.int32)
    starts_bt[:, 1:] = np.where(segments_bt[:, 1:] != segments_bt[:, :-1], index_t[1:], 0)
    return {
        "tokens": tokens_bs[:, :-1].astype(np.int32),
        "targets": tokens_bs[:, 1:].astype(np.int32),
        "segment_ids": segments_bt.astype(np.int32),
        "positions": index_t - np.maximum.accumulate(starts_bt, axis=1),
        "weights": ((segments_bt == following_bt) & (segments_bt != 0)).astype(np.float32),
    }
