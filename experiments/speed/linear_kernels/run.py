"""The kernels of linear attention, the gated delta rule, the linear recurrence and the selective scan on a GPU: ours by implementation beside
flash-linear-attention's Triton kernels and our flash attention, forward and forward with backward, bfloat16.

    pip install -e '.[gpu]' && python -m experiments.speed.linear_kernels.run     # a stopped run goes on; --peers: see gpu.py
    python -m experiments.speed.linear_kernels.run --check     # tiny, on a CPU in Pallas's interpreter: prints, writes nothing
"""

from collections.abc import Callable
from pathlib import Path

from experiments.speed import arms

BATCH, HEAD_DIM, STATES = 4, 128, 16
SIZES = [(length, heads) for length in (4096, 16384) for heads in (16, 32, 64)]
TINY_BATCH, TINY_DIM, TINY = 1, 16, [(64, 2)]
# By operation: what stands behind it here without Pallas, and whether flash-linear-attention has it.
OPERATIONS = {
    "GLA": ("chunked", True), "scalar decay": ("chunked", True), "gated delta rule": ("chunked", True), "linear recurrence": ("blockwise", True),
    "selective scan": ("chunked", False), "flash attention": (None, False),
}  # fmt: skip


def sides(check: bool = False) -> dict[str, arms.Arm]:
    """The arms, named "operation, implementation"."""
    points = tuple(f"{length}x{heads}" for length, heads in (TINY if check else SIZES))
    found = {}
    for operation, (plain, peer) in OPERATIONS.items():
        for implementation, needs in (("pallas", "jax"), (plain, "jax"), ("fla" if peer else None, "fla")):
            if implementation is not None:
                name = f"{operation}, {implementation}"
                found[name] = arms.Arm(name, needs, points)
    return found


def figures(arm: str, point: str, check: bool) -> arms.Figures:
    """Seconds forward, and forward and backward, for JAX the temporary bytes of the latter, and for our kernels how far they are from the op in float32."""
    operation, implementation = arm.split(", ")
    length, heads = map(int, point.split("x"))
    shape = (TINY_BATCH if check else BATCH), length, heads, (TINY_DIM if check else HEAD_DIM)
    return in_torch(operation, shape) if implementation == "fla" else in_jax(operation, implementation, shape, check)


def in_jax(operation: str, implementation: str, shape: tuple[int, int, int, int], check: bool) -> arms.Figures:
    import jax
    import jax.numpy as jnp

    function, arrays = subject(operation, shape, "interpret_gpu" if check and implementation == "pallas" else implementation)

    def pulled(d_o, *arrays):
        out, pull = jax.vjp(function, *arrays)
        return out, pull(d_o)

    like = jax.eval_shape(function, *arrays)
    d_o = jax.random.normal(jax.random.key(9), like.shape, jnp.float32).astype(like.dtype)
    forward, both = jax.jit(function), jax.jit(pulled).lower(d_o, *arrays).compile()
    found = {
        "forward": arms.per_call(lambda: forward(*arrays), jax.block_until_ready), "both": arms.per_call(lambda: both(d_o, *arrays), jax.block_until_ready),
        "temporary_bytes": both.memory_analysis().temp_size_in_bytes,
    }  # fmt: skip
    return found | ({"difference": difference(operation, shape, check)} if implementation == "pallas" else {})


def difference(operation: str, shape: tuple[int, int, int, int], check: bool) -> float:
    """The greatest difference of our kernel's result or gradients from those of the op in float32, for one row of two heads, over the greatest number of each."""
    import jax
    import jax.numpy as jnp

    _, length, _, dim = shape
    ours, arrays = subject(operation, (1, length, 2, dim), "interpret_gpu" if check else "pallas")
    exact, _ = subject(operation, (1, length, 2, dim), OPERATIONS[operation][0])

    def all_of(function):
        def run(*arrays):
            out, pull = jax.vjp(function, *arrays)
            return out, *pull(jnp.cos(jnp.arange(out.size)).reshape(out.shape).astype(out.dtype))

        return jax.jit(run)

    with jax.default_matmul_precision("highest"):
        wanted = all_of(exact)(*(a.astype(jnp.float32) for a in arrays))
    return max(float(jnp.abs(a - b).max() / jnp.abs(b).max()) for a, b in zip(all_of(ours)(*arrays), wanted, strict=True))


