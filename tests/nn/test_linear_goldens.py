"""Lightning attention and Gated DeltaNet against transformers: the first layer of tiny MiniMax and Qwen3-Next models, experts and all
(tests/golden/layers). The experts stand here in NumPy."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from effllm import nn

GOLDEN = Path(__file__).parents[1] / "golden" / "layers"


def golden(name):
    arrays = np.load(GOLDEN / f"{name}.npz")
    return {k.removeprefix("weight/"): v for k, v in arrays.items()}


def rms(x, scale, eps):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * scale


def silu(x):
    return x / (1 + np.exp(-x))


def swiglu(x, w, prefix, gate, up, down):
    return (silu(x @ w[f"{prefix}.{gate}.weight"].T) * (x @ w[f"{prefix}.{up}.weight"].T)) @ w[f"{prefix}.{down}.weight"].T


def experts(x, w, prefix, *names):
    """(the two likeliest experts' outputs by their renormalised probabilities, which two)."""
    logits = x @ w[f"{prefix}.gate.weight"].T
    p = np.exp(logits - logits.max(-1, keepdims=True))
    chosen = np.argsort(-p, axis=-1)[..., :2]
    p = np.where((chosen[..., None] == np.arange(p.shape[-1])).any(-2), p, 0)
    p /= p.sum(-1, keepdims=True)
    held = [i for i in range(p.shape[-1]) if f"{prefix}.experts.{i}.{names[0]}.weight" in w]
    return sum(p[..., i, None] * swiglu(x, w, f"{prefix}.experts.{i}", *names) for i in held), chosen


def applied(mixer, params, x):
    params, x = jax.tree.map(jnp.asarray, (params, x))
    y, _ = mixer.apply({"params": params}, x, positions=jnp.broadcast_to(jnp.arange(x.shape[1]), x.shape[:2]), segment_ids=None)
    return np.asarray(y)


def kernel(rows):
    return {"kernel": rows.T}


def test_lightning_attention_is_minimax():
    w = golden("minimax_lightning_attn")
    x = rms(w["embedded"], w["input_layernorm.weight"], 1e-5)
    per_head = w["self_attn.qkv_proj.weight"].reshape(4, 3, 16, 64)
    params = {name: kernel(per_head[:, i].reshape(64, 64)) for i, name in enumerate("qkv")}
    params |= {"gate": kernel(w["self_attn.output_gate.weight"]), "output": kernel(w["self_attn.out_proj.weight"])}
    params |= {"output_norm": {"scale": w["self_attn.norm.weight"]}, "log_slope": np.log(w["self_attn.slope_rate"].reshape(4))}
    x = rms(x + applied(nn.LightningAttention(heads=4, norm=nn.RMSNorm(1e-5), chunk=8), params, x), w["post_attention_layernorm.weight"], 1e-5)
    y, chosen = experts(x, w, "block_sparse_moe", "w1", "w3", "w2")
    told = ~(chosen == 3).any(-1)  # the golden file leaves out the fourth expert
    assert told.mean() > 0.3
    np.testing.assert_allclose((x + y)[told], w["hidden_1"][told], atol=2e-5)


def test_gated_delta_net_is_qwen3_next():
    w = {name: array.astype(np.float64) for name, array in golden("qwen3_next_gated_deltanet").items()}
    x = w["embedded"]
    qkvz = np.split(w["linear_attn.in_proj_qkvz.weight"].reshape(2, 96, 64), [16, 32, 64], axis=1)
    ba = w["linear_attn.in_proj_ba.weight"].reshape(2, 2, 2, 64)
    filters = np.split(w["linear_attn.conv1d.weight"][:, 0].T, [32, 64], axis=1)
    params = {name: kernel(rows.reshape(-1, 64)) for name, rows in zip(("q", "k", "v", "gate"), qkvz)}
    params |= {"beta": kernel(ba[:, 0].reshape(4, 64)), "decay": kernel(ba[:, 1].reshape(4, 64)), "output": kernel(w["linear_attn.out_proj.weight"])}
    params |= {f"{name}_conv": {"filter": f} for name, f in zip("qkv", filters)}
    params |= {"log_a": w["linear_attn.A_log"], "step_bias": w["linear_attn.dt_bias"], "head_norm": {"scale": w["linear_attn.norm.weight"]}}
    mixer = nn.GatedDeltaNet(heads=4, key_heads=2, head_dim=16, chunk=8)
    with jax.enable_x64(True):
        x = x + applied(mixer, params, rms(x, 1 + w["input_layernorm.weight"], 1e-6))
    h = rms(x, 1 + w["post_attention_layernorm.weight"], 1e-6)
    names = "gate_proj", "up_proj", "down_proj"
    y, _ = experts(h, w, "mlp", *names)
    y = y + swiglu(h, w, "mlp.shared_expert", *names) / (1 + np.exp(-h @ w["mlp.shared_expert_gate.weight"].T))
    # In float64, for one head norm of the file divides by almost nothing: there the file is 9e-5 away, elsewhere 1e-5.
    np.testing.assert_allclose(x + y, w["hidden_1"], atol=1e-4)
    assert np.sum(np.abs(x + y - w["hidden_1"]).max(-1) > 2e-5) <= 1
