"""Diagonal state spaces, the first of the diagonal kind."""

from typing import ClassVar

from effllm.nn.s4d import S4D


class DSS(S4D):
    """W_o gelu(SSM(x) + D ⊙ x) with the diagonal state spaces of Gupta et al. 2022 (arXiv 2203.14343).

    normal_length=None is DSS-exp, taps w (exp(Δλ) − 1)/λ · exp(Δλj); a length L is DSS-softmax, taps w/λ · exp(Δλj) / Σ_{i<L} exp(Δλi), a sum over the
    L taps that the text may need at most. λ starts at the HiPPO spectrum; Re λ < 0.

    Training and decoding cost what S4D's do. Raises ValueError for states or a length below 1, a step that is not positive, and a length with another
    method than "zoh".
    """

    normal_length: int | None = None
    variants: ClassVar = ({"states": 4, "normal_length": 64},)

    def ssm(self):
        if self.normal_length is not None and self.normal_length < 1:
            raise ValueError(f"DSS: normal_length={self.normal_length} must be at least 1; None is DSS-exp, without it")
        if self.normal_length is not None and self.method != "zoh":
            raise ValueError(f"DSS: method={self.method!r} makes no powers of exp(Δλ), which normal_length={self.normal_length} sums; take 'zoh'")
        return super().ssm().clone(normal_length=self.normal_length)
