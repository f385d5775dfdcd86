"""Mamba and the gated delta rule beside the code that transformers runs on a CPU, each arm in processes of its own.

Mamba there is a Python loop over tokens whose backward pass writes zeros for the whole text at each token, quadratic in T: it is compared forward at 4,096 tokens, and
forward and backward at 512.

    pip install -e . torch transformers && python -m experiments.speed.linear_mixers.peers
"""

import argparse
import datetime
import json
import statistics
from pathlib import Path

import numpy as np

from experiments.speed import measure

LENGTH, SHORT, WIDTH, HEADS, HEAD_DIM, CHUNK, ROUNDS = 4096, 512, 256, 4, 64, 64, 3
ROWS = {
    f"Mamba, forward, T = {LENGTH:,}": ("mamba", "forward"), f"Mamba, forward and backward, T = {SHORT:,}": ("mamba", "both"),
    f"gated delta rule, forward and backward, T = {LENGTH:,}": ("delta", "both"),
}  # fmt: skip


def delta_arrays() -> list[np.ndarray]:
    """q, k, v (1, T, H, K), log decays and write strengths (1, T, H)."""
    rng = np.random.default_rng(0)
    q, k, v = (rng.normal(size=(1, LENGTH, HEADS, HEAD_DIM)) for _ in range(3))
    k /= np.linalg.norm(k, axis=-1, keepdims=True)
    q /= np.linalg.norm(q, axis=-1, keepdims=True)
    arrays = q, k, v, -rng.uniform(0, 0.2, (1, LENGTH, HEADS)), rng.uniform(size=(1, LENGTH, HEADS))
    return [a.astype(np.float32) for a in arrays]


def ours_mamba() -> dict[str, float]:
    import jax
    import jax.numpy as jnp
    from flax.core import meta

    from effllm.nn import Mamba

    mixer, x_btd, positions = Mamba(), jax.random.normal(jax.random.key(0), (1, LENGTH, WIDTH)), jnp.arange(LENGTH, dtype=jnp.int32)[None]
    params = meta.unbox(jax.jit(lambda: mixer.init(jax.random.key(1), x_btd[:, :8], positions=positions[:, :8], segment_ids=None))())
    forward = jax.jit(lambda p, x: jnp.mean(mixer.apply(p, x, positions=positions[:, : x.shape[1]], segment_ids=None)[0] ** 2))
    both = jax.jit(jax.value_and_grad(forward, argnums=(0, 1)))
    runs = {"forward": lambda: forward(params, x_btd), "both": lambda: both(params, x_btd[:, :SHORT])}
    return {name: statistics.median(measure.seconds(lambda: jax.block_until_ready(run()), 5)) for name, run in runs.items()}


def transformers_mamba() -> dict[str, float]:
    import torch
    from transformers.models.mamba.configuration_mamba import MambaConfig
    from transformers.models.mamba.modeling_mamba import MambaMixer

    mixer = MambaMixer(MambaConfig(hidden_size=WIDTH, state_size=16, expand=2, conv_kernel=4), layer_idx=0)
    x_btd = torch.randn(1, LENGTH, WIDTH)

    def forward():
        with torch.no_grad():
            (mixer(x_btd) ** 2).mean()

    def both():
        (mixer(x_btd[:, :SHORT].clone().requires_grad_()) ** 2).mean().backward()

    return {name: statistics.median(measure.seconds(run, 3, 1)) for name, run in (("forward", forward), ("both", both))}


def ours_delta() -> dict[str, float]:
    import jax
    import jax.numpy as jnp

    from effllm import ops

    arrays = [jnp.asarray(a) for a in delta_arrays()]
    step = jax.jit(jax.value_and_grad(lambda q, k, v, g, beta: jnp.mean(ops.delta_rule(q, k, v, beta, g)[0] ** 2), argnums=(0, 1, 2, 3, 4)))
    return {"both": statistics.median(measure.seconds(lambda: jax.block_until_ready(step(*arrays)), 5))}


def transformers_delta() -> dict[str, float]:
    import torch
    from transformers.models.qwen3_next.modeling_qwen3_next import torch_chunk_gated_delta_rule

    q, k, v, g, beta = (torch.tensor(a, requires_grad=True) for a in delta_arrays())

    def both():
        (torch_chunk_gated_delta_rule(q, k, v, g=g, beta=beta, chunk_size=CHUNK)[0] ** 2).mean().backward()

    return {"both": statistics.median(measure.seconds(both, 3, 1))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    runs = {"ours-mamba": ours_mamba, "transformers-mamba": transformers_mamba, "ours-delta": ours_delta, "transformers-delta": transformers_delta}
    parser.add_argument("--arm", choices=list(runs), help="measure one arm and print JSON")
    arm = parser.parse_args().arm
    if arm:
        print(json.dumps(runs[arm]()))
        return
    from effllm.cli.rundir import hardware

    found = measure.rounds("experiments.speed.linear_mixers.peers", list(runs), ROUNDS)
    results = {
        "date": datetime.date.today().isoformat(), "hardware": hardware(), "versions": measure.versions("effllm", "jax", "torch", "transformers"), "rounds": found,
    }  # fmt: skip
    table = ["| | ours, ms | transformers on PyTorch, ms | ratio |", "|---|---|---|---|"]
    for row, (name, what) in ROWS.items():
        ours, theirs = (measure.median(found[f"{side}-{name}"], what) for side in ("ours", "transformers"))
        table.append(f"| {row} | {1e3 * ours:,.0f} | {1e3 * theirs:,.0f} | {theirs / ours:.1f}× |")
    (Path(__file__).parent / "peers.json").write_text(json.dumps(results, indent=1) + "\n")
    print("\n".join(table))


if __name__ == "__main__":
    main()
