"""What config.json says by a key that is absent, null or of an older writer: what transformers takes it for."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effllm import nn
from effllm.interop import hf, load
from effllm.interop.families import TYPES
from tests.interop.test_encoders import GOLDEN as ENCODERS
from tests.interop.test_hf import GOLDEN, written
from tests.tiny import model as small


def config_of(name, **changes):
    """A golden model's config.json with some keys changed and those given as ... left out."""
    file = next(f for f in (GOLDEN / f"{name}.npz", ENCODERS / f"{name}.npz") if f.exists())
    config = json.loads(str(np.load(file)["config"])) | changes
    return {key: value for key, value in config.items() if value is not ...}


def read(name, **changes):
    config = config_of(name, **changes)
    return TYPES[config["model_type"]].model_of(config)


def windows(model):
    return [b.mixer.window for b in model.blocks] * model.periods


QWEN = {"num_hidden_layers": 4, "layer_types": ..., "sliding_window": 8}


@pytest.mark.parametrize(
    "name,changes,wanted",
    [
        ("qwen2_bias", QWEN | {"use_sliding_window": ...}, [None] * 4),
        ("qwen3_qknorm", QWEN | {"use_sliding_window": True, "max_window_layers": 3}, [None] * 3 + [8]),
        ("qwen2_bias", QWEN | {"use_sliding_window": True, "max_window_layers": ...}, [None] * 4),
        ("llama_gqa", {"sliding_window": 8, "layer_types": ["sliding_attention"] * 2}, [None] * 2),
        ("mistral_swa", {"sliding_window": 8, "layer_types": ["full_attention"] * 2}, [8] * 2),
        ("mistral_swa", {"sliding_window": ...}, [4096] * 2),
        ("mistral_swa", {"sliding_window": None}, [None] * 2),
    ],
)
def test_which_layers_have_windows(name, changes, wanted):
    assert windows(read(name, **changes)) == wanted


def test_windows_are_saved_where_a_family_keeps_them():
    def model(*each, **fields):
        return small(depth=2, blocks=tuple(nn.Block(nn.Attention(heads=2, window=window, **fields)) for window in each))

    _, mistral = hf.said(model(4), 64)
    assert mistral["model_type"] == "mistral" and mistral["sliding_window"] == 4 and "layer_types" not in mistral
    _, qwen = hf.said(model(4, None, bias=True), 64)
    assert qwen["model_type"] == "qwen2" and qwen["layer_types"] == ["sliding_attention", "full_attention"] and qwen["use_sliding_window"]
    with pytest.raises(ValueError, match=r"blocks.1.mixer.window is None, not 4 as in transformers' mistral"):
        hf.said(model(4, None), 64)
    assert hf.said(model(None), 64)[1]["model_type"] == "llama"


@pytest.mark.parametrize("parameters", [..., {"sliding_attention": {"rope_type": "default"}, "full_attention": {"rope_type": "linear", "factor": 8.0}}])
@pytest.mark.parametrize("name,full", [("gemma3_text", 1e6), ("modernbert_local_global", 160e3)])
def test_each_kind_of_layer_has_its_own_base(name, full, parameters):
    names = ("rope_theta", "rope_local_base_freq", "global_rope_theta", "local_rope_theta", "rope_scaling")
    model = read(name, rope_parameters=parameters, **dict.fromkeys(names, ...))
    assert {(b.mixer.position.base, b.mixer.window is None) for b in model.blocks} == {(full, True), (1e4, False)}


def test_scaled_rotary_positions():
    dynamic = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4, "original_max_position_embeddings": 7}
    assert read("llama_gqa", rope_parameters=dynamic, max_position_embeddings=64).blocks[0].mixer.position.trained_length == 64
    yarn = {"rope_type": "yarn", "factor": 2.0, "rope_theta": 1e4, "original_max_position_embeddings": 32, "beta_fast": None, "attention_factor": None}
    assert read("llama_gqa", rope_parameters=yarn).blocks[0].mixer.position.scaling == nn.YaRN(2.0, 32)


@pytest.mark.parametrize("name", ["bloom_alibi", "gpt2", "gpt_bigcode_mqa", "gptj_parallel_rotary", "mpt_alibi", "funnel"])
def test_sizes_may_have_their_common_names(name):
    own = {"n_embd": "hidden_size", "d_model": "hidden_size", "n_head": "num_attention_heads", "n_heads": "num_attention_heads"}
    own |= {"n_layer": "num_hidden_layers", "n_layers": "num_hidden_layers", "n_positions": "max_position_embeddings"}
    config = config_of(name)
    common = {own.get(key, key): value for key, value in config.items()}
    assert common != config and TYPES[config["model_type"]].model_of(common) == read(name)


def test_defaults_of_absent_keys():
    assert read("bigbird_full", hidden_act=...).blocks[0].ffn.activation is jax.nn.gelu
    assert read("nystromformer", layer_norm_eps=...).blocks[0].norm.eps == 1e-5
    assert read("qwen3_qknorm", head_dim=...).blocks[0].mixer.head_dim == 128
    assert read("recurrent_gemma_rglru", hidden_size=2560).embedding_scale == 50.5


def test_gptj_turns_rotary_dim_channels_of_a_context_of_n_positions(tmp_path):
    golden = dict(np.load(GOLDEN / "gptj_parallel_rotary.npz"))
    model = hf.model_of(written(golden, tmp_path / "model"))
    assert model.trained_length == json.loads(str(golden["config"]))["n_positions"]
    position = read("gptj_parallel_rotary", n_embd=44, n_head=1, rotary_dim=30).blocks[0].mixer.position
    x_bthk = jnp.ones((1, 3, 1, 44))
    turned, _ = position.rotate(x_bthk, x_bthk, jnp.arange(3)[None])
    assert (turned[0, 2, 0, :30] != 1).all() and (turned[0, 2, 0, 30:] == 1).all()


def test_gamma_and_beta_are_weight_and_bias(tmp_path):
    golden = dict(np.load(ENCODERS / "bert.npz"))
    before = {k.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): v for k, v in golden.items()}
    assert before.keys() != golden.keys()
    expected, got = (load(written(g, tmp_path / name)) for g, name in ((golden, "today"), (before, "before")))
    jax.tree.map(np.testing.assert_array_equal, got[1], expected[1])


def test_fields_that_change_no_number_are_no_obstacle():
    model = small(resample=nn.RandomizedPositions(64), blocks=(nn.Block(nn.Attention(heads=2, pages=4)),))
    assert hf.said(model, 64)[1]["model_type"] == "llama"
