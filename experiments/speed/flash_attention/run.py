"""Causal attention on a GPU, bfloat16, 16 heads of 128, 16 k tokens a batch: our kernel beside cuDNN's by JAX and PyTorch's SDPA, in TFLOP/s.

    pip install -e '.[gpu]' && python -m experiments.speed.flash_attention.run     # a stopped run goes on; --peers: see gpu.py
    python -m experiments.speed.flash_attention.run --check     # tiny, on a CPU in Pallas's interpreter: prints, writes nothing
"""

from pathlib import Path

from experiments.speed import arms

HEADS, HEAD_DIM, TOKENS, LENGTHS = 16, 128, 16384, (1024, 2048, 4096, 8192, 16384)
TINY = 2, 16, 128, (64, 128)
# TFLOP/s on an H100 at T = 16 k: Triton's forward (FlashAttention-3's figures, Shah et al. 2024, arXiv 2407.08608), FlashAttention-2's both ways.
BARS = {"forward": 378, "both": 328}


def sizes(check: bool) -> tuple[int, int, int, tuple[int, ...]]:
    return TINY if check else (HEADS, HEAD_DIM, TOKENS, LENGTHS)


def sides(check: bool = False) -> dict[str, arms.Arm]:
    points = tuple(map(str, sizes(check)[3]))
    found = {"ours": ("our kernel", "jax"), "cudnn": ("cuDNN by jax.nn.dot_product_attention", "jax"), "torch": ("PyTorch SDPA", "torch")}
    return {name: arms.Arm(label, needs, points) for name, (label, needs) in found.items()}


def flops(batch: int, length: int, heads: int, head_dim: int, backward: bool) -> float:
    """Of causal attention, whose two products meet half of all pairs: 4·B·H·T²·K/2 forward; backward has five products, 3.5 times as many for both."""
    return 4 * batch * heads * length**2 * head_dim / 2 * (3.5 if backward else 1)


def figures(arm: str, point: str, check: bool) -> arms.Figures:
    """Seconds forward, and forward and backward; for JAX's arms the largest difference from exact attention at the shortest length too."""
    heads, head_dim, tokens, lengths = sizes(check)
    length = int(point)
    shape = tokens // length, length, heads, head_dim
    return in_torch(shape, check) if arm == "torch" else in_jax(arm, shape, length == lengths[0], check)


def in_jax(arm: str, shape: tuple[int, ...], compare: bool, check: bool) -> arms.Figures:
    import jax
    import jax.numpy as jnp

    from effllm import kernels, ops

    q, k, v, d_o = (jax.random.normal(key, shape, jnp.bfloat16) for key in jax.random.split(jax.random.key(0), 4))

    def attend(q, k, v):
        if arm == "cudnn":
            return jax.nn.dot_product_attention(q, k, v, is_causal=True, implementation="cudnn")
        return kernels.attention(q, k, v, implementation="interpret_gpu" if check else "pallas")

    def pulled(q, k, v, d_o):
        out, pull = jax.vjp(attend, q, k, v)
        return out, pull(d_o)

    forward, both = jax.jit(attend), jax.jit(pulled)
    found = {
        "forward": arms.per_call(lambda: forward(q, k, v), jax.block_until_ready), "both": arms.per_call(lambda: both(q, k, v, d_o), jax.block_until_ready),
    }  # fmt: skip
    if compare:
        with jax.default_matmul_precision("highest"):
            exact = ops.attention(*(a.astype(jnp.float32) for a in (q, k, v)), implementation="xla")
        found["difference"] = float(jnp.abs(forward(q, k, v) - exact).max())
    return found


def in_torch(shape: tuple[int, ...], check: bool) -> arms.Figures:
    import torch
    from torch.nn import functional as F

    device = "cpu" if check else "cuda"
    batch, length, heads, head_dim = shape
    q, k, v, d_o = (torch.randn(batch, heads, length, head_dim, dtype=torch.bfloat16, device=device) for _ in range(4))
    inputs = [a.requires_grad_() for a in (q, k, v)]

    def forward():
        with torch.no_grad():
            return F.scaled_dot_product_attention(*inputs, is_causal=True)

    def both():
        return torch.autograd.grad(F.scaled_dot_product_attention(*inputs, is_causal=True), inputs, d_o)

    def wait(_):
        if not check:
            torch.cuda.synchronize()

    return {"forward": arms.per_call(forward, wait), "both": arms.per_call(both, wait)}


def table(results: arms.Figures) -> str:
    """TFLOP/s by length, forward and both ways."""
    known = sides()
    points = list(next(iter(results["arms"].values())))
    heads, head_dim, tokens, _ = sizes(points != list(known["ours"].points))
    lines = [arms.heading(results), ""]
    for what, words in (("forward", "forward"), ("both", "forward and backward")):
        lines += [f"TFLOP/s {words} (ms):", "", f"| | {' | '.join(f'T = {int(p):,}' for p in points)} |", "|---" * (len(points) + 1) + "|"]
        for name, arm in known.items():

            def words_of(found, point):
                work = flops(tokens // int(point), int(point), heads, head_dim, what == "both")
                return f"{work / found[what] / 1e12:.0f} ({1e3 * found[what]:.2f})"

            cells = [arms.cell(results, name, p, lambda found, p=p: words_of(found, p)) for p in points]
            lines.append(f"| {arm.label} | {' | '.join(cells)} |")
        lines += [f"| bar, H100 |{' |' * (len(points) - 1)} {BARS[what]} |", ""]
    for name, arm in known.items():
        gaps = [found["difference"] for found in results["arms"].get(name, {}).values() if "difference" in found]
        lines += [f"Largest difference of {arm.label} from attention in float32 at the shortest length: {gaps[0]:.1e}.", ""] if gaps else []
    return "\n".join([*lines, *arms.reasons(results, known), ""])


if __name__ == "__main__":
    arms.main(Path(__file__).parent, "experiments.speed.flash_attention.run", __doc__, sides, figures, table)
