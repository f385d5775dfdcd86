"""The two-dimensional Fourier transform of every document of a row (FNet: Lee-Thorp et al. 2021, arXiv 2105.03824)."""

import jax
import jax.numpy as jnp

from effllm.ops.documents import compact, documents

LONGEST = 2**16 - 1  # squares of ranks are exact in 32 bits up to here


def fourier(x_btd: jax.Array, segments_bt: jax.Array | None, *, count: int = 8) -> jax.Array:
    """y_t = Re Σ_s Σ_e x_se · exp(−2πi (t·s/n + d·e/D)) over the n tokens of t's own document; (B, T, D) in x's dtype.

    A row holds at most `count` documents, the tokens of later ones give NaN; padding gives 0. One document without padding is a plain FFT. Others
    are transformed one after another by Bluestein's convolution with exp(iπ j²/n), for which n need not be known while compiling: what belongs
    elsewhere is exactly zero before it. O(T log T · D) for each document. Raises ValueError for packed rows longer than 65,535 tokens.
    """
    wide = x_btd.astype(jnp.promote_types(x_btd.dtype, jnp.float32))
    if segments_bt is None:
        return jnp.fft.fft2(wide, axes=(1, 2)).real.astype(x_btd.dtype)
    batch, length, _ = x_btd.shape
    if length > LONGEST:
        raise ValueError(f"fourier of packed rows reaches {LONGEST} tokens, not {length}")
    token_bt, place_bt = compact(segments_bt > 0)
    packed = documents(jnp.take_along_axis(segments_bt, token_bt, axis=1), (batch, length), count)
    z_btd = jnp.fft.fft(jnp.take_along_axis(wide, token_bt[..., None], axis=1), axis=2)
    size = 1 << (2 * length - 1).bit_length()
    lag_j = jnp.minimum(jnp.arange(size), size - jnp.arange(size))

    def chirp(rank_bt, n_b1):
        """exp(−iπ rank²/n), the square taken modulo 2n so that its phase is exact."""
        square_bt = rank_bt.astype(jnp.uint32) ** 2 % (2 * n_b1).astype(jnp.uint32)
        return jnp.exp(-1j * jnp.pi * (square_bt.astype(wide.dtype) / n_b1))

    def transform(document_n):
        n_b1 = jnp.maximum(packed.length_bn[:, document_n], 1)[:, None]
        mine_bt1 = (packed.index_bt == document_n)[..., None]
        chirp_bt1 = chirp(packed.rank_bt, n_b1)[..., None]
        kernel_bj = jnp.conj(chirp(jnp.where(lag_j < length, lag_j, 0)[None], n_b1))
        spectrum = jnp.fft.fft(jnp.where(mine_bt1, z_btd * chirp_bt1, 0), n=size, axis=1) * jnp.fft.fft(kernel_bj, axis=1)[..., None]
        return jnp.where(mine_bt1, (jnp.fft.ifft(spectrum, axis=1)[:, :length] * chirp_bt1).real, 0)

    def add(total_btd, document_n):
        some = jnp.any(packed.length_bn[:, document_n] > 0)
        return total_btd + jax.lax.cond(some, transform, lambda _: jnp.zeros_like(wide), document_n), None

    y_btd, _ = jax.lax.scan(add, jnp.zeros_like(wide), jnp.arange(count))
    y_btd = jnp.where(packed.lost_bt[..., None], jnp.nan, y_btd)
    return jnp.take_along_axis(y_btd, place_bt[..., None], axis=1).astype(x_btd.dtype)
