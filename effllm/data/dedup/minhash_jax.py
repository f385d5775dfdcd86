"""MinHash signatures and band keys in JAX, equal bit for bit to the NumPy forms: for documents that already lie on an accelerator."""

import jax
import jax.numpy as jnp
import numpy as np

from effllm.data.dedup.lsh import KEY_ODD
from effllm.data.dedup.minhash import EMPTY


def minhash(hash_ds: jax.Array, length_d: jax.Array, a_k: jax.Array, b_k: jax.Array) -> jax.Array:
    """signature_dk (D, K) uint32 of padded shingles: hash_ds (D, S) uint32, of which row d uses the first length_d[d].

    The same numbers as effllm.data.dedup.minhash.minhash(). One permutation at a time, so that memory is that of hash_ds. Jit it with
    few different S, for example powers of two: pad_shingles() makes such rows.
    """
    mixed_ds = _mix(hash_ds)
    there_ds = jnp.arange(hash_ds.shape[1]) < length_d[:, None]

    def one(ab):
        return jnp.min(jnp.where(there_ds, ab[0] * mixed_ds + ab[1], EMPTY), axis=1, initial=EMPTY)

    return jax.lax.map(one, (jnp.asarray(a_k), jnp.asarray(b_k))).T


def band_keys(signature_dk: jax.Array, bands: int) -> jax.Array:
    """key_db2 (D, bands, 2) uint32: the high and low halves of effllm.data.dedup.lsh.band_keys()."""
    rows = signature_dk.shape[1] // bands
    signature_dbr = signature_dk[:, : bands * rows].reshape(-1, bands, rows)
    return _mix(jnp.stack([jnp.sum(signature_dbr * odd, axis=-1, dtype=jnp.uint32) for odd in KEY_ODD[:, :rows]], axis=-1))


def pad_shingles(hash_s: np.ndarray, start_d: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(hash_ds, length_d) from ragged shingles, S the next power of two above the longest document."""
    length_d = np.diff(start_d)
    width = 1 << int(np.ceil(np.log2(max(length_d.max(initial=1), 1))))
    hash_ds = np.zeros((len(length_d), width), np.uint32)
    hash_ds[np.arange(width) < length_d[:, None]] = hash_s
    return hash_ds, length_d


def _mix(hash_s):
    hash_s = hash_s ^ (hash_s >> 16)
    hash_s = hash_s * jnp.uint32(0x85EBCA6B)
    hash_s = hash_s ^ (hash_s >> 13)
    hash_s = hash_s * jnp.uint32(0xC2B2AE35)
    return hash_s ^ (hash_s >> 16)
