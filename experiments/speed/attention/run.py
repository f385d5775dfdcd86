"""Attention by implementation over the length, windows, and decoding from different states, beside JAX's own and PyTorch's in one run.

    pip install -e . torch && python -m experiments.speed.attention.run
"""

import argparse
import datetime
import json
from pathlib import Path

import numpy as np

from experiments.speed import measure

HEADS, HEAD_DIM, WINDOW = 8, 64, 256
# (batch, length): tokens fall as T² grows, the first row is the design's own case.
SIZES = [(4, 2048), (4, 512), (4, 1024), (1, 4096), (1, 8192), (1, 16384), (1, 32768)]
LONGEST = {"jax": 4096, "reference": 2048}  # where all T × T scores no longer fit
DECODE, CACHE, WIDTH = (1024, 16384), 8, 512


def sizes(arm: str) -> list[tuple[int, int]]:
    return [(b, t) for b, t in SIZES if t <= LONGEST.get(arm, t)]


def arrays(batch: int, length: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.normal(size=(batch, length, HEADS, HEAD_DIM)).astype(np.float32) for _ in range(3)]


def repeats(length: int) -> int:
    return 5 if length <= 4096 else 1


def in_jax(arm: str) -> dict[str, dict[str, float]]:
    """Seconds forward, and forward and backward, and temporary bytes of the latter."""
    import jax
    import jax.numpy as jnp

    from effllm import ops

    def attend(q, k, v):
        if arm == "jax":
            return jax.nn.dot_product_attention(q, k, v, is_causal=True)
        return ops.attention(q, k, v, window=WINDOW if arm == "window" else None, implementation="reference" if arm == "reference" else "xla")

    found = {}
    for batch, length in sizes(arm):
        qkv = [jnp.asarray(a) for a in arrays(batch, length)]
        forward = jax.jit(attend)
        both = jax.jit(jax.grad(lambda q, k, v: jnp.sum(jnp.sin(attend(q, k, v))), argnums=(0, 1, 2))).lower(*qkv).compile()
        found[f"{batch}x{length}"] = {
            "forward": min(measure.seconds(lambda: jax.block_until_ready(forward(*qkv)), repeats(length), 1)),
            "both": min(measure.seconds(lambda: jax.block_until_ready(both(*qkv)), repeats(length), 1)),
            "bytes": both.memory_analysis().temp_size_in_bytes,
        }
    return found


def in_torch() -> dict[str, dict[str, float]]:
    """The same by PyTorch's scaled_dot_product_attention."""
    import torch
    from torch.nn import functional as F

    found = {}
    for batch, length in sizes("torch"):
        qkv = [torch.tensor(a).transpose(1, 2).contiguous().requires_grad_() for a in arrays(batch, length)]

        def forward():
            with torch.no_grad():
                F.scaled_dot_product_attention(*qkv, is_causal=True)

        def both():
            torch.sin(F.scaled_dot_product_attention(*qkv, is_causal=True)).sum().backward()

        found[f"{batch}x{length}"] = {name: min(measure.seconds(f, repeats(length), 1)) for name, f in (("forward", forward), ("both", both))}
    return found


