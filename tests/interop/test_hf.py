"""Families of transformers against transformers' outputs: logits, losses, gradient norms and greedy tokens of tiny random-weight models (tests/golden)."""

import json
import tracemalloc
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax.core import meta
from safetensors.numpy import load_file, save_file

from effllm import nn
from effllm.infer import Sampler, generate, pad_prompts
from effllm.interop import hf, load, model_of, save
from effllm.interop.families import TYPES, llama
from effllm.interop.layout import Columns, Rows
from effllm.interop.normal import normal
from effllm.shard import MeshShape, shardings

GOLDEN = Path(__file__).parents[1] / "golden"
NAMES = sorted(f.stem for f in GOLDEN.glob("*.npz"))


def written(golden, directory, shards=1, dtype=np.float32):
    """A transformers directory of a golden file."""
    directory.mkdir()
    (directory / "config.json").write_text(str(golden["config"]))
    tensors = {k.removeprefix("weight/"): v.astype(dtype) for k, v in golden.items() if k.startswith("weight/")}
    files = [f"model-{i}-of-{shards}.safetensors" if shards > 1 else "model.safetensors" for i in range(shards)]
    parts = [dict(list(tensors.items())[i::shards]) for i in range(shards)]
    for file, part in zip(files, parts):
        save_file(part, directory / file)
    if shards > 1:
        index = {name: file for file, part in zip(files, parts) for name in part}
        (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    return directory


@pytest.fixture(scope="module", params=NAMES)
def case(request, tmp_path_factory):
    golden = dict(np.load(GOLDEN / f"{request.param}.npz"))
    return *load(written(golden, tmp_path_factory.mktemp("hf") / "model")), golden


@pytest.fixture
def golden():
    return dict(np.load(GOLDEN / "llama_gqa.npz"))


def of_one_call(model, length):
    """The model as transformers computes a whole text at once: dynamic NTK takes its base from the length of the call."""

    def block(b):
        if not isinstance(getattr(b.mixer, "position", None), nn.DynamicNTK):
            return b
        position = b.mixer.position
        scaling = nn.dynamic_ntk(position.factor, position.trained_length, length)
        return b.clone(mixer=b.mixer.clone(position=nn.RoPE(position.base, scaling=scaling)))

    return model.clone(blocks=tuple(map(block, model.blocks)))


def test_logits(case):
    model, params, golden = case
    tokens = golden["input_ids"]
    model = of_one_call(model, tokens.shape[1])
    logits, _ = jax.jit(lambda p, t: model.apply({"params": p}, t))(params, tokens)
    np.testing.assert_allclose(logits, golden["logits"], atol=1e-4)
    nll = -jnp.take_along_axis(jax.nn.log_softmax(logits[:, :-1]), tokens[:, 1:, None], axis=-1)[..., 0]
    np.testing.assert_allclose(nll, golden["nll"], atol=1e-4)


def gradient_of(model, golden, grads, name):
    """Our gradient of a transformers tensor."""
    family = TYPES[json.loads(str(golden["config"]))["model_type"]]
    bundle = next(b for b in hf.bundles_of(model, family) if name in b.names)
    parts = dict(hf.flat(grads))
    return bundle.tensor.layout.join([np.asarray(parts[p][bundle.names.index(name)] if bundle.stacked else parts[p]) for p in bundle.paths])


WITH_GRADIENTS = [n for n in NAMES if any(k.startswith("gradnorm/") for k in np.load(GOLDEN / f"{n}.npz"))]


@pytest.mark.parametrize("case", WITH_GRADIENTS, indirect=True)
def test_loss_and_gradients(case):
    model, params, golden = case
    tokens = golden["input_ids"]
    shape = tokens[:, 1:].shape
    batch = {
        "tokens": tokens[:, :-1], "targets": tokens[:, 1:], "segment_ids": jnp.ones(shape, jnp.int32),
        "positions": jnp.broadcast_to(jnp.arange(shape[1]), shape), "weights": jnp.ones(shape),
    }  # fmt: skip
    (_, metrics), grads = jax.jit(jax.value_and_grad(lambda p: nn.NextToken(chunk=7)(model, p, batch, None), has_aux=True))(params)
    np.testing.assert_allclose(metrics["loss"], golden["nll"].mean(), rtol=1e-5)
    for key in golden:
        if key.startswith("gradnorm/"):
            np.testing.assert_allclose(np.linalg.norm(gradient_of(model, golden, grads, key.removeprefix("gradnorm/"))), golden[key], rtol=2e-4, err_msg=key)


def test_some_goldens_have_gradients():
    assert {"llama_gqa", "qwen3_qknorm"} <= set(WITH_GRADIENTS)


# transformers 5.23 decodes rwkv from its state to other tokens than its own logits of the whole text say: that file holds none.
WITH_GREEDY = [n for n in NAMES if "greedy_ids" in np.load(GOLDEN / f"{n}.npz")]


def test_all_decoders_but_one_have_greedy_tokens():
    assert [n for n in NAMES if n not in WITH_GREEDY and "nll" in np.load(GOLDEN / f"{n}.npz")] == ["rwkv4"]


@pytest.mark.parametrize("case", WITH_GREEDY, indirect=True)
def test_greedy_tokens(case):
    model, params, golden = case
    prompts = [row.tolist() for row in golden["greedy_prompt"]]
    tokens, lengths = pad_prompts(prompts)
    new, _ = generate(model, params, tokens, lengths, jax.random.key(0), tokens=golden["greedy_ids"].shape[1] - len(prompts[0]), sampler=Sampler(temperature=0.0))
    # Beyond the trained length transformers compares keys and queries turned under different bases.
    same = min([b.mixer.position.trained_length + 1 for b in model.blocks if isinstance(getattr(b.mixer, "position", None), nn.DynamicNTK)], default=None)
    np.testing.assert_array_equal(np.concatenate([tokens, new], 1)[:, :same], golden["greedy_ids"][:, :same])


# The context is the caller's, and of nested groups the keys at their defaults are left out.
FREE = ("max_position_embeddings", "n_positions", "max_seq_len", "context_length", "rope_parameters", "attn_config")


def test_saved_again_every_tensor_is_the_same(case, tmp_path):
    model, params, golden = case
    save(model, params, tmp_path / "out", context=256)
    again = load_file(tmp_path / "out" / "model.safetensors")
    assert again.keys() == {k.removeprefix("weight/") for k in golden if k.startswith("weight/")}
    assert all(again[k].tobytes() == golden[f"weight/{k}"].tobytes() for k in again)
    assert load(tmp_path / "out")[0] == (model if model.trained_length is None else model.clone(trained_length=256))
    before, after = json.loads(str(golden["config"])), json.loads((tmp_path / "out" / "config.json").read_text())
    for key in before.keys() & after.keys() - set(FREE):
        assert before[key] == after[key], key
    # transformers refuses 8.0 where it declares an int.
    nested = [(before, after), *((before[k], after[k]) for k in FREE if isinstance(before.get(k), dict) and k in after)]
    for theirs, ours in nested:
        assert {k: type(v) for k, v in ours.items() if theirs.get(k) is not None and type(v) is not type(theirs[k])} == {}


def test_shards_bfloat16_and_placement(golden, tmp_path):
    placed = []

    def place(path, array):
        placed.append((path, array.dtype))
        return jnp.asarray(array)

    _, params = load(written(golden, tmp_path / "model", shards=3, dtype=ml_dtypes.bfloat16), place)
    assert {d for _, d in placed} == {np.dtype(ml_dtypes.bfloat16)} and len(placed) == len(jax.tree.leaves(params))
    k = params["layers"]["blocks_0"]["mixer"]["k"]["kernel"][1]
    np.testing.assert_array_equal(np.asarray(k), golden["weight/model.layers.1.self_attn.k_proj.weight"].T.astype(ml_dtypes.bfloat16))


def test_weights_go_to_the_mesh_as_they_are_read(tmp_path):
    golden = dict(np.load(GOLDEN / "gpt2.npz"))
    directory, mesh = written(golden, tmp_path / "model", shards=2), MeshShape(2, 2, 2).build()
    model = model_of(directory)
    boxed = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((8, 4), jnp.int32))["params"])
    where = dict(hf.flat(shardings(boxed, mesh)))
    _, params = load(directory, lambda path, array: jax.device_put(array, where[path]))
    assert all(leaf.sharding == where[path] for path, leaf in hf.flat(params)) and not where["layers.blocks_0.mixer.q.kernel"].is_fully_replicated
    tokens = np.repeat(golden["input_ids"], 4, axis=0)
    with jax.set_mesh(mesh):
        logits, _ = jax.jit(lambda p, t: model.apply({"params": p}, t))(params, tokens)
    np.testing.assert_allclose(logits, np.repeat(golden["logits"], 4, axis=0), atol=1e-4)


