"""Random, perplexity, DSIR, RHO-LOSS and DoReMi: loss on a target domain at equal tokens and at equal total FLOPs, the scoring charged.

    python -m experiments.selection.run            # about ten minutes on two cores; writes results.json and plot.png
"""

import argparse
import ast
import functools
import json
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from effllm.data import Embedded
from effllm.data.curriculum import mixed_batch
from effllm.data.selection import DSIR, doremi_init, doremi_update, excess, gumbel_topk, prune, rho, top
from effllm.nn import RowLoss
from effllm.train import selecting
from experiments.small_runs import LENGTH, MODEL, ROWS, Arrays, begun, held_out, initial, packed, rows, shuffled, spread, train

HERE = Path(__file__).parent
STEPS, SEEDS, PROXY_STEPS, CANDIDATES, KEEP = 200, (0, 1, 2), 100, 3, 0.3
PROXY = MODEL.clone(width=32)


def domains() -> dict[str, list[bytes]]:
    """Prose (docstrings) and code (source files), both cut to 600 bytes; a sample of prose is the target's, another is held out."""
    prose, code = [], []
    for document in Embedded().documents():
        if document.id.startswith("lib/") and document.text.isascii():
            found = [ast.get_docstring(n) for n in ast.walk(ast.parse(document.text)) if isinstance(n, (ast.Module, ast.ClassDef, ast.FunctionDef))]
            prose += [text[:600].encode() for text in found if text and len(text) > 300]
            code += [document.text[at : at + 600] for at in range(600, min(len(document.text) - 600, 6000), 600)]
    random = np.random.default_rng(0)
    prose, code = ([texts[i] for i in random.permutation(len(texts))] for texts in (prose, code))
    return {"held out": prose[:250], "sample": prose[250:400], "prose": prose[400:900], "code": code[:2800]}


def size(model) -> int:
    """Parameters."""
    return sum(a.size for a in jax.tree.leaves(initial(0, model)))


BIG, SMALL = size(MODEL), size(PROXY)
STEP_FLOPS = 6 * BIG * ROWS * LENGTH


@functools.partial(jax.jit, static_argnames="model")
def row_losses(params, batch, model):
    """(B,) nats a token."""
    return RowLoss()(model, params, batch)


def scored(params, data: Arrays, model) -> np.ndarray:
    """row_losses of all rows, 64 at a time (the last batch is filled up)."""
    count = len(data["tokens"])
    index = np.resize(np.arange(count), -(-count // 64) * 64)
    return np.concatenate([np.asarray(row_losses(params, rows(data, index[at : at + 64]), model)) for at in range(0, len(index), 64)])[:count]


def proxy_of(data: Arrays, seed: int):
    """The small model after PROXY_STEPS on `data`, and what that cost."""
    params, _ = train(shuffled(data, seed), PROXY_STEPS, seed=seed + 100, model=PROXY)
    return params, 6 * SMALL * ROWS * LENGTH * PROXY_STEPS


def perplexity(pool: Arrays, texts: list[bytes], sample: list[bytes], seed: int):
    """The middle share by a proxy trained on a part of the pool, as Marion et al. do."""
    half = rows(pool, np.arange(len(pool["tokens"])) % 2 == 0)
    params, cost = proxy_of(half, seed)
    score = scored(params, pool, PROXY)
    kept = rows(pool, prune(score, KEEP, "middle"))
    return shuffled(kept, seed), None, cost + 2 * SMALL * pool["tokens"].size, 1.0, {}


def dsir(pool: Arrays, texts: list[bytes], sample: list[bytes], seed: int):
    """A draw toward the sample; hashed n-grams cost no FLOPs of a model."""
    weights = DSIR.fit((t.decode() for t in sample), (t.decode() for t in texts)).log_weights(t.decode() for t in texts)
    chosen = np.asarray(gumbel_topk(jax.random.key(seed), jnp.asarray(weights), int(KEEP * len(texts))))
    return shuffled(packed([texts[i] for i in chosen]), seed), None, 0, 1.0, {"prose chosen": float(np.mean(chosen < 500))}


def random(pool: Arrays, texts: list[bytes], sample: list[bytes], seed: int):
    return shuffled(pool, seed), None, 0, 1.0, {}


def rho_loss(pool: Arrays, texts: list[bytes], sample: list[bytes], seed: int):
    """Of three times the rows the third with the highest loss above that of a proxy trained on the sample."""
    params, cost = proxy_of(packed(sample), seed)
    pool = pool | {"irreducible": scored(params, pool, PROXY)}

    def score(params, batch, key):
        return rho(RowLoss()(MODEL, params, batch), batch["irreducible"])

    def wrap(grad_fn):
        return selecting(grad_fn, score, lambda key, s: (top(s, ROWS), None))

    return shuffled(pool, seed, CANDIDATES * ROWS), wrap, cost + 2 * SMALL * pool["tokens"].size, 1 + CANDIDATES / 3, {}


def doremi(pool: Arrays, texts: list[bytes], sample: list[bytes], seed: int):
    """Weights of the two domains by a proxy against a reference of its size; then the real run draws rows by them."""
    parts = [packed(texts[:500]), packed(texts[500:])]
    sizes = tuple(len(part["tokens"]) for part in parts)
    prior = np.array(sizes) / sum(sizes)
    both = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def drawn(weights, start=0) -> Iterator[Arrays]:
        step = start
        while True:
            domain, index = mixed_batch(seed, step, weights, sizes, ROWS)
            yield rows(both, index + np.array([0, sizes[0]])[domain]) | {"domain": domain.astype(np.int32)}
            step += 1

    reference, cost = proxy_of(both, seed)
    from effllm.train import AdamW, Cosine, init_state, skip_nonfinite

    tx = skip_nonfinite(AdamW(learning_rate=4e-3, schedule=Cosine(warmup=20)).tx(PROXY_STEPS))
    losses = jax.jit(lambda params, batch: token_losses(PROXY, params, batch))

    @jax.jit
    def step(state, mix, batch, reference_bt):
        def objective(params):
            loss_bt = token_losses(PROXY, params, batch)
            over_k = excess(jax.lax.stop_gradient(loss_bt), reference_bt, batch["weights"], batch["domain"], mix.excess_k)
            new = doremi_update(mix, over_k)
            mean_b = jnp.sum(loss_bt * batch["weights"], 1) / jnp.maximum(jnp.sum(batch["weights"], 1), 1)
            count_k = jnp.maximum(jax.ops.segment_sum(jnp.ones(ROWS), batch["domain"], 2), 1)
            return jnp.sum(new.alpha_k * jax.ops.segment_sum(mean_b, batch["domain"], 2) / count_k), new

        (_, new), slope = jax.value_and_grad(objective, has_aux=True)(state.params)
        updates, opt_state = tx.update(slope, state.opt_state, state.params)
        return state.replace(params=jax.tree.map(jnp.add, state.params, updates), opt_state=opt_state), new

    state, mix = init_state(initial(seed, PROXY), tx, jax.random.key(seed)), doremi_init(prior)
    for batch in (b for b, _ in zip(drawn(np.array([0.5, 0.5])), range(PROXY_STEPS))):
        state, mix = step(state, mix, batch, losses(reference, batch))
    weights = np.asarray(mix.average_k)
    cost += (6 + 2) * SMALL * ROWS * LENGTH * PROXY_STEPS
    batches = ({k: v for k, v in b.items() if k != "domain"} for b in drawn(weights, start=10_000))
    return batches, None, cost, 1.0, {"weight of prose": float(weights[0]), "share of prose": float(prior[0])}


def token_losses(model, params, batch):
    """(B, T) nats."""
    logits, _ = model.apply({"params": params}, batch["tokens"], positions=batch["positions"], segment_ids=batch["segment_ids"])
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), batch["targets"][..., None], -1)[..., 0]


