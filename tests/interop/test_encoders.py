"""Encoder families of transformers against transformers' outputs, of tiny random-weight models (tests/golden/encoders)."""

import json
from fnmatch import fnmatch
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from effllm import nn
from effllm.interop import load, save
from effllm.interop.families import TYPES
from tests.interop.test_hf import broken, written

GOLDEN = Path(__file__).parents[1] / "golden" / "encoders"
NAMES = sorted(f.stem for f in GOLDEN.glob("*.npz"))


@pytest.fixture(scope="module", params=NAMES)
def case(request, tmp_path_factory):
    golden = dict(np.load(GOLDEN / f"{request.param}.npz"))
    return *load(written(golden, tmp_path_factory.mktemp("hf") / "model")), golden


def with_global_tokens(model, mask_bt):
    assert (mask_bt == mask_bt[0]).all()
    positions = tuple(np.flatnonzero(mask_bt[0]).tolist())
    return model.clone(blocks=tuple(block.clone(mixer=block.mixer.clone(global_positions=positions)) for block in model.blocks))


def test_logits(case):
    model, params, golden = case
    if "global_attention_mask" in golden:  # transformers is told at the call, our model says it
        model = with_global_tokens(model, golden["global_attention_mask"])
    logits, _ = jax.jit(lambda p, t: model.apply({"params": p}, t))(params, golden["input_ids"])
    np.testing.assert_allclose(logits, golden["logits"], atol=1e-4)


def test_saved_again_every_tensor_is_the_same(case, tmp_path):
    model, params, golden = case
    save(model, params, tmp_path / "out", context=golden["input_ids"].shape[1])
    again = load_file(tmp_path / "out" / "model.safetensors")
    before, after = json.loads(str(golden["config"])), json.loads((tmp_path / "out" / "config.json").read_text())
    ignored = TYPES[before["model_type"]].IGNORED
    assert again.keys() == {n for k in golden if k.startswith("weight/") and not any(fnmatch(n := k.removeprefix("weight/"), i) for i in ignored)}
    assert all(again[k].tobytes() == golden[f"weight/{k}"].tobytes() for k in again)
    assert load(tmp_path / "out")[0] == (model if model.trained_length is None else model.clone(trained_length=golden["input_ids"].shape[1]))
    changed = {key: value for key, value in after.items() if key in before and before[key] != value and key != "max_position_embeddings"}
    # Full BigBird is the BERT that it computes.
    assert changed == ({"architectures": ["BertForMaskedLM"], "model_type": "bert"} if before["model_type"] == "big_bird" else {})


def test_a_loaded_model_goes_on_learning(tmp_path):
    golden = dict(np.load(GOLDEN / "bert.npz"))
    model, params = load(written(golden, tmp_path / "model"))
    tokens = jnp.asarray(golden["input_ids"])
    data = {"tokens": tokens, "segment_ids": jnp.ones_like(tokens), "positions": jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)}
    objective = nn.MaskedLM(mask_token=3)
    loss = jax.jit(jax.value_and_grad(lambda p: objective(model, p, data, None)[0]))
    before, grads = loss(params)
    after, _ = loss(jax.tree.map(lambda p, g: p - 0.05 * g, params, grads))
    assert after < before


def test_windows_of_each_layer_and_global_tokens_of_a_longformer_come_back(tmp_path):
    golden = dict(np.load(GOLDEN / "longformer_swa_global.npz"))
    config = json.loads(str(golden["config"])) | {"attention_window": [4, 10], "global_positions": [0, 9]}
    model, params = load(written(golden | {"config": json.dumps(config)}, tmp_path / "model"))
    assert [(block.mixer.window, block.mixer.global_positions) for block in model.blocks] == [(3, (0, 9)), (6, (0, 9))]
    save(model, params, tmp_path / "out", context=32)
    assert load(tmp_path / "out")[0] == model


@pytest.mark.parametrize(
    "name,change,words",
    [
        ("bert", {"config": {"position_embedding_type": "relative_key"}}, "position_embedding_type='relative_key'"),
        ("bert", {"config": {"model_type": "big_bird", "attention_type": "block_sparse"}}, "attention_type='block_sparse'"),
        ("bert", {"config": {"is_decoder": True}}, "is_decoder=True"),
        ("bert", {"tensors": {"cls.predictions.bias": lambda a: None}}, "lacks cls.predictions.bias"),
        ("nystromformer", {"config": {"num_landmarks": 32}}, "num_landmarks=32 is not below"),
        ("fnet_fourier", {"config": {"tie_word_embeddings": False}}, "tie_word_embeddings=False"),
        ("longformer_swa_global", {"config": {"attention_window": [8, 7]}}, r"attention_window=\[8, 7\]"),
        ("longformer_swa_global", {"config": {"attention_window": [8]}}, r"attention_window=\[8\].*each of the 2 layers"),
        ("longformer_swa_global", {"tensors": {"longformer.encoder.layer.1.attention.self.key_global.bias": lambda a: None}}, "lacks longformer.*key_global.bias"),
        ("funnel", {"config": {"pooling_type": "max"}}, "pooling_type='max'"),
        ("funnel", {"config": {"pool_q_only": False}}, "pool_q_only=False"),
        ("funnel", {"config": {"block_repeats": [1, 2]}}, r"block_repeats=\[1, 2\]"),
        ("funnel", {"config": {"attention_type": "whole"}}, "attention_type='whole'"),
        ("deberta_v3_shared", {"config": {"relative_attention": False}}, "relative_attention=False"),
        ("deberta_v3_shared", {"config": {"pos_att_type": ["c2p"]}}, r"pos_att_type=\['c2p'\]"),
        ("deberta_v3_shared", {"config": {"conv_kernel_size": 3}}, "conv_kernel_size=3"),
        ("deberta_v3_shared", {"config": {"norm_rel_ebd": "batch"}}, "norm_rel_ebd='batch'"),
        ("deberta_v3_shared", {"config": {"position_buckets": 6}}, "rel_embeddings.weight has shape"),
    ],
)
def test_what_does_not_fit_is_named(name, change, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        load(broken(dict(np.load(GOLDEN / f"{name}.npz")), tmp_path / "model", **change))
