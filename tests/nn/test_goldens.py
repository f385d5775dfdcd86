"""DecoderLM against transformers' outputs: logits, losses, gradient norms and greedy tokens of tiny random-weight models (tests/golden)."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effllm.infer import Sampler, generate, pad_prompts
from effllm.nn import Attention, Block, DecoderLM, Llama3Scaling, NextToken, PositionInterpolation, RMSNorm, RoPE, RoPEScaling, SwiGLU, YaRN

GOLDEN = Path(__file__).parents[1] / "golden"


def decoder(base=10000.0, scaling=RoPEScaling(), tied=False, bias=False, **attention):
    mixer = Attention(heads=4, head_dim=16, position=RoPE(base, scaling=scaling), bias=bias, output_bias=bias, **attention)
    return DecoderLM(vocab_size=96, width=64, depth=2, tied=tied, blocks=(Block(mixer, SwiGLU(hidden=112, bias=bias)),))


MODELS = {
    "llama_gqa": decoder(kv_heads=2),
    "llama_mha_tied_bias": decoder(tied=True, bias=True),
    "qwen3_qknorm": decoder(base=1e6, kv_heads=2, qk_norm=RMSNorm()),
    "mistral_swa": decoder(kv_heads=2, window=8),
    "llama_rope_linear_PI": decoder(kv_heads=2, scaling=PositionInterpolation(2.0)),
    "llama_rope_yarn": decoder(kv_heads=2, scaling=YaRN(4.0, trained_length=16)),
    "llama_rope_llama3": decoder(kv_heads=2, scaling=Llama3Scaling(8.0, trained_length=32)),
}
LAYER = {
    "input_layernorm.weight": "mixer_norm.scale", "post_attention_layernorm.weight": "ffn_norm.scale",
    **{f"self_attn.{t}_proj.{kind}": f"mixer.{o}.{name}" for t, o in (("q", "q"), ("k", "k"), ("v", "v"), ("o", "output")) for kind, name in (("weight", "kernel"), ("bias", "bias"))},
    **{f"mlp.{o}_proj.{kind}": f"ffn.{o}.{name}" for o in ("gate", "up", "down") for kind, name in (("weight", "kernel"), ("bias", "bias"))},
    "self_attn.q_norm.weight": "mixer.q_norm.scale", "self_attn.k_norm.weight": "mixer.k_norm.scale",
}  # fmt: skip
TOP = {"model.embed_tokens.weight": "embed.embedding", "model.norm.weight": "final_norm.scale", "lm_head.weight": "head.kernel"}


def ours(name: str) -> tuple[str, int | None]:
    """(path in our parameters, layer) of a transformers parameter."""
    if name in TOP:
        return TOP[name], None
    _, _, layer, rest = name.split(".", 3)
    return f"layers.blocks_0.{LAYER[rest]}", int(layer)


def turned(path: str, array: np.ndarray) -> np.ndarray:
    return array.T if path.endswith("kernel") else array


def parameters(golden) -> dict:
    flat: dict[str, dict] = {}
    for key in golden:
        if key.startswith("weight/"):
            path, layer = ours(key.removeprefix("weight/"))
            flat.setdefault(path, {})[layer or 0] = turned(path, golden[key])
    tree: dict = {}
    for path, by_layer in flat.items():
        node, *names = tree, *path.split(".")
        for name in names[:-1]:
            node = node.setdefault(name, {})
        node[names[-1]] = jnp.asarray(np.stack([by_layer[i] for i in sorted(by_layer)]) if path.startswith("layers") else by_layer[0])
    return tree


@pytest.fixture(params=MODELS)
def case(request):
    golden = dict(np.load(GOLDEN / f"{request.param}.npz"))
    return MODELS[request.param], parameters(golden), golden


def test_logits(case):
    model, params, golden = case
    logits, _ = jax.jit(lambda p, t: model.apply({"params": p}, t))(params, golden["input_ids"])
    np.testing.assert_allclose(logits, golden["logits"], atol=1e-4)


def test_loss_and_gradients(case):
    model, params, golden = case
    tokens = golden["input_ids"]
    shape = tokens[:, 1:].shape
    batch = {
        "tokens": tokens[:, :-1], "targets": tokens[:, 1:], "segment_ids": jnp.ones(shape, jnp.int32),
        "positions": jnp.broadcast_to(jnp.arange(shape[1]), shape), "weights": jnp.ones(shape),
    }  # fmt: skip
    (_, metrics), grads = jax.jit(jax.value_and_grad(lambda p: NextToken(chunk=7)(model, p, batch, None), has_aux=True))(params)
    np.testing.assert_allclose(metrics["loss"], golden["nll"].mean(), rtol=1e-5)
    checked = 0
    for key in golden:
        if key.startswith("gradnorm/"):
            path, layer = ours(key.removeprefix("gradnorm/"))
            leaf = grads
            for name in path.split("."):
                leaf = leaf[name]
            np.testing.assert_allclose(np.linalg.norm(leaf if layer is None else leaf[layer]), golden[key], rtol=2e-4, err_msg=key)
            checked += 1
    assert checked == sum(k.startswith("gradnorm/") for k in golden)


def test_greedy_tokens(case):
    model, params, golden = case
    prompts = [row.tolist() for row in golden["greedy_prompt"]]
    tokens, lengths = pad_prompts(prompts)
    new, _ = generate(model, params, tokens, lengths, jax.random.key(0), tokens=golden["greedy_ids"].shape[1] - len(prompts[0]), sampler=Sampler(temperature=0.0))
    np.testing.assert_array_equal(np.concatenate([tokens, new], 1), golden["greedy_ids"])
