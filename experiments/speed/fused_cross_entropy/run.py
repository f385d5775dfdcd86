"""Cross-entropy of a linear head at 32 k tokens × 128 k vocabulary on a GPU: our kernel beside our chunks by XLA, logits in memory and PyTorch's ways.

    pip install -e '.[gpu]' && python -m experiments.speed.fused_cross_entropy.run     # a stopped run goes on; --peers: see gpu.py
    python -m experiments.speed.fused_cross_entropy.run --check     # tiny, on a CPU in Pallas's interpreter: prints, writes nothing
"""

from pathlib import Path

from experiments.speed import arms

WIDTH, VOCAB, TOKENS = 2048, 131072, (8192, 32768)  # rising: a device's peak does not fall again
TINY_WIDTH, TINY_VOCAB, TINY = 32, 256, (64,)
IMPLEMENTATIONS = {"pallas": "our kernel", "xla": "our chunks, XLA", "reference": "logits in memory, XLA"}


def sides(check: bool = False) -> dict[str, arms.Arm]:
    points = tuple(map(str, TINY if check else TOKENS))
    ours = {name: arms.Arm(label, "jax", points) for name, label in IMPLEMENTATIONS.items()}
    peers = {"torch": arms.Arm("logits in memory, PyTorch", "torch", points), "fla": arms.Arm("flash-linear-attention's fused loss", "fla", points)}
    return ours | peers


def figures(arm: str, point: str, check: bool) -> arms.Figures:
    """Seconds of a loss and its gradients, and the bytes that it takes beyond its arguments and results, and the device's peak."""
    width, vocab = (TINY_WIDTH, TINY_VOCAB) if check else (WIDTH, VOCAB)
    shape = int(point), width, vocab
    return in_jax(arm, shape, check) if arm in IMPLEMENTATIONS else in_torch(arm, shape, check)


def in_jax(arm: str, shape: tuple[int, int, int], check: bool) -> arms.Figures:
    import jax
    import jax.numpy as jnp

    from effllm import kernels

    tokens, width, vocab = shape
    keys = jax.random.split(jax.random.key(0), 3)
    x_nd, w_dv = jax.random.normal(keys[0], (tokens, width), jnp.bfloat16), jax.random.normal(keys[1], (width, vocab)) / width**0.5
    rest = jax.random.randint(keys[2], (tokens,), 0, vocab), jnp.full((tokens,), 1 / tokens)
    implementation = "interpret_gpu" if check and arm == "pallas" else arm

    def loss(x_nd, w_dv):
        return kernels.linear_cross_entropy(x_nd, w_dv, *rest, implementation=implementation)[0]

    step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1))).lower(x_nd, w_dv).compile()
    found = {"loss": float(step(x_nd, w_dv)[0]), "temporary_bytes": step.memory_analysis().temp_size_in_bytes}
    stats = jax.local_devices()[0].memory_stats() or {}  # of one call: queued ones would hold several results
    found |= {"peak_bytes": stats["peak_bytes_in_use"]} if "peak_bytes_in_use" in stats else {}
    return found | {"seconds": arms.per_call(lambda: step(x_nd, w_dv), jax.block_until_ready)}


def in_torch(arm: str, shape: tuple[int, int, int], check: bool) -> arms.Figures:
    import torch
    from torch.nn import functional as F

    device = "cpu" if check else "cuda"
    tokens, width, vocab = shape
    x_nd = torch.randn(tokens, width, dtype=torch.bfloat16, device=device, requires_grad=True)
    w_vd = (torch.randn(vocab, width, device=device) / width**0.5).requires_grad_()
    labels_n = torch.randint(vocab, (tokens,), device=device)

    def step():
        if arm == "fla":
            from fla.modules.fused_linear_cross_entropy import fused_linear_cross_entropy_loss

            loss = fused_linear_cross_entropy_loss(x_nd, labels_n, w_vd.to(x_nd.dtype))
        else:
            loss = F.cross_entropy(F.linear(x_nd, w_vd.to(x_nd.dtype)).float(), labels_n)
        return loss, *torch.autograd.grad(loss, (x_nd, w_vd))

    def wait(_):
        if not check:
            torch.cuda.synchronize()

    if check:
        return {"seconds": arms.per_call(step, wait)}
    held = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    results = step()
    wait(results)
    peak = torch.cuda.max_memory_allocated()
    temporary = peak - held - sum(a.nbytes for a in results)
    del results
    return {"seconds": arms.per_call(step, wait), "temporary_bytes": temporary, "peak_bytes": peak}


def table(results: arms.Figures) -> str:
    """Time and memory by number of tokens, and the kernel beside logits in memory."""
    points = list(next(iter(results["arms"].values())))

    def words(found):
        memory = [f"{found[name] / 2**30:.2f}" for name in ("temporary_bytes", "peak_bytes") if name in found]
        return " / ".join([f"{1e3 * found['seconds']:.1f} ms", *memory])

    lines = [arms.heading(results), "", "Time of loss and gradients / GiB beyond arguments and results / GiB at the device's peak:", ""]
    lines += [f"| | {' | '.join(f'{int(p):,} tokens' for p in points)} |", "|---" * (len(points) + 1) + "|"]
    lines += [f"| {arm.label} | {' | '.join(arms.cell(results, name, p, words) for p in points)} |" for name, arm in sides().items()]
    lines += [f"| our kernel beside logits in memory, XLA (bar: 8× less memory, no slower) | {' | '.join(beside(results, p) for p in points)} |", ""]
    return "\n".join([*lines, *arms.reasons(results, sides()), ""])


def beside(results: arms.Figures, point: str) -> str:
    """The kernel's memory and speed as multiples of those of logits in memory; the peak where the device counts it."""
    ours, theirs = (results["arms"].get(name, {}).get(point) for name in ("pallas", "reference"))
    if not (arms.measured(ours) and arms.measured(theirs)):
        return "not run"
    memory = "peak_bytes" if "peak_bytes" in ours and "peak_bytes" in theirs else "temporary_bytes"
    return f"{theirs[memory] / max(1, ours[memory]):.1f}× less memory, {theirs['seconds'] / ours['seconds']:.2f}× as fast"


if __name__ == "__main__":
    arms.main(Path(__file__).parent, "experiments.speed.fused_cross_entropy.run", __doc__, sides, figures, table)
