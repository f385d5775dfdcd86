"""Continuous augmented positional embeddings."""

import math

import jax
import jax.numpy as jnp

from effllm.nn.input_position import Sinusoidal
from effllm.nn.resample import numbered


class CAPE(Sinusoidal):
    """Sinusoids of positions that training moves: (p + Δ + ε_p)·λ (Likhomanenko et al. 2021, arXiv 2106.03143).

    Each document draws one shift Δ of ± `global_shift` and one scale λ with ln λ of ± ln `scaling`, each token a shift ε of ± `local_shift`
    (below ½ the order stays), uniformly, where the caller gives a "dropout" key; without one these are sinusoids of p. The paper also
    centres positions on the text's mean, which a decoder does not know beforehand: left out. Raises ValueError for a negative shift and a scaling below 1.
    """

    global_shift: float = 5.0
    local_shift: float = 0.5
    scaling: float = 1.03

    def __call__(self, x_btd, *, tokens_bt, positions_bt, segment_ids):
        if min(self.global_shift, self.local_shift) < 0 or self.scaling < 1:
            raise ValueError(
                f"CAPE: global_shift={self.global_shift} and local_shift={self.local_shift} must not be negative, scaling={self.scaling} at least 1"
            )
        if self.has_rng("dropout"):
            most = self.global_shift, self.local_shift, math.log(self.scaling)
            keys = jax.random.split(self.make_rng("dropout"), 3)
            whole_bt, local_bt, log_bt = (m * jax.random.uniform(key, positions_bt.shape, minval=-1.0) for m, key in zip(most, keys))
            number_bt = numbered(positions_bt, segment_ids).number_bt
            whole_bt, log_bt = (jnp.take_along_axis(a_bt, number_bt, axis=1) for a_bt in (whole_bt, log_bt))
            positions_bt = (positions_bt + whole_bt + local_bt) * jnp.exp(log_bt)
        return super().__call__(x_btd, tokens_bt=tokens_bt, positions_bt=positions_bt, segment_ids=segment_ids)
