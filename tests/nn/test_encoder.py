"""The encoder and masked language modelling."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta

from effllm import nn
from effllm.config import Experiment, from_json, override, to_json, validate
from effllm.data import Data
from effllm.evaluate import Cost, state_bytes
from tests.tiny import batch, close, init, model


def encoder(**changes) -> nn.EncoderLM:
    blocks = (nn.Block(nn.FNet(), nn.MLP(hidden=48), nn.LayerNorm(), dropout=0.1),)
    return nn.EncoderLM(**({"vocab_size": 64, "width": 32, "depth": 2, "blocks": blocks} | changes))


BERT = {"tied": True, "head_bias": True, "input_position": nn.Learned(20), "types": 2, "embedding_norm": nn.LayerNorm(), "transform": nn.HeadTransform(), "norm": None}


def test_what_stands_before_the_blocks_and_after_them():
    whole, data = encoder(**BERT, project_embedding=True, blocks=(nn.Block(nn.FNet(), None),)), batch(2, 12, 64)
    params = init(whole, data["tokens"])
    types = data["tokens"] % 2
    x, _ = whole.apply({"params": params}, data["tokens"], positions=data["positions"], segment_ids=data["segment_ids"], types=types, method="features")

    def norm(x, p):
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * p["scale"] + p["bias"]

    p = jax.tree.map(np.asarray, params)
    tables = [p[n]["embedding"] for n in ("embed", "embed_position", "embed_type")]
    y = norm(sum(t[i] for t, i in zip(tables, (data["tokens"], data["positions"], types))), p["embed_norm"])
    y = y @ p["embed_projection"]["kernel"] + p["embed_projection"]["bias"]
    layer = whole.blocks[0]
    for i in range(2):
        own = jax.tree.map(lambda a: a[i], params["layers"]["blocks_0"])
        y, _ = layer.apply({"params": own}, y, positions=data["positions"], segment_ids=data["segment_ids"])
    y = np.asarray(nn.gelu(y @ p["head_transform"]["dense"]["kernel"] + p["head_transform"]["dense"]["bias"]))
    close(x, norm(y, p["head_transform"]["dense_norm"]), 1e-4)
    logits, _ = whole.apply({"params": params}, data["tokens"], positions=data["positions"], segment_ids=data["segment_ids"], types=types)
    close(logits, np.asarray(x) @ p["embed"]["embedding"].T + p["head"]["bias"], 1e-4)
    assert {k for k in init(encoder(), data["tokens"])} == {"embed", "layers", "final_norm", "head"}


def test_a_mask_is_seen_from_both_sides_and_documents_stay_apart():
    whole, data = encoder(), batch(2, 12, 64)
    params = init(whole, data["tokens"])
    segments = jnp.array([[1] * 5 + [2] * 5 + [0] * 2] * 2)

    def logits(tokens):
        return np.asarray(whole.apply({"params": params}, tokens, segment_ids=segments)[0])

    before, after = logits(data["tokens"]), logits(np.where(np.arange(12) == 4, 1 + data["tokens"] % 60, data["tokens"]))
    moved = np.abs(before - after).max((0, 2)) > 1e-6
    np.testing.assert_array_equal(moved, [True] * 5 + [False] * 7)


def masked(objective, rows=64, length=200, key=0):
    tokens = jnp.asarray(np.random.default_rng(1).integers(0, 63, (rows, length)), jnp.int32)
    segments = jnp.asarray(np.repeat([[1, 2, 0]], [90, 80, 30], axis=1) * np.ones((rows, 1), np.int32), jnp.int32)
    shown, chosen = objective.mask(tokens, segments, None if key is None else jax.random.key(key), 64)
    return np.asarray(tokens), np.asarray(segments), np.asarray(shown), np.asarray(chosen)


@pytest.mark.parametrize("span", [None, 1.5, 4.0])
def test_shares_and_runs_of_masks(span):
    tokens, segments, shown, chosen = masked(nn.MaskedLM(rate=0.2, keep=0.1, random=0.3, span=span, special=(7,)))
    eligible = (segments > 0) & (tokens != 7)
    assert not chosen[~eligible].any() and (shown[~chosen] == tokens[~chosen]).all()
    assert chosen[eligible].mean() == pytest.approx(0.2, abs=0.015)
    for document in (1, 2):  # the first token of a document is as likely as any
        first = chosen[:, 0 if document == 1 else 90][tokens[:, 0 if document == 1 else 90] != 7]
        assert first.mean() == pytest.approx(0.2, abs=0.15)
    assert (shown[chosen] == tokens[chosen]).mean() == pytest.approx(0.1, abs=0.03)
    assert (shown[chosen] == 63).mean() == pytest.approx(0.6, abs=0.05)
    drawn = shown[chosen & (shown != tokens) & (shown != 63)]
    assert len(set(drawn.tolist())) == 63 and drawn.min() == 0
    starts = chosen[:, 1:90] & ~chosen[:, :89]
    assert chosen[:, 1:90].sum() / starts.sum() == pytest.approx(span or 1.25, rel=0.2)


def test_the_key_decides_and_without_one_the_row_does():
    objective = nn.MaskedLM()
    first, again, other = (masked(objective, key=k)[3] for k in (0, 0, 1))
    assert (first == again).all() and (first != other).any()
    whole = masked(objective, key=None)
    part = np.asarray(objective.mask(jnp.asarray(whole[0][5:7]), jnp.asarray(whole[1][5:7]), None, 64)[1])
    np.testing.assert_array_equal(part, whole[3][5:7])
    assert (whole[3][0] != whole[3][1]).any()


def test_the_loss_is_that_of_the_chosen_tokens():
    whole, data, objective = encoder(), batch(4, 24, 63), nn.MaskedLM(rate=0.4, chunk=16)
    params = init(whole, data["tokens"])
    shown, chosen = objective.mask(data["tokens"], data["segment_ids"], None, 64)
    logits, _ = whole.apply({"params": params}, shown, positions=data["positions"], segment_ids=data["segment_ids"])
    nll = -np.take_along_axis(np.asarray(jax.nn.log_softmax(logits)), data["tokens"][..., None], -1)[..., 0]
    loss, metrics = objective(whole, params, data, None)
    np.testing.assert_allclose(loss, nll[chosen].mean(), rtol=1e-5)
    assert metrics["tokens"] == chosen.sum() and metrics["loss"] == loss
    losses = [float(objective(whole, params, data, jax.random.key(k))[0]) for k in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]
    nothing = data | {"segment_ids": np.zeros_like(data["segment_ids"])}
    loss, metrics = objective(whole, params, nothing, jax.random.key(0))
    assert loss == 0 and metrics["tokens"] == 0


def test_an_encoder_in_a_config():
    experiment = Experiment(encoder(**BERT), data=Data(sequence_length=16), objective=nn.MaskedLM(span=3.0))
    assert validate(from_json(to_json(experiment))) == experiment
    assert override(experiment, "objective=MaskedLM(rate=0.3)").objective == nn.MaskedLM(rate=0.3)
    params = meta.unbox(jax.eval_shape(lambda: experiment.model.init(jax.random.key(0), jnp.zeros((1, 8), jnp.int32)))["params"])
    assert state_bytes(experiment.model, 8) is None
    cost = Cost.of(experiment.model, params, 8)
    assert cost.forward_flops == 2 * (2 * 2 * 32 * 48 + 32 * 32 + 64 * 32) + experiment.model.flops(8)  # positions and types multiply nothing


@pytest.mark.parametrize(
    "build,words",
    [
        (lambda: validate(Experiment(encoder())), "objective=NextToken: EncoderLM sees the token .*MaskedLM"),
        (lambda: validate(Experiment(model(), objective=nn.MaskedLM())), "objective=MaskedLM: DecoderLM sees only what comes before a mask; use EncoderLM"),
        (lambda: validate(Experiment(encoder(), objective=nn.MaskedLM(mask_token=64))), "mask_token=64 lies outside the vocabulary of 64"),
        (lambda: nn.MaskedLM(rate=1.5), "rate=1.5 must lie between 0 and 1"),
        (lambda: nn.MaskedLM(keep=0.6, random=0.5), "keep=0.6 and random=0.5"),
        (lambda: nn.MaskedLM(span=1.0), "span=1.0 must be at least"),
        (lambda: encoder(types=-1).validate(), "types=-1 must not be negative"),
        (lambda: encoder(depth=0).validate(), "EncoderLM: depth=0"),
        (lambda: encoder().init_state(1, 8), "EncoderLM .*cannot generate; use DecoderLM"),
        (lambda: encoder(input_position=nn.Learned(8)).init(jax.random.key(0), jnp.zeros((1, 9), jnp.int32)), "9 tokens are more than the 8 positions"),
        (lambda: encoder().init(jax.random.key(0), jnp.zeros((1, 9), jnp.int32), types=jnp.zeros((1, 9), jnp.int32)), "types=0"),
        (lambda: model(blocks=(nn.Block(nn.FNet()),)).validate(), "DecoderLM: FNet is not causal.*use it in EncoderLM"),
    ],
)
def test_what_does_not_fit_is_named(build, words):
    with pytest.raises(ValueError, match=words):
        build()


def test_layers_share_embeddings_of_distances_where_the_model_has_them():
    mixer = nn.DisentangledAttention(buckets=4, max_distance=None, implementation="reference")
    own, data = encoder(blocks=(nn.Block(mixer, None),), norm=None), batch(2, 12, 64)
    shared = own.clone(distances=nn.DistanceEmbedding(4))
    params = init(shared, data["tokens"])
    assert params["embed_distance"]["embedding"].shape == (8, 32) and "distances" not in params["layers"]["blocks_0"]["mixer"]
    repeated = jnp.stack([params["embed_distance"]["embedding"]] * 2)
    layers = {"blocks_0": params["layers"]["blocks_0"] | {"mixer": params["layers"]["blocks_0"]["mixer"] | {"distances": {"embedding": repeated}}}}
    separate = {name: params[name] for name in ("embed", "head")} | {"layers": layers}

    def gradient(model, params):
        return jax.jit(jax.value_and_grad(lambda p: jnp.sum(jnp.sin(model.apply({"params": p}, data["tokens"])[0]))))(params)

    (a, one), (b, each) = gradient(shared.clone(remat="full"), params), gradient(own, separate)
    close(a, b, 1e-5)
    close(one["embed_distance"]["embedding"], each["layers"]["blocks_0"]["mixer"]["distances"]["embedding"].sum(0), 1e-4)
    with pytest.raises(ValueError, match="buckets=4 need 8 embeddings, EncoderLM.distances has 6"):
        init(own.clone(distances=nn.DistanceEmbedding(3)), data["tokens"])
