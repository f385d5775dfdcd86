"""Laws of whole models: parameters by value, layouts, generation."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta

from effllm import nn
from effllm.config import from_json, to_json
from effllm.infer import Sampler, generate, pad_prompts
from effllm.shard import MeshShape, shardings
from tests.tiny import batch, close, init, mixers, model
from tests.tiny import label as name_of


# Variants change what a mixer computes, not how a model holds it: they are under the laws of mixers.
DECODERS = [m for m in mixers() if m.causal and m == type(m)()]


def paths(decoder):
    params = meta.unbox(jax.eval_shape(lambda: decoder.init(jax.random.key(0), jnp.zeros((1, 4), jnp.int32)))["params"])
    return {jax.tree_util.keystr(p): a.shape for p, a in jax.tree_util.tree_leaves_with_path(params)}


@pytest.mark.parametrize("mixer", DECODERS, ids=name_of)
def test_one_object_used_twice_shares_nothing(mixer):
    repeated, other = nn.Block(mixer, nn.SwiGLU(hidden=16)), nn.Block(nn.Attention(heads=2))
    shared = model(blocks=(other, repeated, repeated), depth=6)
    separate = model(blocks=(other, nn.Block(mixer.clone(parent=None), nn.SwiGLU(hidden=16)), nn.Block(mixer.clone(parent=None), nn.SwiGLU(hidden=16))), depth=6)
    found = paths(shared)
    assert found == paths(separate) == paths(from_json(to_json(shared)))
    assert len([p for p in found if "blocks_2" in p]) == len([p for p in found if "blocks_1" in p]) > 0


LAYOUTS = [(8, 1, 1), (1, 8, 1), (2, 4, 1), (1, 1, 4), (4, 1, 2), (1, 2, 4), (2, 2, 2)]


@functools.cache
def subject(tied, remat):
    """A decoder with fewer key/value heads than a tensor axis, its loss-and-gradient function, and what one device makes of it."""
    decoder = model(tied=tied, remat=remat, depth=2, blocks=(nn.Block(nn.Attention(heads=4, kv_heads=1)),))
    data = batch(8, 16, 64)
    params = init(decoder, data["tokens"])

    def step(p, data):
        return jax.value_and_grad(lambda p: nn.NextToken(z_loss=1e-3, chunk=8)(decoder, p, data, None)[0])(p)

    boxed = jax.eval_shape(lambda: decoder.init(jax.random.key(0), data["tokens"])["params"])
    return step, boxed, params, data, jax.jit(step)(params, data)


@pytest.mark.parametrize("shape,tied,remat", [(s, s == (1, 2, 4), "full" if s == (2, 2, 2) else None) for s in LAYOUTS], ids=str)
def test_every_mesh_gives_the_same_loss_and_gradient(shape, tied, remat, capfd):
    step, boxed, params, data, alone = subject(tied, remat)
    mesh = MeshShape(*shape).build(jax.devices()[: int(np.prod(shape))])
    placed = shardings(boxed, mesh)
    with jax.set_mesh(mesh):
        rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(("data", "fsdp")))
        compiled = jax.jit(step, in_shardings=(placed, rows), out_shardings=(None, placed)).lower(params, data).compile()
        on_mesh = compiled(jax.device_put(params, placed), jax.device_put(data, rows))
    close(on_mesh, alone, 1e-5)
    assert "Involuntary full rematerialization" not in capfd.readouterr().err
    collectives = set(re.findall(r"(all-reduce|all-gather)\(", compiled.as_text()))
    assert "all-gather" in collectives if shape[1] > 1 else "all-reduce" in collectives


def test_fully_sharded_parameters_are_cut_by_the_mesh():
    decoder = model()
    boxed = jax.eval_shape(lambda: decoder.init(jax.random.key(0), jnp.zeros((8, 4), jnp.int32))["params"])
    placed = shardings(boxed, MeshShape(1, 4, 2).build())
    for leaf, sharding in zip(jax.tree.leaves(meta.unbox(boxed)), jax.tree.leaves(placed)):
        if leaf.ndim - (leaf.shape[0] == decoder.periods) == 2:  # kernels and the embedding; vectors stay whole
            assert int(np.prod(sharding.shard_shape(leaf.shape))) * 8 == leaf.size


@pytest.mark.parametrize("mixer", DECODERS, ids=name_of)
def test_cached_decoding_is_the_full_forward(mixer):
    decoder = model(blocks=(nn.Block(mixer, nn.SwiGLU(hidden=16)),), depth=2)
    prompts = [[5, 9, 3], [7], [1, 2, 3, 4, 5, 6, 7]]
    tokens, lengths = pad_prompts(prompts)
    params = init(decoder, tokens)
    new, counts = generate(decoder, params, tokens, lengths, jax.random.key(0), tokens=6, sampler=Sampler(temperature=0.0))
    assert (np.asarray(counts) == 6).all()
    forward = jax.jit(lambda t: decoder.apply({"params": params}, t)[0])
    for prompt, row in zip(prompts, np.asarray(new)):
        known = list(prompt)
        for token in row:
            logits = np.asarray(forward(np.array([known + [0] * (16 - len(known))])))[0, len(known) - 1]
            assert logits.argmax() == token
            known.append(int(token))