def test_layers_of_two_kinds_become_a_pattern(golden, tmp_path):
    config = json.loads(str(golden["config"])) | {"model_type": "qwen3", "use_sliding_window": True, "sliding_window": 6, "layer_types": ["sliding_attention", "full_attention"]}
    model = llama.model_of(config)
    assert [b.mixer.window for b in model.blocks] == [6, None] and model.periods == 1
    params = model.init(jax.random.key(0), jnp.zeros((1, 4), jnp.int32))["params"]
    save(model, meta.unbox(params), tmp_path / "out", context=64)
    assert load(tmp_path / "out")[0] == model.clone(trained_length=64)


def broken(golden, directory, *, config=(), tensors=()):
    golden = golden | {"config": np.array(json.dumps(json.loads(str(golden["config"])) | dict(config)))}
    for name, change in dict(tensors).items():
        golden[f"weight/{name}"] = change(golden.pop(f"weight/{name}", np.ones((2, 2), np.float32)))
    return written({k: v for k, v in golden.items() if v is not None}, directory)


@pytest.mark.parametrize(
    "change,words",
    [
        ({"config": {"model_type": "mamba3"}}, "model_type='mamba3' is not covered; llama"),
        ({"config": {"rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4}}}, "rope_type='longrope' is not covered"),
        ({"config": {"hidden_act": "gelu"}}, "hidden_act='gelu'"),
        ({"tensors": {"model.norm.weight": lambda a: None}}, r"lacks model.norm.weight \(1 tensors missing, 0 left over\)"),
        ({"tensors": {"model.layers.7.extra": lambda a: a}}, "holds model.layers.7.extra"),
        ({"tensors": {"lm_head.weight": lambda a: a[:5]}}, r"lm_head.weight has shape \(5, 64\), this architecture needs \(96, 64\)"),
    ],
)
def test_what_does_not_fit_is_named(golden, tmp_path, change, words):
    with pytest.raises(ValueError, match=words):
        load(broken(golden, tmp_path / "model", **change))


def test_a_context_beyond_the_trained_one_is_refused_where_nothing_stretches_it(golden, tmp_path):
    trained = json.loads(str(golden["config"]))["max_position_embeddings"]
    plain = model_of(written(golden, tmp_path / "plain"))
    with pytest.raises(ValueError, match=f"{trained + 1} tokens are more than trained_length={trained}"):
        plain.init_state(1, trained + 1)
    stretched = model_of(written(dict(np.load(GOLDEN / "llama_rope_linear_PI.npz")), tmp_path / "stretched"))
    stretched.init_state(1, trained + 1)


def test_what_some_writers_do_otherwise(tmp_path):
    """OpenAI's GPT-2 leaves out the inner model's name and stores masks; tied heads are stored a second time by some."""
    golden = dict(np.load(GOLDEN / "gpt2.npz"))
    bare = {k.replace("weight/transformer.", "weight/"): v for k, v in golden.items()}
    bare |= {"weight/h.0.attn.bias": np.ones((1, 1, 128, 128), np.float32), "weight/lm_head.weight": golden["weight/transformer.wte.weight"]}
    expected, got = (load(written(g, tmp_path / name)) for g, name in ((golden, "whole"), (bare, "bare")))
    jax.tree.map(np.testing.assert_array_equal, got[1], expected[1])


@pytest.mark.parametrize("groups,layout", [(1, Rows), (2, Rows), (4, Rows), (2, Columns)])
def test_a_fused_tensor_comes_apart_and_together_again(groups, layout):
    shapes = [(5, 8), (5, 4), (5, 4)]
    tensor = np.arange(80.0).reshape((16, 5) if layout is Rows else (5, 16))
    q, k, v = layout(groups).split(tensor, shapes)
    rows = tensor if layout is Rows else tensor.T
    share = 16 // groups
    np.testing.assert_array_equal(q.T, np.concatenate([rows[g * share : g * share + share // 2] for g in range(groups)]))
    np.testing.assert_array_equal(v.T, np.concatenate([rows[(g + 1) * share - share // 4 : (g + 1) * share] for g in range(groups)]))
    assert layout(groups).shape(shapes) == tensor.shape and [q.shape, k.shape, v.shape] == shapes
    np.testing.assert_array_equal(layout(groups).join([q, k, v]), tensor)


FALCONS = {
    "7b": (nn.ParallelBlock, {"kv_heads": 1}, {"shared_norm": True}), "40b": (nn.ParallelBlock, {"kv_heads": 2}, {"shared_norm": False}),
    "11b": (nn.ParallelBlock, {"kv_heads": 2}, {"shared_norm": True}), "rw": (nn.Block, {"position": nn.ALiBi(scaled=True), "bias": True, "output_bias": True}, {}),
}  # fmt: skip


@pytest.mark.parametrize("name", FALCONS)
def test_falcons_of_every_kind_come_back(name, tmp_path):
    kind, attention, arrangement = FALCONS[name]
    ffn = nn.MLP(96, bias=attention.get("bias", False))
    model = nn.DecoderLM(vocab_size=64, width=32, depth=2, blocks=(kind(nn.Attention(**attention), ffn, nn.LayerNorm(), **arrangement),), norm=nn.LayerNorm())
    params = meta.unbox(model.init(jax.random.key(0), jnp.zeros((1, 4), jnp.int32))["params"])
    save(model, params, tmp_path / "out", context=64)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_type"] == "falcon"
    again, loaded = load(tmp_path / "out")
    assert normal(again) == normal(model)
    jax.tree.map(np.testing.assert_array_equal, loaded, params)


def test_directories_that_are_none(golden, tmp_path):
    with pytest.raises(ValueError, match="config.json does not exist"):
        load(tmp_path)
    directory = written(golden, tmp_path / "model", shards=2)
    (directory / "model-1-of-2.safetensors").unlink()
    with pytest.raises(ValueError, match="model-1-of-2.safetensors does not exist, though model.safetensors.index.json names it"):
        load(directory)
    with pytest.raises(ValueError, match="holds a config.json"):
        save(*load(written(golden, tmp_path / "whole")), tmp_path / "whole", context=8)


@pytest.mark.parametrize(
    "model,words",
    [
        (nn.DecoderLM(blocks=(nn.Block(ffn=nn.MLP()),)), "no family of transformers covered here has blocks like its Block of Attention"),
        (nn.DecoderLM(soft_cap=3.0), "soft_cap is 3.0, not None as in transformers' llama"),
        (nn.DecoderLM(blocks=(nn.Block(nn.Attention(position=nn.RoPE(interleaved=True))),)), "blocks.0.mixer.position.interleaved is True, not False"),
        (nn.DecoderLM(blocks=(nn.Block(nn.Attention(position=nn.Position())),)), "no family of transformers covered here has blocks"),
    ],
)
def test_a_model_that_no_family_can_say_is_refused(model, words, tmp_path):
    with pytest.raises(ValueError, match=f"transformers cannot say this model: {words}"):
        save(model, {}, tmp_path / "out", context=8)
    assert not (tmp_path / "out").exists()


def test_parameters_of_another_model_are_refused(golden, tmp_path):
    model, params = load(written(golden, tmp_path / "model"))
    with pytest.raises(ValueError, match="not this model's: head.kernel is left over"):
        save(model.clone(tied=True), params, tmp_path / "out", context=8)


def peak_of(function):
    """Bytes of NumPy arrays and the like that a call held at most, beyond what was there."""
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_model_never_stands_twice_in_memory(tmp_path):
    """Loading holds one stacked parameter and one tensor, saving one tensor, beside the parameters themselves."""
    model = nn.DecoderLM(vocab_size=4096, width=256, depth=8, blocks=(nn.Block(nn.Attention(heads=4), nn.SwiGLU(512)),))
    params = meta.unbox(jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 4), jnp.int32))["params"])
    whole, largest = sum(a.nbytes for a in jax.tree.leaves(params)), max(a.nbytes for a in jax.tree.leaves(params))
    assert peak_of(lambda: save(model, params, tmp_path / "out", context=64, shard_bytes=1 << 23)) < 1.6 * largest < whole / 4
    sizes = [f.stat().st_size for f in (tmp_path / "out").glob("*.safetensors")]
    assert len(sizes) == 5 and max(sizes) < 1.01 * (1 << 23) and sum(sizes) > whole
    assert peak_of(lambda: load(tmp_path / "out", place=lambda path, array: None)) < 2.2 * largest < whole / 3
    again = load(tmp_path / "out")[1]
    jax.tree.map(np.testing.assert_array_equal, again, params)
