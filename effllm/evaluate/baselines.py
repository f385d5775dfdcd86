"""What simple compressors make of the same held-out bytes: the floor that a model must pass."""

import gzip
import lzma

from effllm.data import Dataset, ngram_bits_per_byte

TRAIN_LIMIT, HELD_OUT_LIMIT = 2**27, 2**25


def _text(dataset: Dataset, split: str, limit: int) -> bytes:
    parts, size = [], 0
    for document in dataset.documents(split):
        parts.append(document.text)
        size += len(document.text)
        if size >= limit:
            break
    return b"\n".join(parts)[:limit]


def baselines(dataset: Dataset) -> dict[str, float]:
    """Bits per byte of the held-out text (at most its first 32 MiB) by n-gram models of the training text (at most 128 MiB), gzip and xz."""
    train, held_out = _text(dataset, "train", TRAIN_LIMIT), _text(dataset, "held_out", HELD_OUT_LIMIT)
    return {
        "bigram": ngram_bits_per_byte(train, held_out, 2),
        "trigram": ngram_bits_per_byte(train, held_out, 3),
        "gzip -9": 8 * len(gzip.compress(held_out, 9)) / len(held_out),
        "xz -9": 8 * len(lzma.compress(held_out, preset=9)) / len(held_out),
    }
