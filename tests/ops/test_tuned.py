import jax
import jax.numpy as jnp
import pytest

from effllm import ops
from effllm.ops import tuned

ROWS = [{"shape": [1, 512, 4, 64], "chunk": 8}, {"shape": [16, 256, 4, 64], "chunk": 2}]

ORDER, ONE = [jnp.broadcast_to(jnp.arange(24), (2, 24))] * 2, [jnp.ones((2, 24), jnp.int32)] * 2


def test_the_nearest_measured_shape_decides(monkeypatch):
    monkeypatch.setattr(tuned, "TABLE", {jax.default_backend(): {"delta_rule": ROWS}})
    assert tuned.tuned_chunk("delta_rule", (1, 2048, 8, 128), 64) == 8
    assert tuned.tuned_chunk("delta_rule", (32, 256, 4, 64), 64) == 2
    assert tuned.tuned_chunk("linear_attention, a decay a head", (32, 256, 4, 64), 64) == 64


def test_another_platform_s_rows_do_not_count(monkeypatch):
    monkeypatch.setattr(tuned, "TABLE", {"another": {"delta_rule": ROWS}})
    assert tuned.tuned_chunk("delta_rule", (1, 512, 4, 64), 64) == 64


@pytest.mark.parametrize("name,decay,op", [
    ("delta_rule", (2, 24, 3), lambda x, decay, **o: ops.delta_rule(x, x, x, x[..., 0], decay, **o)),
    ("linear_attention, a decay a head", (2, 24, 3), lambda x, decay, **o: ops.linear_attention(x, x, x, decay, **o)),
    ("linear_attention, a decay a head", (3,), lambda x, decay, **o: ops.linear_attention(x, x, x, decay, **o)),
    ("linear_attention, a decay a channel", (2, 24, 3, 4), lambda x, decay, **o: ops.linear_attention(x, x, x, decay, **o)),
    ("entmax_attention", (2, 24), lambda x, place, **o: ops.entmax_attention(x, x, x, jnp.full(3, 1.5), *ORDER, *ONE, **o)),
    ("landmark_attention", (2, 24), lambda x, place, **o: ops.landmark_attention(x, x, x, x, ORDER[0], ONE[0], block=4, **o)),
    ("ssm", (3, 4), lambda x, decay, **o: ops.ssm(x[..., 0], decay, decay, decay, **o)[0]),
])  # fmt: skip
def test_an_op_without_a_chunk_takes_the_table_s(name, decay, op, monkeypatch):
    monkeypatch.setattr(tuned, "TABLE", {jax.default_backend(): {name: [{"shape": [2, 24, 3, 4], "chunk": 4}]}})
    x, decay = jnp.ones((2, 24, 3, 4)), -jnp.ones(decay)
    program = str(jax.make_jaxpr(lambda *a: op(*a))(x, decay))
    assert program == str(jax.make_jaxpr(lambda *a: op(*a, chunk=4))(x, decay)) != str(jax.make_jaxpr(lambda *a: op(*a, chunk=8))(x, decay))
