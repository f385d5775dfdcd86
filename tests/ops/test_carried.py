"""The carry of the delta rule where each device has rows of its own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from effllm import ops


@pytest.mark.parametrize("decay", [None, (2,), (4, 9, 2), (4, 9, 2, 3)], ids=str)
def test_gradients_inside_shard_map(decay):
    keys = jax.random.split(jax.random.key(0), 5)
    q, k, v = (jax.random.normal(key, (4, 9, 2, 3)) for key in keys[:3])
    beta = jax.nn.sigmoid(jax.random.normal(keys[3], (4, 9, 2)))
    log_decay = None if decay is None else -jnp.abs(jax.random.normal(keys[4], decay))

    def gradients(q, k, v, beta, state, log_decay):
        def loss(q, k, v, beta, state):
            return jnp.sum(jnp.sin(ops.delta_rule(q, k, v, beta, log_decay, state_bhkv=state, chunk=4)[0]))

        return jax.grad(loss, argnums=(0, 1, 2, 3, 4))(q, k, v, beta, state)

    rows = PartitionSpec("rows")
    arrays = (q, k, v, beta, jnp.ones((4, 2, 3, 3)), log_decay)
    specs = tuple(rows if a is not None and a.ndim > 1 else PartitionSpec() for a in arrays)
    mapped = jax.shard_map(gradients, mesh=Mesh(np.array(jax.devices()[:2]), "rows"), in_specs=specs, out_specs=(rows,) * 5)
    for found, wanted in zip(jax.jit(mapped)(*arrays), gradients(*arrays), strict=True):
        np.testing.assert_allclose(found, wanted, atol=2e-5)
