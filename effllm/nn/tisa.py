"""Translation-invariant self-attention."""

from flax import linen as nn

from effllm import ops
from effllm.nn.init import Fill, Normal
from effllm.nn.linear import parameter
from effllm.nn.position import Position


class TISA(Position):
    """b = Σ_s a_s·exp(−|β_s|·(j − i − c_s)²), a mixture of `kernels` bumps for each head (Wennberg & Henter 2021, arXiv 2106.01950).

    3·kernels·heads numbers a layer. Far from every centre the bias is 0: far tokens are neither favoured nor hidden. Raises ValueError without kernels.
    """

    kernels: int = 5

    @nn.compact
    def bias(self, heads, head_dim):
        if self.kernels < 1:
            raise ValueError(f"TISA: kernels={self.kernels} must be at least 1")
        inits = {"amplitude": Normal(0.1), "sharpness": Fill(0.1), "centre": Normal(5.0)}
        return ops.Bias(tuple(parameter(self, name, init, (self.kernels, heads), (None, None)) for name, init in inits.items()), ops.tisa_bias)
