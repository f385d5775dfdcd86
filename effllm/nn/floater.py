"""Positions as a flow."""

import jax.numpy as jnp
from flax import linen as nn

from effllm.nn.init import Fill
from effllm.nn.input_position import InputPosition
from effllm.nn.linear import Linear, parameter


class FlowStep(nn.Module):
    """From p(t) to p(t + step) by the classical Runge–Kutta method, dp/dt = W2 tanh(W1 [p, t] + b1) + b2."""

    hidden: int
    step: float

    @nn.compact
    def __call__(self, p_d, t):
        up, down = Linear(self.hidden, bias=True, name="up"), Linear(p_d.shape[-1], bias=True, name="down")

        def slope(p_d, t):
            return down(jnp.tanh(up(jnp.concatenate([p_d, t[None]]))))

        half = self.step / 2
        s1_d = slope(p_d, t)
        s2_d = slope(p_d + half * s1_d, t + half)
        s3_d = slope(p_d + half * s2_d, t + half)
        s4_d = slope(p_d + self.step * s3_d, t + self.step)
        p_d = p_d + self.step / 6 * (s1_d + 2 * s2_d + 2 * s3_d + s4_d)
        return p_d, p_d


class FLOATER(InputPosition):
    """x + p(position·step), p a learned flow from a learned p(0) (Liu et al. 2020, arXiv 2003.09229).

    Its parameters do not grow with `length`, the positions that are integrated: a model trained on short texts reads longer ones with a
    larger `length`. The paper adds a flow in every block too; here it stands before the first. Cost length·D·hidden, one position after
    another, float32. Raises ValueError for fields that are not positive. A position beyond `length` gives NaN.
    """

    length: int = 512
    hidden: int = 64
    step: float = 0.1

    @property
    def limit(self):
        return self.length

    @nn.compact
    def __call__(self, x_btd, *, tokens_bt, positions_bt, segment_ids):
        if min(self.length, self.hidden, self.step) <= 0:
            raise ValueError(f"FLOATER: length={self.length}, hidden={self.hidden} and step={self.step} must be positive")
        start_d = parameter(self, "start", Fill(0.0), x_btd.shape[-1:], (None,))
        flow = nn.scan(FlowStep, variable_broadcast="params", split_rngs={"params": False})(self.hidden, self.step, name="flow")
        _, later_pd = flow(start_d, self.step * jnp.arange(self.length - 1, dtype=jnp.float32))
        table_pd = jnp.concatenate([start_d[None], later_pd])
        return x_btd + jnp.take(table_pd, positions_bt, axis=0).astype(x_btd.dtype)
