"""Every positional scheme trained on L tokens and evaluated on 8 L: held-out loss by place in the text, and where attention goes.

    python -m experiments.length_extrapolation.run          # 35 to 40 minutes on one core beside other work; writes results.json and plot.png

A run that was stopped goes on with the schemes that are missing. At the ALiBi paper's size (WikiText-103, 247 M parameters, L = 512), on accelerators:

    python -m experiments.length_extrapolation.run --texts wikitext103.jsonl --width 1024 --depth 16 --heads 8 --length 512 --rows 72 --steps 50000 --rates 1e-4 3e-4 1e-3
"""

import argparse
import functools
import json
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from flax.core import meta

from effllm import nn, ops
from effllm.data import Embedded, TextFiles
from effllm.train import AdamW, Cosine, gradient, init_state, skip_nonfinite, train_step
from experiments.small_runs import Arrays, begun, packed, rows, shuffled, spread

HERE = Path(__file__).parent
TIMES = 8


def schemes(length: int) -> dict[str, dict[str, Any]]:
    """What differs from the plain model, by name, in training."""
    longest = TIMES * length
    unit = {"embedding_init": nn.Normal(1.0)}  # words as large as sinusoids
    return {
        "none": {},
        "RoPE": {"position": nn.RoPE()},
        "ALiBi": {"position": nn.ALiBi()},
        "T5": {"position": nn.T5Bias()},
        "sinusoidal": {"input_position": nn.Sinusoidal(), **unit},
        "KERPLE log": {"position": nn.KERPLELog()},
        "FIRE": {"position": nn.FIRE(threshold=float(length))},
        "RoPE, randomized": {"position": nn.RoPE(), "resample": nn.RandomizedPositions(longest)},
        "xPos": {"position": nn.XPos()},
        "Transformer-XL": {"position": nn.TransformerXL()},
        "sinusoidal, SHAPE": {"input_position": nn.Sinusoidal(), "resample": nn.SHAPE(longest - length), **unit},
        "Shaw": {"position": nn.Shaw()},
        "dynamic NTK": {"position": nn.DynamicNTK(trained_length=length, stages=3)},
        "Sandwich": {"position": nn.Sandwich()},
        "TISA": {"position": nn.TISA()},
        "KERPLE power": {"position": nn.KERPLEPower()},
        "DeBERTa": {"position": nn.Disentangled()},
        "RoPE, PoSE": {"position": nn.RoPE(), "resample": nn.PoSE(longest)},
        "CAPE": {"input_position": nn.CAPE(), **unit},
        "FLOATER": {"input_position": nn.FLOATER(longest)},
        "complex": {"input_position": nn.ComplexEmbedding()},
        "learned, PoSE": {"input_position": nn.Learned(longest), "resample": nn.PoSE(longest)},
    }


def only_at_evaluation(length: int) -> dict[str, tuple[str, dict[str, Any]]]:
    """name -> (the scheme that it is trained with, what differs in evaluation)."""
    scalings = {
        "PI": nn.PositionInterpolation(float(TIMES)), "NTK-aware": nn.NTKAware(float(TIMES)), "YaRN": nn.YaRN(float(TIMES), trained_length=length),
    }  # fmt: skip
    found = {f"RoPE, then {name}": ("RoPE", {"position": nn.RoPE(scaling=scaling)}) for name, scaling in scalings.items()}
    return found | {"RoPE, then a window of L": ("RoPE", {"position": nn.RoPE(), "window": length}), "none, then a window of L": ("none", {"window": length})}


def model_of(size: argparse.Namespace, *, position: nn.Position = nn.Position(), window: int | None = None, **fields: Any) -> nn.DecoderLM:
    """The decoder of a scheme."""
    block = nn.Block(nn.Attention(heads=size.heads, position=position, window=window), nn.SwiGLU())
    return nn.DecoderLM(vocab_size=256, width=size.width, depth=size.depth, blocks=(block,), **fields)