def decoding() -> dict[str, dict[str, float]]:
    """State bytes, and seconds a token with a state of `length` tokens, by how keys are shared."""
    import jax
    import jax.numpy as jnp
    from flax.core import meta

    from effllm.nn import Attention, LatentAttention

    mixers = {
        "MHA": Attention(heads=HEADS), "GQA, 2 groups": Attention(heads=HEADS, kv_heads=2), "MQA": Attention(heads=HEADS, kv_heads=1),
        "MLA, latent 128 + 32": LatentAttention(heads=HEADS, head_dim=HEAD_DIM, rope_dim=32, latent=128), f"window {WINDOW}": Attention(heads=HEADS, window=WINDOW),
        "pages": Attention(heads=HEADS, pages=CACHE * max(DECODE) // 16),
    }  # fmt: skip
    found = {}
    for name, mixer in mixers.items():
        x_btd, one = jnp.ones((CACHE, 1, WIDTH)), jnp.zeros((CACHE, 1), jnp.int32)
        params = meta.unbox(jax.jit(lambda: mixer.init(jax.random.key(0), x_btd, positions=one, segment_ids=None))())
        step = jax.jit(lambda p, x, at, state: mixer.apply(p, x, positions=at, segment_ids=None, state=state), donate_argnums=3)
        fill = jax.jit(lambda p, x, at, state: mixer.apply(p, x, positions=at, segment_ids=None, state=state)[1], donate_argnums=3)
        for length in DECODE:
            state = mixer.init_state(CACHE, length, WIDTH, jnp.float32)
            size = sum(a.nbytes for a in jax.tree.leaves(state))
            for start in range(0, length - 16, 496):
                stop = min(start + 496, length - 16)
                at = jnp.broadcast_to(jnp.arange(start, stop), (CACHE, stop - start))
                state = fill(params, jnp.ones((CACHE, stop - start, WIDTH)), at, state)

            def token():
                nonlocal state
                y, state = step(params, x_btd, one + length - 16, state)
                jax.block_until_ready(y)

            found[f"{name}, {length}"] = {"bytes": size, "seconds": float(np.median(measure.seconds(token, 10, 2)))}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arms = ("xla", "window", "reference", "jax", "torch", "decoding")
    parser.add_argument("--arm", choices=arms, help="measure one arm and print JSON")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each arm (default 3)")
    args = parser.parse_args()
    arm = args.arm
    if arm:
        print(json.dumps(in_torch() if arm == "torch" else decoding() if arm == "decoding" else in_jax(arm)))
        return
    from effllm.cli.rundir import hardware

    found = measure.rounds("experiments.speed.attention.run", arms, args.rounds)
    results = {
        "date": datetime.date.today().isoformat(), "hardware": hardware(), "versions": measure.versions("effllm", "jax", "torch"), "rounds": found,
    }  # fmt: skip
    table = tables(results)
    measure.save(Path(__file__).parent, results, table)
    print(table)


def tables(results: dict) -> str:
    """The README's tables."""
    found = results["rounds"]

    def cell(arm: str, size: str, what: str) -> float:
        return float(np.median([f[size][what] for f in found[arm]]))

    names = {"xla": "ours, xla", "window": f"ours, window {WINDOW}", "reference": "ours, reference", "jax": "jax.nn.dot_product_attention", "torch": "PyTorch SDPA"}
    lines = [f"{results['hardware']}; {', '.join(f'{k} {v}' for k, v in results['versions'].items())}; {results['date']}. Median of {len(found['xla'])} rounds.", ""]
    lines += ["Seconds forward / forward and backward (temporary MB of the latter), float32, 8 heads of 64, causal:", ""]
    lines += ["| batch × T | " + " | ".join(names.values()) + " |", "|---" * (len(names) + 1) + "|"]
    for batch, length in SIZES:
        size, row = f"{batch}x{length}", [f"{batch} × {length:,}"]
        for arm in names:
            if size not in found[arm][0]:
                row.append("–")
                continue
            memory = f" ({cell(arm, size, 'bytes') / 1e6:,.0f})" if arm != "torch" else ""
            row.append(f"{cell(arm, size, 'forward'):.3f} / {cell(arm, size, 'both'):.3f}{memory}")
        lines.append("| " + " | ".join(row) + " |")
    share = (16384 * WINDOW - WINDOW**2 / 2) / (16384**2 / 2)
    ratio = cell("window", "1x16384", "both") / cell("xla", "1x16384", "both")
    versus = cell("torch", "4x2048", "both") / cell("xla", "4x2048", "both")
    lines += ["", f"At 4 × 2,048, forward and backward, ours runs at **{versus:.2f}×** of PyTorch SDPA. The window of {WINDOW} at T = 16,384 takes {100 * ratio:.1f} % "
              f"of the full cost, where its share of the scores is {100 * share:.1f} %: **{ratio / share:.2f}×** that share.", ""]  # fmt: skip
    lines += [f"Decoding one token for {CACHE} rows of one layer, width {WIDTH}:", "", "| | state, MB | tokens/s |", "|---|---|---|"]
    for name in found["decoding"][0]:
        mixer, _, length = name.rpartition(", ")
        seconds = cell("decoding", name, "seconds")
        lines.append(f"| {mixer}, {int(length):,} tokens | {cell('decoding', name, 'bytes') / 1e6:.1f} | {CACHE / seconds:,.0f} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