ARMS = {"random": random, "perplexity": perplexity, "DSIR": dsir, "RHO": rho_loss, "DoReMi": doremi}


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    parts = domains()
    texts = parts["prose"] + parts["code"]
    pool, test = packed(texts), packed(parts["held out"])
    documents = {name: len(found) for name, found in parts.items()}
    results = begun(HERE, {"steps": STEPS, "seeds": list(SEEDS), "documents": documents, "parameters": {"model": BIG, "proxy": SMALL}})
    for arm, make in ((arm, make) for arm, make in ARMS.items() if arm not in results["arms"]):
        equal_tokens, equal_flops, notes = [], [], []
        for seed in SEEDS:
            batches, wrap, overhead, factor, note = make(pool, texts, parts["sample"], seed)
            keep = wrap or (lambda grad_fn: grad_fn)
            params, _ = train(batches, STEPS, seed=seed, wrap=keep)
            equal_tokens.append(held_out(params, test))
            affordable = max(1, int((STEPS * STEP_FLOPS - overhead) / (factor * STEP_FLOPS)))
            if affordable == STEPS:
                equal_flops.append(equal_tokens[-1])
            else:
                params, _ = train(make(pool, texts, parts["sample"], seed)[0], affordable, seed=seed, wrap=keep)
                equal_flops.append(held_out(params, test))
            notes.append(note | {"steps at equal FLOPs": affordable, "FLOPs over random at equal tokens": (overhead + factor * STEPS * STEP_FLOPS) / (STEPS * STEP_FLOPS)})
            print(arm, seed, equal_tokens[-1], equal_flops[-1], notes[-1], flush=True)
        results["arms"][arm] = {"equal tokens": spread(equal_tokens), "equal FLOPs": spread(equal_flops)} | {k: float(np.mean([n[k] for n in notes])) for k in notes[0]}
        (HERE / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    plot(results)


def plot(results: dict) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    fig, axis = plt.subplots(figsize=(6.5, 3.2), layout="constrained")
    for place, (name, color) in enumerate((("equal tokens", "#4878a8"), ("equal FLOPs", "#c06030"))):
        found = [results["arms"][arm][name] for arm in ARMS]
        axis.errorbar(np.arange(len(ARMS)) + 0.16 * (place - 0.5), [f["mean"] for f in found], [f["std"] for f in found], fmt="o", capsize=3, color=color, label=name)
    axis.axhline(results["arms"]["random"]["equal tokens"]["mean"], color="gray", linewidth=0.8)
    axis.set(xticks=np.arange(len(ARMS)), xticklabels=list(ARMS), ylabel="loss on held-out prose, nats a byte")
    axis.legend(frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
    fig.savefig(HERE / "plot.png", dpi=160)


if __name__ == "__main__":
    main()
