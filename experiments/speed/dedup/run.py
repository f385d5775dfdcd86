"""MinHash deduplication and filters: process CPU time beside datasketch and datatrove, quality beside theory, growth from 5 to 500 MB.

    pip install "datasketch==2.0.0" "datatrove==0.10.1" spacy regex tokenizers "xxhash<4" matplotlib
    OMP_NUM_THREADS=1 python experiments/speed/dedup/run.py            # five minutes on one core; writes results.json and plot.png

The corpus is the source and documentation text that this Python carries (standard library with tests, installed packages).
"""

import argparse
import contextlib
import hashlib
import io
import json
import platform
import random
import re
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np

from effllm.data.dedup import MinHash, jaccard
from effllm.data.filters import C4, FineWeb, GopherQuality, GopherRepetition

HERE = Path(__file__).parent
BYTES, FILTER_BYTES, BANDS, ROWS, NGRAM, THRESHOLD = 52_000_000, 3_000_000, 14, 8, 5, 0.8
SIZES = (5, 16, 50, 160, 500)


def corpus(size: int) -> list[bytes]:
    """Texts of at least 200 and at most 200,000 bytes, in a fixed order, until `size` bytes."""
    texts, held = [], 0
    for path in sorted(Path(sysconfig.get_path("stdlib")).rglob("*")):
        if path.suffix in (".py", ".txt", ".rst", ".md") and path.is_file() and 200 <= path.stat().st_size <= 200_000:
            text = path.read_bytes()
            try:
                text.decode()
            except UnicodeDecodeError:
                continue
            texts.append(text.replace(b"\0", b""))
            held += len(text)
            if held >= size:
                return texts
    raise SystemExit(f"this Python carries only {held / 1e6:.0f} MB of text; {size / 1e6:.0f} MB are needed")


def timed(function: Callable) -> tuple[float, object]:
    """(process CPU seconds, result)."""
    start = time.process_time()
    result = function()
    return time.process_time() - start, result


def datasketch(texts: list[bytes]) -> list[int]:
    """The removed documents: signatures by update_batch of the set of shingles, MinHashLSH with the same bands."""
    from datasketch import MinHash as Sketch
    from datasketch import MinHashLSH

    word = re.compile(rb"[0-9a-z\x80-\xff]+")
    index, removed = MinHashLSH(num_perm=BANDS * ROWS, params=(BANDS, ROWS)), []
    for number, text in enumerate(texts):
        words = word.findall(text.lower())
        grams = {b" ".join(words[i : i + NGRAM]) for i in range(max(len(words) - NGRAM + 1, 1))}
        sketch = Sketch(num_perm=BANDS * ROWS)
        sketch.update_batch(grams)
        if index.query(sketch):
            removed.append(number)
        index.insert(number, sketch)
    return removed


def datatrove(texts: list[bytes]) -> list[int]:
    """The removed documents: its signature, bucket and cluster stages with its default word tokenizer and hashes."""
    from datatrove.data import Document
    from datatrove.pipeline.dedup import MinhashDedupCluster, MinhashDedupSignature
    from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupBuckets

    config = MinhashConfig(n_grams=NGRAM, num_buckets=BANDS, hashes_per_bucket=ROWS)
    with tempfile.TemporaryDirectory() as folder:
        sign = MinhashDedupSignature(f"{folder}/signatures", config=config)
        sign.run((Document(text=text.decode(), id=str(i)) for i, text in enumerate(texts)))
        for rank in range(BANDS):
            MinhashDedupBuckets(f"{folder}/signatures", f"{folder}/buckets", config=config).run(None, rank, BANDS)
        MinhashDedupCluster(f"{folder}/buckets", f"{folder}/remove", config=config).run(None)
        return np.frombuffer(Path(folder, "remove", "000000.remove").read_bytes(), "<u4").tolist()


def filters(texts: list[str]) -> dict:
    """CPU seconds of each filter, ours and datatrove's, both as they come."""
    from datatrove.data import Document
    from datatrove.pipeline.filters import C4QualityFilter, FineWebQualityFilter, GopherQualityFilter, GopherRepetitionFilter
    from datatrove.utils.text import split_into_parts

    peers = (GopherQuality(), GopherQualityFilter()), (GopherRepetition(), GopherRepetitionFilter()), (C4(), C4QualityFilter()), (FineWeb(), FineWebQualityFilter())
    out = {}
    for ours, theirs in peers:
        split_into_parts.cache_clear()
        ours.split.cache_clear() if hasattr(ours, "split") else None
        mine, kept = timed(lambda ours=ours: [ours(text).keep for text in texts])
        peer, peer_kept = timed(lambda theirs=theirs: [theirs.filter(Document(text=text, id="")) is True for text in texts])
        out[type(ours).__name__] = {"effllm": mine, "datatrove": peer, "same verdict": float(np.mean(np.array(kept) == np.array(peer_kept)))}
    return out


def mutated(text: bytes, rate: float, generator: random.Random) -> bytes:
    """The text with each word replaced, with probability `rate`, by another word of it."""
    words = text.split(b" ")
    return b" ".join(generator.choice(words) if generator.random() < rate else word for word in words)


