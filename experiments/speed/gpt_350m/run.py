"""A whole training step of 350 M-parameter models in bfloat16 at 2,048 context on a GPU: ours by implementation beside PyTorch with torch.compile and
flash-linear-attention's models, in tokens/s and model FLOPs utilisation.

    pip install -e '.[gpu]' && python -m experiments.speed.gpt_350m.run     # a stopped run goes on; --peers: see gpu.py
    python -m experiments.speed.gpt_350m.run --check     # tiny, on a CPU in Pallas's interpreter: prints, writes nothing
"""

from pathlib import Path

from experiments.speed import arms
from experiments.speed.train_step import peer

SHAPE = peer.Shape(batch=32, length=2048, vocab=16384, width=1024, depth=24, heads=16, hidden=2816)  # configs/gpt_350m.py
TINY = peer.Shape(batch=2, length=32, vocab=256, width=32, depth=2, heads=2, hidden=48)
MODELS = "Attention", "GatedLinearAttention", "GatedDeltaNet", "Mamba2"
ROUNDS = 5


def sides(check: bool = False) -> dict[str, arms.Arm]:
    return {
        "pallas": arms.Arm("effllm, Pallas kernels", "jax", MODELS), "xla": arms.Arm("effllm, XLA", "jax", MODELS),
        "torch": arms.Arm("PyTorch, torch.compile", "torch", MODELS[:1]), "fla": arms.Arm("flash-linear-attention's models", "fla", MODELS[1:]),
    }  # fmt: skip


def figures(arm: str, point: str, check: bool) -> arms.Figures:
    """Tokens/s and parameters; ours has the model's FLOPs a token too, and the utilisation where the device's peak is known."""
    shape = TINY if check else SHAPE
    if arm in ("torch", "fla"):
        return in_torch(point, shape, check)
    return in_jax(point, {"pallas": "interpret_gpu" if check else "pallas", "xla": None}[arm], shape)


