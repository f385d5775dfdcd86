"""One training step of effllm beside the equal PyTorch eager model, on the same cores in one run.

    pip install -e . torch && python -m experiments.speed.train_step.run
"""

import argparse
import datetime
import json
from pathlib import Path

from experiments.speed import measure

BATCH, LENGTH, VOCAB, WIDTH, DEPTH, HEADS, HIDDEN = 16, 256, 256, 256, 4, 4, 688
ROUNDS, STEPS = 5, 12


def ours() -> dict[str, float]:
    """Seconds a step of the program that `effllm train` runs."""
    import jax

    from effllm.config import Experiment, assemble
    from effllm.data import Data
    from effllm.nn import Attention, Block, DecoderLM, SwiGLU

    blocks = (Block(Attention(heads=HEADS), SwiGLU(hidden=HIDDEN)),)
    model = DecoderLM(vocab_size=VOCAB, width=WIDTH, depth=DEPTH, blocks=blocks, unroll=DEPTH)
    program = assemble(Experiment(model=model, data=Data(sequence_length=LENGTH, batch_size=BATCH), steps=1000))
    state = program.init()
    batch = program.place(_batch())

    def step():
        nonlocal state
        state, metrics = program.step(state, batch)
        jax.block_until_ready(metrics)

    times = measure.seconds(step, STEPS)
    return {"seconds": sorted(times)[STEPS // 2], "parameters": sum(a.size for a in jax.tree.leaves(state.params))}


def _batch():
    import numpy as np

    tokens = np.random.default_rng(0).integers(1, VOCAB, (BATCH, LENGTH + 1)).astype(np.int32)
    return {
        "tokens": tokens[:, :-1],
        "targets": tokens[:, 1:],
        "segment_ids": np.ones((BATCH, LENGTH), np.int32),
        "positions": np.broadcast_to(np.arange(LENGTH, dtype=np.int32), (BATCH, LENGTH)),
        "weights": np.ones((BATCH, LENGTH), np.float32),
    }


def torch() -> dict[str, float]:
    """Seconds a step of the same decoder written in plain PyTorch: fused SDPA, its own cross-entropy and AdamW."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    torch.manual_seed(0)

    def rotate(x, cos, sin):
        first, second = x.chunk(2, dim=-1)
        return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)

    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.mixer_norm, self.ffn_norm = nn.RMSNorm(WIDTH, eps=1e-6), nn.RMSNorm(WIDTH, eps=1e-6)
            self.qkv, self.output = nn.Linear(WIDTH, 3 * WIDTH, bias=False), nn.Linear(WIDTH, WIDTH, bias=False)
            self.gate, self.up, self.down = nn.Linear(WIDTH, HIDDEN, bias=False), nn.Linear(WIDTH, HIDDEN, bias=False), nn.Linear(HIDDEN, WIDTH, bias=False)

        def forward(self, x, cos, sin):
            q, k, v = self.qkv(self.mixer_norm(x)).view(BATCH, LENGTH, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
            o = F.scaled_dot_product_attention(rotate(q, cos, sin), rotate(k, cos, sin), v, is_causal=True)
            x = x + self.output(o.transpose(1, 2).reshape(BATCH, LENGTH, WIDTH))
            h = self.ffn_norm(x)
            return x + self.down(F.silu(self.gate(h)) * self.up(h))

    class Decoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.layers = nn.Embedding(VOCAB, WIDTH), nn.ModuleList(Layer() for _ in range(DEPTH))
            self.norm, self.head = nn.RMSNorm(WIDTH, eps=1e-6), nn.Linear(WIDTH, VOCAB, bias=False)
            half = WIDTH // HEADS // 2
            angle = torch.arange(LENGTH)[:, None] * 10000.0 ** (-torch.arange(half) / half)
            self.register_buffer("cos", angle.cos())
            self.register_buffer("sin", angle.sin())

        def forward(self, tokens):
            x = self.embed(tokens)
            for layer in self.layers:
                x = layer(x, self.cos, self.sin)
            return self.head(self.norm(x))

    model = Decoder()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)
    batch = {name: torch.from_numpy(array.copy()).long() for name, array in _batch().items() if name in ("tokens", "targets")}

    def step():
        optimizer.zero_grad()
        loss = F.cross_entropy(model(batch["tokens"]).view(-1, VOCAB), batch["targets"].reshape(-1))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss.item()

    times = measure.seconds(step, STEPS)
    return {"seconds": sorted(times)[STEPS // 2], "parameters": sum(p.numel() for p in model.parameters())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arm", choices=("ours", "torch"), help="measure one arm and print JSON")
    arm = parser.parse_args().arm
    if arm:
        print(json.dumps(ours() if arm == "ours" else torch()))
        return
    from effllm.cli.rundir import hardware

    found = measure.rounds("experiments.speed.train_step.run", ("ours", "torch"), ROUNDS)
    speed = {a: BATCH * LENGTH / measure.median(found[a], "seconds") for a in found}
    ratios = [t["seconds"] / o["seconds"] for o, t in zip(found["ours"], found["torch"], strict=True)]
    results = {
        "date": datetime.date.today().isoformat(),
        "hardware": hardware(),
        "versions": measure.versions("effllm", "jax", "flax", "torch"),
        "rounds": found,
        "tokens_per_second": speed,
        "ratio": sorted(ratios)[ROUNDS // 2],
        "ratio_range": [min(ratios), max(ratios)],
    }
    parameters = found["ours"][0]["parameters"]
    rows = [f"| {name} | {1e3 * measure.median(found[a], 'seconds'):.0f} | {speed[a]:,.0f} |" for name, a in (("effllm", "ours"), ("PyTorch eager", "torch"))]
    table = "\n".join([
        f"{results['hardware']}; {', '.join(f'{k} {v}' for k, v in results['versions'].items())}; {results['date']}. {parameters:,} parameters.", "",
        "| | ms a step | tokens/s |", "|---|---|---|", *rows, "",
        f"effllm runs at **{results['ratio']:.2f}×** of PyTorch (median of {ROUNDS} rounds, {min(ratios):.2f} to {max(ratios):.2f}).", "",
    ])  # fmt: skip
    measure.save(Path(__file__).parent, results, table)
    print(table)


if __name__ == "__main__":
    main()