def quality(texts: list[bytes]) -> dict:
    """Recall of pairs with exact Jaccard ≥ 0.8 beside the S-curve's expectation over the same pairs, and precision of candidates, without and with verification.

    Truth is exact: every pair of documents that shares a shingle is compared.
    """
    generator = random.Random(0)
    texts = [t for t in texts if 2000 < len(t) < 20_000][:1200]
    texts += [mutated(text, generator.uniform(0, 0.06), generator) for text in texts]
    hash_s, start_d = MinHash(NGRAM).shingles(texts)
    owner_s = np.repeat(np.arange(len(texts)), np.diff(start_d))
    order = np.argsort(hash_s, kind="stable")
    group = np.split(owner_s[order], np.flatnonzero(np.diff(hash_s[order])) + 1)
    near = {(i, j) for owners in group if 2 <= len(owners) <= 40 for i in owners.tolist() for j in owners.tolist() if i < j}
    pairs = np.array(sorted(near))
    exact = jaccard(hash_s, start_d, pairs)
    truth = {tuple(p) for p in pairs[exact >= THRESHOLD].tolist()}
    every = MinHash(threshold=1e-9)(texts)
    candidates = {tuple(p) for p in every.pair_p2.tolist()}
    verified = {tuple(p) for p in MinHash(threshold=THRESHOLD)(texts).pair_p2.tolist()}
    return {
        "documents": len(texts), "pairs compared exactly": len(pairs), "true pairs": len(truth), "recall": len(truth & verified) / len(truth),
        "recall by theory": float(np.mean(MinHash().recall(exact[exact >= THRESHOLD]))),
        "recall of pairs in [0.8, 0.85)": float(np.mean([tuple(p) in verified for p in pairs[(exact >= 0.8) & (exact < 0.85)].tolist()])),
        "the same by theory": float(np.mean(MinHash().recall(exact[(exact >= 0.8) & (exact < 0.85)]))),
        "precision without verification": len(candidates & truth) / len(candidates), "precision": len(verified & truth) / len(verified),
    }  # fmt: skip


def growing(texts: list[bytes], size: int) -> Iterator[bytes]:
    """The corpus, then near duplicates of it at rates up to 0.3, until `size` bytes."""
    generator, held = random.Random(1), 0
    while True:
        for text in texts:
            yield text if held < BYTES else mutated(text, generator.uniform(0, 0.3), generator)
            held += len(text)
            if held >= size:
                return


def peak_memory(reset: bool = False) -> float:
    """Megabytes that this process has held at most, since the last reset (Linux)."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024


def growth(megabytes: int) -> dict:
    """CPU seconds and peak memory above the texts of deduplicating `megabytes`; run in a process of its own."""
    texts = list(growing(corpus(min(BYTES, megabytes * 1_000_000)), megabytes * 1_000_000))
    before = peak_memory(reset=True)
    seconds, found = timed(lambda: MinHash(threshold=THRESHOLD)(texts))
    return {
        "MB": sum(map(len, texts)) / 1e6, "documents": len(texts), "CPU seconds": seconds, "memory above the texts, MB": peak_memory() - before,
        "removed": int((~found.keep_d).sum()),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("megabytes", type=int, nargs="?", help="measure the growth at one size and print JSON")
    megabytes = parser.parse_args().megabytes
    if megabytes is not None:
        print(json.dumps(growth(megabytes)))
        return
    texts = corpus(BYTES)
    size = sum(map(len, texts))
    results = {
        "corpus": {"MB": size / 1e6, "documents": len(texts), "sha256": hashlib.sha256(b"".join(texts)).hexdigest(), "python": platform.python_version()},
        "versions": {name: version(name) for name in ("numpy", "datasketch", "datatrove", "spacy")},
    }  # fmt: skip
    MinHash()(texts[:50])
    speed = {}
    for name, run in (("effllm", lambda: MinHash(threshold=THRESHOLD)(texts)), ("datasketch", lambda: datasketch(texts)), ("datatrove", lambda: datatrove(texts))):
        with contextlib.redirect_stderr(io.StringIO()):
            seconds, found = timed(run)
        removed = int((~found.keep_d).sum()) if name == "effllm" else len(found)
        speed[name] = {"CPU seconds": seconds, "MB/s": size / 1e6 / seconds, "removed": removed}
        print(name, speed[name], flush=True)
    speed["effllm"]["removed without verification"] = int((~MinHash(threshold=1e-9)(texts).keep_d).sum())
    results["speed"] = speed | {f"ratio to {peer}": speed[peer]["CPU seconds"] / speed["effllm"]["CPU seconds"] for peer in ("datasketch", "datatrove")}
    prose = [text.decode() for text in texts[:: max(1, len(texts) * FILTER_BYTES // size and size // FILTER_BYTES)]]
    results["filters"] = {"MB": sum(len(text.encode()) for text in prose) / 1e6} | filters(prose)
    results["quality"] = quality(texts)
    results["growth"] = [json.loads(subprocess.run([sys.executable, __file__, str(s)], check=True, capture_output=True, text=True).stdout) for s in SIZES]
    (HERE / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    plot(results)


def plot(results: dict) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    names = ["effllm", "datasketch", "datatrove"]
    bars = left.bar(names, [results["speed"][n]["MB/s"] for n in names], color=["#4878a8", "#bbbbbb", "#bbbbbb"])
    left.bar_label(bars, fmt="%.1f")
    left.set(ylabel="MB per CPU second", title="MinHash, 112 permutations, 5-grams", ylim=(0, 1.12 * results["speed"]["effllm"]["MB/s"]))
    points = results["growth"]
    x = [p["MB"] for p in points]
    right.loglog(x, [p["CPU seconds"] for p in points], "o-", color="#4878a8", label="CPU seconds")
    right.loglog(x, [p["memory above the texts, MB"] for p in points], "s--", color="#c06030", label="memory above the texts, MB")
    right.set(xlabel="corpus, MB", title="Growth")
    right.legend(frameon=False)
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
    fig.savefig(HERE / "plot.png", dpi=160)


if __name__ == "__main__":
    main()
