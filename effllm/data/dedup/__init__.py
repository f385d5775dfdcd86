"""Deduplication: exact, near (MinHash, SimHash), by substring, in meaning; contamination; clusters and what stays of them.

    found = MinHash(threshold=0.8)(texts)
    kept = [text for text, keep in zip(texts, found.keep_d) if keep]

What needs JAX is imported by its own name, so that worker processes start fast: effllm.data.dedup.semdedup, .minhash_jax, .kmeans.
"""

from effllm.data.dedup.bloom import Bloom
from effllm.data.dedup.clusters import best_of_each, components
from effllm.data.dedup.contamination import Contamination
from effllm.data.dedup.exact import digest, exact_labels, normalise
from effllm.data.dedup.lsh import band_keys, candidate_pairs, collision_probability, optimal_bands
from effllm.data.dedup.minhash import minhash, permutations, similarity
from effllm.data.dedup.near import Duplicates, MinHash
from effllm.data.dedup.report import Example, render
from effllm.data.dedup.shingle import shingles
from effllm.data.dedup.simhash import hamming, simhash, simhash_pairs
from effllm.data.dedup.substring import repeated_spans, suffix_array, without
from effllm.data.dedup.verify import jaccard

__all__ = [
    "Bloom", "Contamination", "Duplicates", "Example", "MinHash", "band_keys", "best_of_each", "candidate_pairs", "collision_probability", "components",
    "digest", "exact_labels", "hamming", "jaccard", "minhash", "normalise", "optimal_bands", "permutations", "render", "repeated_spans",
    "shingles", "similarity", "simhash", "simhash_pairs", "suffix_array", "without",
]
