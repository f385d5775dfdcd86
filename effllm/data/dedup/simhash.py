"""SimHash: near duplicates by Hamming distance of 64-bit fingerprints.

Letters: d document, s shingle, f one of the 64 bits, p pair.
"""

import numpy as np

from effllm.data.dedup.lsh import group_pairs
from effllm.data.dedup.minhash import mix

BITS = 64


def simhash(hash_s: np.ndarray, start_d: np.ndarray) -> np.ndarray:
    """fingerprint_d (D,) uint64: bit f is set if more than half of d's shingles have bit f of a 64-bit hash set (Charikar 2002).

    The angle between two documents' shingle counts is about π·distance/64. hash_s, start_d: from shingles(texts, n=1) or more; a
    document without shingles gets 0.
    """
    wide_s2 = np.stack([mix(hash_s), mix(hash_s ^ np.uint32(0x5BD1E995))], 1).astype("<u4")
    bit_sf = np.unpackbits(wide_s2.view(np.uint8), axis=1, bitorder="little") if len(hash_s) else np.zeros((0, BITS), np.uint8)
    sum_df = np.stack([bit_sf[a:b].sum(0, dtype=np.int64) for a, b in zip(start_d, start_d[1:])]) if len(start_d) > 1 else np.zeros((0, BITS), np.int64)
    return np.packbits(2 * sum_df > np.diff(start_d)[:, None], axis=1, bitorder="little").view("<u8").ravel()


def hamming(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """How many bits differ."""
    return np.bitwise_count(one ^ other).astype(np.int64)


def simhash_pairs(fingerprint_d: np.ndarray, distance: int = 3) -> np.ndarray:
    """pair_p2, i < j, sorted: fingerprints that differ in at most `distance` bits (Manku et al. 2007 take 3 of 64 for web pages).

    Cut into distance + 1 blocks, such fingerprints agree in at least one; so those equal in a block are compared. Groups of more than 16
    with an equal block are compared with their first and neighbour only (as in candidate_pairs). Raises ValueError for a distance outside
    0..15.
    """
    if not 0 <= distance < 16:
        raise ValueError(f"distance={distance}: give 0 to 15 of {BITS} bits")
    edge, found = np.linspace(0, BITS, distance + 2).astype(int), [np.zeros((0, 2), np.int64)]
    for low, high in zip(edge, edge[1:]):
        block_d = (fingerprint_d >> np.uint64(low)) & np.uint64((1 << int(high - low)) - 1)
        order = np.argsort(block_d, kind="stable")
        pair_p2 = order[group_pairs(block_d[order])]
        near_p = hamming(fingerprint_d[pair_p2[:, 0]], fingerprint_d[pair_p2[:, 1]]) <= distance
        found.append(pair_p2[near_p])
    return np.unique(np.sort(np.concatenate(found), axis=1), axis=0)
