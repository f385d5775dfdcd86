"""What a corpus on disk looks like."""

import array
from collections import Counter

import numpy as np

from effllm.data.dedup.bloom import Bloom
from effllm.data.dedup.exact import digest
from effllm.data.filters.words import words
from effllm.data.runner.read import Reading, Skipped, records
from effllm.data.runner.shards import input_files

_SHARES = (0.0, 0.1, 0.5, 0.9, 1.0)


def corpus_stats(source: str, *, reading: Reading = Reading(), progress: bool = False) -> dict:
    """Documents, bytes, words, lines, quantiles of document lengths, and the exact duplicates among them.

    One pass; memory 4 bytes a document for the lengths and a Bloom filter of 36 MB for the duplicates, which counts at most one in a million
    documents wrongly up to ten million documents. Raises what records() raises.
    """
    from tqdm import tqdm

    skipped, total, sizes, seen = Skipped(reading), Counter(), array.array("I"), Bloom(10_000_000)
    files = input_files(source)
    with tqdm(total=sum(file.size for file in files), unit="B", unit_scale=True, desc="stats", disable=not progress) as bar:
        for file in files:
            for record in records(file, reading, skipped):
                text = record.text.encode()
                sizes.append(len(text))
                total.update(bytes=len(text), words=len(words(record.text)), lines=record.text.count("\n") + 1)
                total["duplicates"] += int(seen.add(np.array([digest(text)], np.uint64))[0])
            bar.update(file.size)
    quantile = np.quantile(np.array(sizes or [0]), _SHARES).tolist()
    return {
        "documents": len(sizes), "files": len(files), **{name: total[name] for name in ("bytes", "words", "lines")}, "exact_duplicates": total["duplicates"],
        "unreadable": len(skipped.messages), "document_bytes": {f"{round(100 * share)}%": value for share, value in zip(_SHARES, quantile)},
    }  # fmt: skip
