"""Training on a corpus with planted duplicates, with and without deduplication, for equally many steps.

    python -m experiments.dedup_matters.run        # about five minutes on two cores; writes results.json and plot.png
"""

import argparse
import functools
import json
import random
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from effllm.data import Embedded
from effllm.data.dedup import MinHash
from experiments.small_runs import LENGTH, MODEL, held_out, packed, shuffled, spread, train

HERE = Path(__file__).parent
STEPS, SEEDS, PLANTED, COPIES, SIZE, SPAN = 600, (0, 1, 2), 10, 80, 500, 32


def pieces() -> list[bytes]:
    """Pieces of SIZE bytes of the library's source, each from another file, so that none is near another."""
    texts = [d.text[1000 : 1000 + SIZE] for d in Embedded().documents() if d.id.startswith("lib/") and len(d.text) > 2000]
    return [t for t in texts if len(t) == SIZE and t.isascii()]


def corpus() -> dict[str, list[bytes]]:
    """Once-seen base texts, planted texts with near copies (1 % of the bytes changed), and held-out texts."""
    generator, texts = random.Random(0), pieces()
    generator.shuffle(texts)
    planted, held, base = texts[:PLANTED], texts[PLANTED : PLANTED + 130], texts[PLANTED + 130 :]

    def copy(text: bytes) -> bytes:
        words = text.split(b" ")
        return b" ".join(generator.choice(words) if generator.random() < 0.01 else w for w in words)

    copies = [copy(text) for text in planted for _ in range(COPIES - 1)]
    everything = base + planted + copies
    generator.shuffle(everything)
    return {"base": base, "planted": planted, "held out": held, "with duplicates": everything}


@functools.partial(jax.jit, static_argnames="model")
def right(params, batch, model):
    """(N, T) whether the likeliest next byte is the next byte."""
    logits, _ = model.apply({"params": params}, batch["tokens"], positions=batch["positions"], segment_ids=batch["segment_ids"])
    return (jnp.argmax(logits, -1) == batch["targets"]) & (batch["weights"] > 0)


def memorised(params, texts: list[bytes]) -> float:
    """The share of SPAN-byte windows, each after at least 64 bytes, that greedy decoding would reproduce exactly from the text before them."""
    cuts = np.stack([np.frombuffer(text[at : at + LENGTH + 1], np.uint8) for text in texts for at in range(0, SIZE - LENGTH - 1, 60)]).astype(np.int32)
    ones = np.ones((len(cuts), LENGTH), np.int32)
    data = {"tokens": cuts[:, :-1], "targets": cuts[:, 1:], "positions": ones.cumsum(1) - 1, "segment_ids": ones, "weights": ones}
    correct = np.concatenate([np.asarray(right(params, {k: v[i : i + 64] for k, v in data.items()}, MODEL)) for i in range(0, len(cuts), 64)])
    return float(np.lib.stride_tricks.sliding_window_view(correct[:, 64:], SPAN, axis=1).all(-1).mean())


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    parts = corpus()
    found = MinHash(threshold=0.5, ngram=3)(parts["with duplicates"])
    parts["deduplicated"] = [t for t, keep in zip(parts["with duplicates"], found.keep_d) if keep]
    left = {text: sum(t == text for t in parts["deduplicated"]) for text in parts["planted"]}
    results = {
        "steps": STEPS, "seeds": list(SEEDS), "documents": {name: len(texts) for name, texts in parts.items()},
        "exact copies of planted texts left": int(sum(left.values())), "arms": {},
    }  # fmt: skip
    test, base = packed(parts["held out"]), packed(parts["base"])
    for arm in ("with duplicates", "deduplicated"):
        runs = []
        for seed in SEEDS:
            params, _ = train(shuffled(packed(parts[arm]), seed), STEPS, seed=seed)
            runs.append({
                "held-out loss": held_out(params, test), "loss on texts seen once": held_out(params, base), "loss on planted texts": held_out(params, packed(parts["planted"] * 2)),
                "memorised, planted": memorised(params, parts["planted"]), "memorised, seen once": memorised(params, parts["base"][:200]),
            })  # fmt: skip
            print(arm, seed, runs[-1], flush=True)
        results["arms"][arm] = {name: spread([run[name] for run in runs]) for name in runs[0]}
    (HERE / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    plot(results)


def plot(results: dict) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(1, 2, figsize=(8.5, 3.2), layout="constrained")
    for axis, names, title in ((axes[0], ("held-out loss", "loss on planted texts"), "nats a byte"), (axes[1], ("memorised, planted", "memorised, seen once"), f"{SPAN}-byte spans reproduced")):
        for place, (arm, found) in enumerate(results["arms"].items()):
            x = np.arange(2) + 0.36 * (place - 0.5)
            axis.bar(x, [found[n]["mean"] for n in names], 0.32, yerr=[found[n]["std"] for n in names], capsize=3, label=arm, color=["#c06030", "#4878a8"][place])
        axis.set(xticks=np.arange(2), xticklabels=[n.replace("memorised, ", "").replace("loss on ", "").replace("held-out loss", "held-out texts") for n in names], title=title)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.1))
    fig.savefig(HERE / "plot.png", dpi=160)


if __name__ == "__main__":
    main()