def decoder(name: str, shape: peer.Shape, implementation: str | None):
    """The model whose mixer has this name: as many heads as flash-linear-attention's has; Mamba-2 stands without feed-forward blocks, in twice the depth."""
    from effllm import nn

    mixer = {
        "Attention": lambda: nn.Attention(heads=shape.heads, implementation=implementation),
        "GatedLinearAttention": lambda: nn.GatedLinearAttention(heads=max(1, shape.width // 256), implementation=implementation),
        "GatedDeltaNet": lambda: nn.GatedDeltaNet(heads=max(1, shape.width // 128), implementation=implementation),
        "Mamba2": lambda: nn.Mamba2(heads=max(1, shape.width // 32), state=128, implementation=implementation),
    }[name]()
    block, depth = (nn.Block(mixer, ffn=None), 2 * shape.depth) if name == "Mamba2" else (nn.Block(mixer, nn.SwiGLU(hidden=shape.hidden)), shape.depth)
    return nn.DecoderLM(vocab_size=shape.vocab, width=shape.width, depth=depth, blocks=(block,), remat="dots", dtype="bfloat16")


def in_jax(name: str, implementation: str | None, shape: peer.Shape) -> arms.Figures:
    import jax

    from effllm.config import Experiment, assemble
    from effllm.data import Data
    from effllm.evaluate import Cost, utilisation
    from effllm.nn import NextToken

    model = decoder(name, shape, implementation)
    data, objective = Data(sequence_length=shape.length, batch_size=shape.batch), NextToken(implementation=implementation)
    program = assemble(Experiment(model=model, data=data, objective=objective, steps=1000), jax.devices()[:1])
    state, batch = program.init(), program.place(peer.batch(shape))
    cost = Cost.of(model, state.params, shape.length)

    def step():
        nonlocal state
        state, metrics = program.step(state, batch)
        return metrics

    seconds = arms.per_call(step, jax.block_until_ready, ROUNDS, least=1.0)
    speed = shape.batch * shape.length / seconds
    mfu, _ = utilisation(speed, cost.training_flops, 1, jax.devices()[0].device_kind, "bfloat16")
    found = {"tokens_per_second": speed, "parameters": cost.parameters, "training_flops": cost.training_flops, "mfu": mfu}
    stats = jax.local_devices()[0].memory_stats() or {}
    return found | ({"peak_bytes": stats["peak_bytes_in_use"]} if "peak_bytes_in_use" in stats else {})


def in_torch(name: str, shape: peer.Shape, check: bool) -> arms.Figures:
    import torch
    from torch.nn import functional as F

    device = "cpu" if check else "cuda"
    data = {key: torch.from_numpy(array.copy()).long().to(device) for key, array in peer.batch(shape).items() if key in ("tokens", "targets")}
    model = (peer.decoder(shape) if name == "Attention" else in_fla(name, shape)).to(device)

    def loss():
        with torch.autocast(device, torch.bfloat16):
            if name != "Attention":
                return model(input_ids=data["tokens"], labels=data["tokens"], use_cache=False).loss
            return F.cross_entropy(model(data["tokens"]).view(-1, shape.vocab).float(), data["targets"].reshape(-1))

    if name == "Attention" and not check:  # the check proves the script; whether PyTorch can compile for this CPU is another matter
        loss = torch.compile(loss)

    def wait(_):
        if not check:
            torch.cuda.synchronize()

    step = peer.update(model, loss, peer.optimizer(model, fused=not check))
    speed = shape.batch * shape.length / arms.per_call(step, wait, ROUNDS, least=1.0)
    found = {"tokens_per_second": speed, "parameters": sum(p.numel() for p in model.parameters())}
    return found if check else found | {"peak_bytes": torch.cuda.max_memory_allocated()}


def in_fla(name: str, shape: peer.Shape):
    """flash-linear-attention's model of the same mixer and sizes; its Mamba-2 has kernels only where mamba_ssm is installed."""
    from fla import models

    if name == "Mamba2":
        import mamba_ssm  # noqa: F401

    same = {"hidden_size": shape.width, "vocab_size": shape.vocab}
    blocks = same | {"num_hidden_layers": shape.depth, "intermediate_size": shape.hidden}
    config = {
        "GatedLinearAttention": lambda: models.GLAConfig(**blocks, num_heads=shape.width // 256),
        "GatedDeltaNet": lambda: models.GatedDeltaNetConfig(**blocks, num_heads=shape.width // 128, head_dim=128, expand_v=1.0),
        "Mamba2": lambda: models.Mamba2Config(**same, num_hidden_layers=2 * shape.depth, head_dim=64, state_size=128),
    }[name]()  # fmt: skip
    made = {"GatedLinearAttention": "GLAForCausalLM", "GatedDeltaNet": "GatedDeltaNetForCausalLM", "Mamba2": "Mamba2ForCausalLM"}[name]
    return getattr(models, made)(config)


def table(results: arms.Figures) -> str:
    """Thousand tokens/s, utilisation and parameters by model, and ours beside its peers."""
    known = sides()

    def words(point, found):
        parts = [f"{found['tokens_per_second'] / 1e3:,.0f} k", *([f"{share:.0%}"] if (share := utilised(results, point, found)) else [])]
        return f"{', '.join(parts)} ({found['parameters'] / 1e6:.0f} M)"

    lines = [arms.heading(results), "", "Tokens/s, model FLOPs utilisation (parameters):", "", f"| | {' | '.join(MODELS)} |", "|---" * (len(MODELS) + 1) + "|"]
    for name, arm in known.items():
        cells = [arms.cell(results, name, p, lambda found, p=p: words(p, found)) for p in MODELS]
        lines.append(f"| {arm.label} | {' | '.join(cells)} |")
    lines.append(f"| the quicker of ours beside its peer (bar 1.0) | {' | '.join(beside(results, p) for p in MODELS)} |")
    return "\n".join([*lines, "", *arms.reasons(results, known), ""])


def utilised(results: arms.Figures, point: str, found: arms.Figures) -> float | None:
    """Utilisation by our model's FLOPs, which count for a peer of the same model too; None where the device's peak is not known or ours has not run."""
    ours = [results["arms"].get(name, {}).get(point) for name in ("pallas", "xla")]
    return next((f["mfu"] * found["tokens_per_second"] / f["tokens_per_second"] for f in ours if arms.measured(f) and f["mfu"]), None)


def beside(results: arms.Figures, point: str) -> str:
    """How many times as fast the quicker of ours is as its peer."""
    speeds = {name: found[point]["tokens_per_second"] for name, found in results["arms"].items() if arms.measured(found.get(point))}
    ours, theirs = ([speeds[name] for name in names if name in speeds] for names in (("pallas", "xla"), ("torch", "fla")))
    return f"{max(ours) / max(theirs):.2f}×" if ours and theirs else "not run"


if __name__ == "__main__":
    arms.main(Path(__file__).parent, "experiments.speed.gpt_350m.run", __doc__, sides, figures, table)