def trained(model: nn.DecoderLM, data: Arrays, rate: float, size: argparse.Namespace) -> Any:
    """Parameters of all seeds, on a leading axis: one compilation serves them all."""
    tx = skip_nonfinite(AdamW(learning_rate=rate, schedule=Cosine(warmup=20)).tx(size.steps))

    def begin(seed):
        params = meta.unbox(model.init(jax.random.key(seed), jnp.zeros((1, 8), jnp.int32))["params"])
        return init_state(params, tx, jax.random.key(seed))

    state = jax.jit(jax.vmap(begin))(jnp.arange(size.seeds))
    step = jax.jit(jax.vmap(functools.partial(train_step, grad_fn=gradient(functools.partial(nn.NextToken(), model)), tx=tx)), donate_argnums=0)
    streams = [shuffled(data, seed, size.rows) for seed in range(size.seeds)]
    for _ in range(size.steps):
        state, _ = step(state, jax.tree.map(lambda *arrays: np.stack(arrays), *map(next, streams)))
    return state.params


def evaluate(params: Any, test: Arrays, model: nn.DecoderLM) -> tuple[np.ndarray, np.ndarray]:
    """(loss (seeds, T) of each place, mean attention weights (T, T) over seeds, layers, heads and a few rows) on the test rows."""

    def run(params, batch):
        seen, attention = [], ops.attention

        def recording(q_bthk, k_bsgk, v_bsgk, **options):
            # With the unit vectors as values, what attention gives are its weights: of each batch's first row.
            unit_bsgs = jnp.broadcast_to(jnp.eye(k_bsgk.shape[1])[None, :, None], (1, *k_bsgk.shape[1:3], k_bsgk.shape[1]))
            first = {name: value[:1] if isinstance(value, jax.Array) else value for name, value in options.items()}
            seen.append(attention(q_bthk[:1], k_bsgk[:1], unit_bsgs, **first)[0].mean((0, 2)))
            return attention(q_bthk, k_bsgk, v_bsgk, **options)

        positions = jnp.broadcast_to(jnp.arange(batch["tokens"].shape[1]), batch["tokens"].shape)
        x_btd = model.apply({"params": params}, batch["tokens"], positions, None, method="embedded")
        with mock.patch.object(ops, "attention", recording):
            for layer in range(model.depth):
                own = jax.tree.map(lambda stacked: stacked[layer], params["layers"]["blocks_0"])
                x_btd, _ = model.blocks[0].apply({"params": own}, x_btd, positions=positions, segment_ids=None)
        logits_btv = model.apply({"params": params}, model.apply({"params": params}, x_btd, method="normed"), method="logits")
        return -jnp.take_along_axis(jax.nn.log_softmax(logits_btv), batch["targets"][..., None], axis=-1)[..., 0], sum(seen) / len(seen)

    compiled = jax.jit(jax.vmap(run, in_axes=(0, None)))
    losses, weights = zip(*(compiled(params, rows(test, part)) for part in np.split(np.arange(len(test["tokens"])), 8)))
    return np.concatenate(losses, axis=1).mean(axis=1), np.mean(weights, axis=(0, 1))


def by_place(loss_t: np.ndarray) -> list[float]:
    """Mean loss over places [0, L), [L, 2L), [2L, 4L), [4L, 8L)."""
    length = len(loss_t) // TIMES
    return [float(loss_t[start:stop].mean()) for start, stop in ((0, length), (length, 2 * length), (2 * length, 4 * length), (4 * length, 8 * length))]


def by_distance(weights_ts: np.ndarray) -> list[float]:
    """Share of attention of the last half of the queries on the token itself and on distances [1, 2), [2, 4), [4, 8) …"""
    length = len(weights_ts)
    distance_ts = np.arange(length)[:, None] - np.arange(length)
    edges = [0, *(2**n for n in range(length.bit_length()))]
    late = np.arange(length) >= length // 2
    return [float((weights_ts * ((distance_ts >= a) & (distance_ts < b)))[late].sum() / late.sum()) for a, b in zip(edges, edges[1:])]


def texts(path: str | None) -> list[bytes]:
    source = Embedded() if path is None else TextFiles(path)
    return [d.text for d in source.documents() if d.text.isascii()]


