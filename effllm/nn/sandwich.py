"""Sinusoids between tokens as a bias."""

from effllm import ops
from effllm.nn.position import Position


class Sandwich(Position):
    """b = H/(8h) · Σ_f cos((i − j)·10000^(−2f/channels)), the product of two sinusoidal embeddings (Chi et al. 2022, arXiv 2212.10356).

    No parameters. Head h of 1 … H has its own ratio. It falls about as the logarithm of the distance. Raises ValueError for channels that do not pair.
    """

    channels: int = 128

    def bias(self, heads, head_dim):
        if self.channels < 2 or self.channels % 2:
            raise ValueError(f"Sandwich: channels={self.channels} must be an even number, sines and cosines come in pairs")
        return ops.Bias((), ops.SandwichBias(heads, self.channels))
