"""Writes peers.json: what datasketch and datatrove compute. Needs `pip install "datasketch==2.0.0" "datatrove==0.10.1" spacy regex "xxhash<4"`.

    python -m tests.data.dedup.make_goldens
"""

import contextlib
import hashlib
import io
import json
import tempfile
from pathlib import Path

import numpy as np

from tests.data.dedup.texts import near_duplicates

COUNT = 150


def sets() -> list[np.ndarray]:
    """Some sets of 32-bit hashes."""
    random = np.random.RandomState(0)
    return [random.randint(0, 1 << 32, size, np.uint32) for size in (1, 3, 100, 5000)]


def sha1_shingles(text: str, n: int = 5) -> list[int]:
    """64-bit SHA-1 hashes of the word n-grams of a text in plain words."""
    words = text.split()
    grams = (" ".join(words[i : i + n]) for i in range(len(words) - n + 1))
    return [int.from_bytes(hashlib.sha1(gram.encode()).digest()[:8], "little") for gram in grams]


def datasketch() -> dict:
    from datasketch import MinHash, MinHashLSH

    signatures = []
    for values in sets():
        sketch = MinHash(num_perm=16, seed=1, hashfunc=int)
        sketch.update_batch(values.tolist())
        signatures.append(sketch.hashvalues.tolist())
    bands = []
    for count, threshold in ((128, 0.8), (128, 0.5), (112, 0.8), (64, 0.9), (16, 0.7)):
        index = MinHashLSH(threshold=threshold, num_perm=count)
        bands.append([count, threshold, index.b, index.r])
    return {"signatures": signatures, "bands": bands}


def datatrove() -> dict:
    """Signatures of three texts, and which of COUNT texts its four-stage pipeline keeps and drops, as cluster labels."""
    from datatrove.data import Document
    from datatrove.pipeline.dedup import MinhashDedupCluster, MinhashDedupSignature
    from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupBuckets
    from datatrove.utils.hashing import HashConfig

    config = MinhashConfig(hash_config=HashConfig(precision=64, hash_fc="sha1"))
    texts = near_duplicates(COUNT)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        sign = MinhashDedupSignature(f"{folder}/signatures", config=config)
        signatures = [sign.get_signature(sign.get_shingles(text)) for text in texts[:3]]
        sign.run((Document(text=text, id=str(i)) for i, text in enumerate(texts)), rank=0, world_size=1)
        for rank in range(config.num_buckets):
            MinhashDedupBuckets(f"{folder}/signatures", f"{folder}/buckets", config=config).run(None, rank, config.num_buckets)
        MinhashDedupCluster(f"{folder}/buckets", f"{folder}/remove", config=config).run(None, 0, 1)
        removed = np.frombuffer(Path(folder, "remove", "000000.remove").read_bytes(), "<u4").tolist()
    return {"signatures": signatures, "removed": removed}


if __name__ == "__main__":
    Path(__file__).with_name("peers.json").write_text(json.dumps({"datasketch": datasketch(), "datatrove": datatrove()}, separators=(",", ":")) + "\n")