def whole_rows(documents: list[bytes], length: int, count: int) -> Arrays:
    """`count` rows that one document fills."""
    data = packed(documents, length)
    return rows(data, np.random.default_rng(1).permutation(np.flatnonzero((data["weights"] == 1).all(axis=1)))[:count])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("length", 64), ("width", 64), ("depth", 2), ("heads", 4), ("rows", 16), ("steps", 400), ("seeds", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--rates", type=float, nargs="+", default=[4e-3, 8e-3, 1.6e-2], help="learning rates, all tried for each scheme (default 4e-3 to 1.6e-2)")
    parser.add_argument("--texts", help="text files in place of the embedded corpus")
    size = parser.parse_args()

    documents = texts(size.texts)
    order = np.random.default_rng(0).permutation(len(documents))
    data = packed([documents[i] for i in order[60:]], size.length)
    test = whole_rows([documents[i] for i in order[:60]], TIMES * size.length, 64)
    results = begun(HERE, vars(size))
    evaluations = only_at_evaluation(size.length)
    for name, fields in schemes(size.length).items():
        if name in results["arms"]:
            continue
        model = model_of(size, **fields)
        runs = {rate: trained(model, data, rate, size) for rate in size.rates}
        # The best rate by the loss within L, the length that all have learned.
        tried = {rate: by_place(evaluate(params, test, model)[0].mean(axis=0))[0] for rate, params in runs.items()}
        best = min(tried, key=tried.get)
        chosen = {"rate": best, "tried": {str(rate): loss for rate, loss in tried.items()}}
        for subject, changes in ({name: fields} | {other: changes for other, (base, changes) in evaluations.items() if base == name}).items():
            loss_st, weights_ts = evaluate(runs[best], test, model_of(size, **changes))
            results["arms"][subject] = {"loss": [spread(place) for place in zip(*map(by_place, loss_st))], "mass": by_distance(weights_ts)} | chosen
            print(f"{subject:28}", *(f"{place['mean']:.3f} ± {place['std']:.3f}" for place in results["arms"][subject]["loss"]), flush=True)
        (HERE / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    print(table(results))
    plot(results)


def table(results: dict[str, Any]) -> str:
    """The README's table."""
    lines = ["| | rate | 0–L | L–2L | 2L–4L | 4L–8L | cost | itself | 1–7 | 8–63 | 64 and more |", "|" + "---|" * 11]
    for name, arm in results["arms"].items():
        loss, mass = arm["loss"], arm["mass"]
        places = " | ".join(f"{place['mean']:.3f} ± {place['std']:.3f}" for place in loss)
        shares = " | ".join(f"{sum(part):.2f}" for part in (mass[:1], mass[1:4], mass[4:7], mass[7:]))
        lines.append(f"| {name} | {arm['rate']:g} | {places} | {loss[-1]['mean'] - loss[0]['mean']:+.3f} | {shares} |")
    return "\n".join(lines)


def plot(results: dict[str, Any]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    families = {
        "absolute": ("none", "none, then a window of L", "sinusoidal", "sinusoidal, SHAPE", "learned, PoSE", "CAPE", "FLOATER", "complex"),
        "rotary": tuple(n for n in results["arms"] if n.startswith("RoPE")) + ("dynamic NTK", "xPos"),
        "fixed or shaped bias": ("ALiBi", "KERPLE log", "KERPLE power", "Sandwich", "FIRE", "TISA"),
        "learned by distance": ("T5", "Shaw", "DeBERTa", "Transformer-XL"),
    }
    length = results["length"]
    fig, axes = plt.subplots(2, 4, figsize=(15, 8.5), layout="constrained", sharey="row")
    for column, (title, names) in enumerate(families.items()):
        for number, name in enumerate(n for n in names if n in results["arms"]):
            arm, color = results["arms"][name], plt.get_cmap("tab10")(number)
            axes[0, column].plot([0, 1, 2, 3], [place["mean"] for place in arm["loss"]], "o-", ms=3, color=color, label=name)
            axes[1, column].plot(range(len(arm["mass"])), np.maximum(arm["mass"], 1e-9), color=color)
        axes[0, column].set(title=title, xticks=[0, 1, 2, 3], xticklabels=["0–L", "L–2L", "2L–4L", "4L–8L"], ylim=(1.6, 3.6))
        axes[1, column].legend(*axes[0, column].get_legend_handles_labels(), frameon=False, fontsize=8, ncol=2, loc="upper center", bbox_to_anchor=(0.5, -0.16))
        axes[1, column].set(yscale="log", ylim=(1e-4, 1), xlabel="distance", xticks=range(0, 10, 2), xticklabels=["0", "2", "8", "32", "128"])
        axes[1, column].axvline(1 + np.log2(length), color="#999999", lw=0.8, ls=":")
    axes[0, 0].set_ylabel("held-out loss, nats a byte")
    axes[1, 0].set_ylabel("share of attention in [d, 2d)")
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
    fig.savefig(HERE / "plot.png", dpi=110)


if __name__ == "__main__":
    main()
