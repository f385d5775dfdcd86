"""Schedules, the optimizer, the log and the mesh against their definitions."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.core import meta

from effllm.shard import MeshShape, shardings
from effllm.train import WSD, AdamW, Constant, Cosine, Lines, read
from tests.tiny import model


@pytest.mark.parametrize(
    "schedule,expected",
    [
        (Constant(), {0: 1, 99: 1}),
        (Constant(warmup=4), {0: 0.25, 3: 1, 50: 1}),
        (Cosine(warmup=10, final=0.1), {0: 0.1, 9: 1, 10: 1, 55: 0.55, 99: 0.1 + 0.9 * (1 + math.cos(math.pi * 89 / 90)) / 2}),
        (WSD(warmup=2, decay=0.2, final=0.5), {0: 0.5, 1: 1, 80: 1, 90: 0.75, 99: 0.525}),
    ],
    ids=lambda v: type(v).__name__,
)
def test_schedules(schedule, expected):
    for step, value in expected.items():
        assert float(schedule(jnp.int32(step), 100)) == pytest.approx(value, rel=1e-5)


def test_adamw_is_optax_adamw_after_clipping_and_decays_kernels_only():
    params = {"layer": {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)}, "norm": {"scale": jnp.ones(2)}, "embed": {"embedding": jnp.ones((4, 2))}}
    grads = jax.tree.map(lambda p: jnp.arange(p.size, dtype=jnp.float32).reshape(p.shape), params)
    ours = AdamW(learning_rate=0.1, schedule=Constant(), weight_decay=0.3, clip=0.5)
    norm = math.sqrt(sum(float(jnp.sum(g**2)) for g in jax.tree.leaves(grads)))
    mask = {"layer": {"kernel": True, "bias": False}, "norm": {"scale": False}, "embed": {"embedding": True}}
    theirs = optax.adamw(0.1, 0.9, 0.95, 1e-8, weight_decay=0.3, mask=mask)
    updates, _ = ours.tx(10).update(grads, ours.tx(10).init(params), params)
    expected, _ = theirs.update(jax.tree.map(lambda g: g * 0.5 / norm, grads), theirs.init(params), params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), updates, expected)


@pytest.mark.parametrize("build,fields", [
    (AdamW, {"clip": -1.0}), (AdamW, {"clip": 0.0}), (AdamW, {"b1": 1.0}), (AdamW, {"b2": 1.0}), (AdamW, {"b2": -0.5}), (AdamW, {"eps": 0.0}),
    (AdamW, {"weight_decay": -0.1}), (AdamW, {"learning_rate": math.nan}), (Constant, {"warmup": -1}), (Cosine, {"final": 3.0}), (Cosine, {"final": math.nan}),
    (WSD, {"decay": 1.5}), (WSD, {"decay": -1.0}),
])  # fmt: skip
def test_what_would_climb_stand_still_or_be_nan_is_refused(build, fields):
    ((name, value),) = fields.items()
    with pytest.raises(ValueError, match=f"{name}={value}"):
        build(**fields)


def test_rates_and_floors_can_be_traced():
    def moved(rate, final):
        tx = AdamW(learning_rate=rate, schedule=Cosine(warmup=0, final=final), weight_decay=0.0).tx(4)
        ones = {"kernel": jnp.ones(2)}
        return tx.update(ones, tx.init(ones), ones)[0]["kernel"]

    rates, floors = jnp.array([0.1, 0.3]), jnp.array([0.0, 0.5])
    together = jax.vmap(moved)(rates, floors)
    for row, rate, final in zip(together, rates.tolist(), floors.tolist()):
        np.testing.assert_allclose(row, moved(rate, final), rtol=1e-6)


def test_a_resumed_log_is_cut_at_the_restored_step(tmp_path):
    file = tmp_path / "metrics.jsonl"
    lines = Lines(file)
    for step in (1, 2, 3):
        lines.append({"step": step, "loss": math.nan if step == 2 else 1.0})
    lines.close()
    assert [r["loss"] for r in read(file)] == [1.0, None, 1.0]  # JSON has no NaN
    with open(file, "a") as f:
        f.write('{"step": 4, "lo')
    assert [r["step"] for r in read(file)] == [1, 2, 3]
    lines.cut(2)
    lines.append({"step": 3, "loss": 2.0})
    lines.close()
    assert [json.loads(x)["step"] for x in file.read_text().splitlines()] == [1, 2, 3]
    assert read(file)[-1]["loss"] == 2.0


def test_the_mesh_takes_what_it_is_told_and_names_what_it_cannot():
    assert dict(MeshShape(fsdp=2, tensor=2).build().shape) == {"data": 2, "fsdp": 2, "tensor": 2}
    assert dict(MeshShape(1).build().shape) == {"data": 1, "fsdp": 1, "tensor": 1}
    with pytest.raises(ValueError, match="needs 24 devices, here are 8; .*device_count=24"):
        MeshShape(3, 4, 2).build()
    for shape in (MeshShape(0), MeshShape(fsdp=0), MeshShape(tensor=-2)):
        with pytest.raises(ValueError, match="at least 1"):
            shape.build()
    with pytest.raises(ValueError, match="fsdp=3 × tensor=1 does not divide the 8 devices here, so 2 would idle; .*mesh.data=2"):
        MeshShape(fsdp=3).build()
    assert MeshShape(2, fsdp=3).build().size == 6


def test_the_state_of_a_masked_optimizer_is_placed():
    """One half of the parameters under Adam, the other under momentum: what optax masks away has no array to place."""
    decoder = model(depth=2)

    def kernels(params):
        return jax.tree_util.tree_map_with_path(lambda path, _: "kernel" if "kernel" in jax.tree_util.keystr(path) else "rest", params)

    tx = optax.multi_transform({"kernel": optax.sgd(0.1, 0.9), "rest": optax.adam(0.1)}, kernels)
    boxed = jax.eval_shape(lambda: tx.init(decoder.init(jax.random.key(0), jnp.zeros((8, 4), jnp.int32))["params"]))
    placed = shardings(boxed, MeshShape(1, 4, 2).build())
    assert jax.tree.structure(placed) == jax.tree.structure(meta.unbox(boxed))
    head = placed.inner_states["kernel"].inner_state[0].trace["head"]["kernel"]
    assert head.spec == jax.sharding.PartitionSpec(("fsdp",), ("tensor",))
