"""Layers against their definitions, and what they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from jax.sharding import PartitionSpec

from effllm import nn, ops
from effllm.shard import MeshShape, shard, shardings
from effllm.weights import Weight, materialise, nbytes, spec
from tests.tiny import batch, close, init, model, random


def test_rotary_is_a_rotation_of_complex_pairs():
    x = jax.random.normal(jax.random.key(0), (1, 5, 2, 8))
    positions, base = jnp.array([[0, 1, 7, 100, 5000]]), 100.0
    q, _ = nn.RoPE(base, fraction=0.5).rotate(x, x, positions)
    z = np.asarray(x[..., :2]) + 1j * np.asarray(x[..., 2:4])
    angle = np.asarray(positions)[..., None, None] * base ** (-np.arange(2) / 2)
    turned = z * np.exp(1j * angle)
    np.testing.assert_allclose(q, np.concatenate([turned.real, turned.imag, x[..., 4:]], -1), atol=2e-3)
    np.testing.assert_allclose(q[:, :4], np.concatenate([turned.real, turned.imag, x[..., 4:]], -1)[:, :4], atol=1e-5)


def test_norms():
    x, scale, bias = jax.random.normal(jax.random.key(0), (3, 7)) * 3 + 1, jnp.arange(7.0), jnp.ones(7)
    np.testing.assert_allclose(ops.rms_norm(x, scale, 0.1), x / np.sqrt((np.asarray(x) ** 2).mean(-1, keepdims=True) + 0.1) * scale, rtol=1e-5)
    centred = np.asarray(x) - np.asarray(x).mean(-1, keepdims=True)
    np.testing.assert_allclose(ops.layer_norm(x, scale, bias, 0.1), centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 0.1) * scale + bias, rtol=1e-4, atol=1e-5)
    assert ops.rms_norm(x.astype(jnp.bfloat16), scale).dtype == jnp.bfloat16


def test_cross_entropy_against_its_definition():
    x, w, b = (np.random.default_rng(i).normal(size=s).astype(np.float32) for i, s in enumerate([(9, 4), (4, 11), (11,)]))
    labels, weights = np.arange(9) % 11, np.arange(9) % 2 + 0.5
    z = 3 * np.tanh((x @ w + b) / 3)
    lse = np.log(np.exp(z).sum(-1))
    nll = lse - z[np.arange(9), labels]
    total, plain = ops.linear_cross_entropy(x, w, labels, weights, bias_v=b, soft_cap=3.0, z_loss=0.2, chunk=4)
    np.testing.assert_allclose([total, plain], [(weights * (nll + 0.2 * lse**2)).sum(), (weights * nll).sum()], rtol=1e-5)


def test_the_loss_holds_no_logits():
    decoder = model(vocab_size=4096, depth=2)
    data = batch(4, 128, 4096)
    params = init(decoder, data["tokens"])

    def temporary(chunk):
        def loss(p):
            return jax.value_and_grad(lambda p: nn.NextToken(chunk=chunk)(decoder, p, data, None)[0])(p)

        return jax.jit(loss).lower(params).compile().memory_analysis().temp_size_in_bytes

    assert temporary(512) - temporary(32) > 0.8 * (512 - 32) * 4096 * 4


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 2, 2)], ids=str)
def test_the_loss_takes_its_kernel_on_any_mesh(shape):
    x, w, b = (random(size, jnp.float32, i) for i, size in enumerate([(4, 6, 24), (24, 50), (50,)]))
    rows = jnp.arange(24).reshape(4, 6) % 50, jnp.arange(24.0).reshape(4, 6) % 3

    def gradient(implementation):
        loss = nn.NextToken(z_loss=0.1, implementation=implementation)
        return jax.value_and_grad(lambda *arrays: loss.sums(*arrays, *rows, 3.0), argnums=(0, 1, 2), has_aux=True)

    alone = jax.jit(gradient(None))(x, w, b)
    with jax.set_mesh(MeshShape(*shape).build()):
        close(jax.jit(gradient("interpret_gpu"))(x, w, b), alone, 2e-5)


@pytest.mark.parametrize("objective", (nn.NextToken, nn.MaskedLM))
def test_an_implementation_that_the_loss_lacks_is_named(objective):
    subject = model() if objective is nn.NextToken else nn.EncoderLM(vocab_size=64, width=32, depth=1, blocks=(nn.Block(nn.Attention(heads=2, bidirectional=True)),))
    data = batch(2, 8, 64)
    params = init(subject, data["tokens"])
    with pytest.raises(ValueError, match="no implementation 'cuda'.*'pallas'"):
        objective(implementation="cuda")(subject, params, data, None)
    with pytest.raises(NotImplementedError, match="platform cpu"):  # not another implementation in its place
        jax.jit(lambda p: objective(implementation="pallas")(subject, p, data, None)[0])(params)


def test_the_logit_cap_bounds_logits_and_reaches_the_loss():
    decoder = model(soft_cap=0.5, depth=2)
    data = batch(2, 8, 64)
    params = init(decoder, data["tokens"])
    logits, _ = decoder.apply({"params": params}, data["tokens"], positions=data["positions"], segment_ids=data["segment_ids"])
    assert jnp.abs(logits).max() <= 0.5
    nll = -jnp.take_along_axis(jax.nn.log_softmax(logits), data["targets"][..., None], -1)[..., 0]
    loss, _ = nn.NextToken()(decoder, params, data, None)
    np.testing.assert_allclose(loss, (nll * data["weights"]).sum() / data["weights"].sum(), rtol=1e-5)


def test_dropout_acts_only_with_a_key():
    decoder = model(blocks=(nn.Block(dropout=0.5),), depth=2)
    data = batch(2, 8, 64)
    params = init(decoder, data["tokens"])
    losses = [float(nn.NextToken()(decoder, params, data, k)[0]) for k in (None, None, jax.random.key(0), jax.random.key(0), jax.random.key(1))]
    assert losses[0] == losses[1] != losses[2] == losses[3] != losses[4]


def test_remat_and_unrolling_change_nothing():
    data = batch(2, 12, 64)
    params = init(model(), data["tokens"])

    def gradient(**changes):
        return jax.jit(jax.grad(lambda p: nn.NextToken()(model(**changes), p, data, None)[0]))(params)

    plain = gradient()
    for changes in ({"remat": "full"}, {"remat": "dots"}, {"unroll": 2}):
        close(gradient(**changes), plain, 1e-5)


def test_bfloat16_computes_over_float32_parameters():
    decoder = model(dtype="bfloat16")
    data = batch(2, 12, 64)
    params = init(decoder, data["tokens"])
    assert all(p.dtype == jnp.float32 for p in jax.tree.leaves(params))
    x, _ = decoder.apply({"params": params}, data["tokens"], method="features")
    logits, _ = decoder.apply({"params": params}, data["tokens"])
    exact, _ = model().apply({"params": params}, data["tokens"])
    assert x.dtype == jnp.bfloat16 and logits.dtype == jnp.float32
    close(logits, exact, 5e-2)


@pytest.mark.parametrize("tied", [True, False])
def test_logits_are_not_rounded_to_bfloat16(tied):
    decoder = model(dtype="bfloat16", tied=tied, depth=1, blocks=(nn.Block(),))
    data = batch(2, 12, 64)
    params = init(decoder, data["tokens"])
    where = {name: data[name] for name in ("positions", "segment_ids")}
    x, _ = decoder.apply({"params": params}, data["tokens"], **where, method="features")
    w_dv, _ = decoder.head_weights(params)
    exact = x.astype(jnp.float32) @ w_dv.astype(jnp.bfloat16).astype(jnp.float32)
    close(decoder.apply({"params": params}, data["tokens"], **where)[0], exact, 1e-5)
    nll_bt = -jnp.take_along_axis(jax.nn.log_softmax(exact), data["targets"][..., None], axis=-1)[..., 0]
    close(nn.RowLoss()(decoder, params, data), (nll_bt * data["weights"]).sum(1) / data["weights"].sum(1), 1e-5)


class Scaled(struct.PyTreeNode, Weight):
    """A kernel as int8 times a scale a layer: the least that a typed leaf can be."""

    q: jax.Array
    scale: jax.Array

    @property
    def shape(self):
        return self.q.shape

    def matmul(self, x_nd):
        return x_nd @ self.q.astype(x_nd.dtype) * self.scale[..., None]

    def materialise(self):
        return self.q * self.scale[..., None, None]

    def spec(self, kernel_spec):
        return Scaled(kernel_spec, PartitionSpec(*kernel_spec[:-2]))


def test_typed_leaves_pass_through_scan_and_remat():
    decoder = model(remat="full")
    data = batch(2, 12, 64)
    params = init(decoder, data["tokens"])

    def quantise(path, kernel):
        if getattr(path[-1], "key", None) != "kernel":
            return kernel
        scale = jnp.abs(kernel).max((-2, -1)) / 127
        return Scaled(jnp.round(kernel / scale[..., None, None]).astype(jnp.int8), scale)

    typed = jax.tree_util.tree_map_with_path(quantise, params)
    dense = jax.tree.map(materialise, typed, is_leaf=lambda x: isinstance(x, Weight))
    loss = jax.jit(lambda p: nn.NextToken()(decoder, p, data, None)[0])
    np.testing.assert_allclose(loss(typed), loss(dense), rtol=1e-5)
    narrow = model(dtype="bfloat16")
    logits = [narrow.apply({"params": params | {"head": {"kernel": head["head"]["kernel"]}}}, data["tokens"])[0] for head in (typed, dense)]
    assert logits[0].dtype == jnp.float32
    close(*logits, 2e-2)
    assert nbytes(typed) < nbytes(params) / 2
    assert spec(typed["head"]["kernel"], PartitionSpec("fsdp", "tensor")).q == PartitionSpec("fsdp", "tensor")


def test_a_parameter_of_the_wrong_shape_is_named():
    decoder = model()
    params = init(decoder, jnp.zeros((1, 4), jnp.int32))
    params["head"]["kernel"] = params["head"]["kernel"][:, :5]
    with pytest.raises(ValueError, match=r"head\.kernel has shape \(32, 5\), the model needs \(32, 64\)"):
        decoder.apply({"params": params}, jnp.zeros((1, 4), jnp.int32))


class Bidirectional(nn.Mixer):
    causal = False


@pytest.mark.parametrize(
    "build,words",
    [
        (lambda: model(depth=3), "depth=3 is not a multiple of the 2 blocks"),
        (lambda: model(tied=True, head_bias=True), "head_bias=True needs tied=False"),
        (lambda: model(blocks=(nn.Block(Bidirectional()),)), "Bidirectional is not causal.*EncoderLM"),
        (lambda: model(blocks=()), "0 blocks"),
        (lambda: model(soft_cap=0.0), "soft_cap=0.0 must be positive"),
    ],
)
def test_models_that_cannot_be_built(build, words):
    with pytest.raises(ValueError, match=words):
        build().validate()


def test_misuse_is_named():
    with pytest.raises(ValueError, match="no sharding rule for axis name 'lenght'"):
        shard(jnp.ones((2, 2)), "batch", "lenght")
    with pytest.raises(ValueError, match="2 names"):
        shard(jnp.ones((2, 2, 2)), "batch", "length")
    with pytest.raises(ValueError, match="keeps no state"):
        Bidirectional().init_state(1, 2, 3, jnp.float32)
    with pytest.raises(ValueError, match=r"tokens must be \(batch, time\)"):
        model().init(jax.random.key(0), jnp.zeros((3,), jnp.int32))
    with pytest.raises(ValueError, match=r"one token a row at least, got shape \(2, 0\)"):
        model().init(jax.random.key(0), jnp.zeros((2, 0), jnp.int32))
    with pytest.raises(ValueError, match="DecoderLM: the state holds 3 rows, the tokens have 2"):
        jax.eval_shape(lambda: model().init(jax.random.key(0), jnp.zeros((2, 1), jnp.int32), state=model().init_state(3, 4)))
    with pytest.raises(ValueError, match="segments of both"):
        ops.attention(*(jnp.ones((1, 2, 1, 4)),) * 3, q_segments_bt=jnp.ones((1, 2), jnp.int32))
    with pytest.raises(ValueError, match="needs q_order_bt"):
        ops.attention(jnp.ones((1, 2, 1, 4)), jnp.ones((1, 3, 1, 4)), jnp.ones((1, 3, 1, 4)))
    boxed = jax.eval_shape(lambda: model(vocab_size=63).init(jax.random.key(0), jnp.zeros((1, 4), jnp.int32))["params"])
    with pytest.raises(ValueError, match="embed.embedding has vocab=63, not divisible by mesh.tensor=2"):
        shardings(boxed, MeshShape(1, 1, 2).build())


@pytest.mark.parametrize(
    "other,words",
    [
        ({"depth": 8}, r"repetitions\) = \(2, 4\), this model of \(2, 2\)"),
        ({"blocks": (nn.Block(),), "depth": 2}, r"repetitions\) = \(1, 2\), this model of \(2, 2\)"),
        ({"blocks": (nn.Block(nn.RGLRU()), nn.Block())}, r"^Attention: the state is RecurrentState.*another model's state"),
    ],
)
def test_the_state_of_another_decoder_is_refused(other, words):
    decoder, tokens_bt = model(), jnp.ones((2, 3), jnp.int32)
    params = jax.eval_shape(decoder.init, jax.random.key(0), tokens_bt)
    state = model(**other).init_state(2, 8)
    with pytest.raises(ValueError, match=words):
        jax.eval_shape(lambda p: decoder.apply(p, tokens_bt, state=state), params)
    with pytest.raises(ValueError, match="the state is a tuple, not a DecoderState"):
        jax.eval_shape(lambda p: decoder.apply(p, tokens_bt, state=state.blocks), params)


def test_padding_takes_no_position_with_a_state_or_without():
    decoder = model(input_position=nn.Learned(length=6))
    tokens_bt, segments_bt = np.array([[3, 5, 7, 0, 0], [0, 3, 0, 5, 7]]), np.array([[1, 1, 1, 0, 0], [0, 1, 0, 1, 1]])
    params = init(decoder, tokens_bt)
    plain, _ = decoder.apply({"params": params}, tokens_bt, segment_ids=segments_bt)
    stateful, _ = decoder.apply({"params": params}, tokens_bt, segment_ids=segments_bt, state=decoder.init_state(2, 5))
    for logits in map(np.asarray, (plain, stateful)):
        close(logits[1][[1, 3, 4]], plain[0][:3], 1e-5)