def subject(operation: str, shape: tuple[int, int, int, int], implementation: str) -> tuple[Callable, tuple]:
    """(a function of arrays, those arrays): all that a layer of this shape would give the operation, scaled as layers do."""
    import jax
    import jax.numpy as jnp

    from effllm import kernels

    batch, length, heads, dim = shape
    keys = iter(jax.random.split(jax.random.key(0), 8))

    def normal(*shape, dtype=jnp.bfloat16):
        return jax.random.normal(next(keys), shape, dtype)

    def decay(*shape):
        return jax.nn.log_sigmoid(normal(*shape, dtype=jnp.float32) + 4) / 4

    if operation == "linear recurrence":
        flat = batch, length, heads * dim
        return lambda g, x: kernels.linear_recurrence(jnp.exp(g), x, implementation=implementation)[0], (decay(*flat), normal(*flat))
    if operation == "selective scan":
        flat, small = (batch, length, heads * dim), (batch, length, STATES)
        a_dn = -jnp.broadcast_to(jnp.arange(1.0, STATES + 1), (heads * dim, STATES))
        arrays = normal(*flat), jax.nn.softplus(normal(*flat, dtype=jnp.float32) - 4), a_dn, normal(*small), normal(*small)
        return lambda *arrays: kernels.selective_scan(*arrays, implementation=implementation)[0], arrays
    q, k, v = (normal(*shape) for _ in range(3))
    if operation == "flash attention":
        return lambda *arrays: kernels.attention(*arrays, implementation=implementation), (q, k, v)
    if operation == "gated delta rule":
        k = (k / jnp.linalg.norm(k.astype(jnp.float32), axis=-1, keepdims=True)).astype(k.dtype)
        arrays = q * dim**-0.5, k, v, jax.nn.sigmoid(normal(*shape[:3], dtype=jnp.float32)), decay(*shape[:3])
        return lambda *arrays: kernels.delta_rule(*arrays, implementation=implementation)[0], arrays
    arrays = q * dim**-0.5, k, v, decay(*(shape if operation == "GLA" else shape[:3]))
    return lambda *arrays: kernels.linear_attention(*arrays, implementation=implementation)[0], arrays


def in_torch(operation: str, shape: tuple[int, int, int, int]) -> arms.Figures:
    """flash-linear-attention's training form of the operation on the same shapes and dtypes."""
    import torch
    from fla.ops.gated_delta_rule import chunk_gated_delta_rule
    from fla.ops.gla import chunk_gla
    from fla.ops.hgrn import chunk_hgrn
    from fla.ops.simple_gla import chunk_simple_gla
    from torch.nn import functional as F

    batch, length, heads, dim = shape

    def normal(*shape, dtype=torch.bfloat16):
        return torch.randn(*shape, dtype=dtype, device="cuda")

    def decay(*shape):
        return F.logsigmoid(normal(*shape, dtype=torch.float32) + 4) / 4

    q, k, v = (normal(*shape) for _ in range(3))
    function, arrays = {
        "GLA": lambda: (chunk_gla, (q, k, v, decay(*shape))), "scalar decay": lambda: (chunk_simple_gla, (q, k, v, decay(*shape[:3]))),
        "gated delta rule": lambda: (
            chunk_gated_delta_rule, (q, F.normalize(k.float(), dim=-1).to(k.dtype), v, decay(*shape[:3]), torch.sigmoid(normal(*shape[:3], dtype=torch.float32)))
        ),
        "linear recurrence": lambda: (chunk_hgrn, (normal(batch, length, heads * dim), decay(batch, length, heads * dim))),
    }[operation]()  # fmt: skip
    inputs = [a.detach().requires_grad_() for a in arrays]
    with torch.no_grad():
        d_o = torch.randn_like(function(*inputs)[0])

    def forward():
        with torch.no_grad():
            return function(*inputs)[0]

    def both():
        return torch.autograd.grad(function(*inputs)[0], inputs, d_o)

    return {"forward": arms.per_call(forward, lambda _: torch.cuda.synchronize()), "both": arms.per_call(both, lambda _: torch.cuda.synchronize())}


def table(results: arms.Figures) -> str:
    """Milliseconds forward / forward and backward by shape, and how many times faster ours is than its peers."""
    points = list(next(iter(results["arms"].values())))
    words = [f"T = {int(p.split('x')[0]):,}, {p.split('x')[1]} heads" for p in points]
    lines = [arms.heading(results), "", "Milliseconds forward / forward and backward:", "", f"| | {' | '.join(words)} |", "|---" * (len(points) + 1) + "|"]
    for name in results["arms"]:
        cells = [arms.cell(results, name, p, lambda f: f"{1e3 * f['forward']:.2f} / {1e3 * f['both']:.2f}") for p in points]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    differences = [f["difference"] for points in results["arms"].values() for f in points.values() if arms.measured(f) and "difference" in f]
    lines += ["", f"Our kernels differ from their ops in float32 by at most {max(differences):.1e} of the greatest number."] if differences else []
    lines += ["", "Times as fast as the other, forward and backward (bars: 1.0 of fla; above flash attention at 16,384):", ""]
    lines += [f"| our kernel | beside | {' | '.join(words)} |", "|---" * (len(points) + 2) + "|"]
    for operation, (_, peer) in OPERATIONS.items():
        for other in ([f"{operation}, fla"] if peer else []) + (["flash attention, pallas"] if operation != "flash attention" else []):
            cells = [ratio(results, f"{operation}, pallas", other, p) for p in points]
            lines.append(f"| {operation} | {other} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *arms.reasons(results, sides()), ""])


def ratio(results: arms.Figures, ours: str, other: str, point: str) -> str:
    """How many times as fast `ours` is, or "not run" where either has no figure."""
    pair = [results["arms"].get(name, {}).get(point) for name in (ours, other)]
    return f"{pair[1]['both'] / pair[0]['both']:.2f}×" if all(map(arms.measured, pair)) else "not run"


if __name__ == "__main__":
    arms.main(Path(__file__).parent, "experiments.speed.linear_kernels.run", __doc__, sides, figures, table)
