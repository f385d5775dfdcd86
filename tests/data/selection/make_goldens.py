"""Writes dsir.json: what the authors' library of DSIR computes. Needs `pip install data-selection==1.0.3`.

    python -m tests.data.selection.make_goldens
"""

import json
import tempfile
from pathlib import Path

from tests.data.filters.texts import text

RAW, TARGET, BUCKETS = range(40), range(100, 112), 500


def dsir() -> dict:
    """The counts of one text and the log weights of the raw ones, with the library's smoothing of 0."""
    from data_selection import HashedNgramDSIR
    from data_selection.hashed_ngram_dsir import get_ngram_counts

    with tempfile.TemporaryDirectory() as folder:
        for name, seeds in (("raw", RAW), ("target", TARGET)):
            Path(folder, f"{name}.jsonl").write_text("".join(json.dumps({"text": text(seed)}) + "\n" for seed in seeds))
        library = HashedNgramDSIR([f"{folder}/raw.jsonl"], [f"{folder}/target.jsonl"], cache_dir=f"{folder}/cache", num_buckets=BUCKETS, num_proc=1)
        library.fit_importance_estimator(num_tokens_to_fit="all")
        weights = [float(library.importance_estimator(library.featurizer(text(seed)))) for seed in RAW]
    return {"counts": get_ngram_counts(text(0), num_buckets=BUCKETS).tolist(), "log_weights": [round(weight, 9) for weight in weights]}


if __name__ == "__main__":
    Path(__file__).with_name("dsir.json").write_text(json.dumps(dsir(), separators=(",", ":")) + "\n")
