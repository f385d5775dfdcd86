import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest


def take(batches, count):
    with batches:
        return list(itertools.islice(batches, count))


def same(left, right):
    return all(np.array_equal(left[name], right[name]) for name in left)


def test_shapes_types_and_content(dataset):
    batch, = take(dataset.train_batches(seed=0, batch_size=4), 1)
    assert {name: (array.shape, array.dtype.name) for name, array in batch.items()} == {
        name: ((4, 16), "float32" if name == "weights" else "int32")
        for name in ("tokens", "targets", "segment_ids", "positions", "weights")}
    inside = batch["weights"][:, :-1] == 1
    assert np.array_equal(batch["tokens"][:, 1:][inside], batch["targets"][:, :-1][inside])


def test_epochs_and_seeds_have_their_own_orders(dataset):
    records = dataset.records("train")
    first = take(dataset.train_batches(seed=1, batch_size=1), 2 * records)
    second = take(dataset.train_batches(seed=2, batch_size=1), records)
    for left, right in ((first[:records], first[records:]), (first[:records], second), (first[records:], second)):
        assert sum(same(a, b) for a, b in zip(left, right)) < records / 4


def test_start_skips(dataset):
    whole = take(dataset.train_batches(seed=5, batch_size=3), 9)
    assert all(map(same, take(dataset.train_batches(seed=5, batch_size=3, start=4), 5), whole[4:]))


def test_state_counts_what_was_delivered(dataset):
    with dataset.train_batches(seed=5, batch_size=3, start=7) as batches:
        assert batches.state()["step"] == 7
        next(batches), next(batches)
        state = json.loads(json.dumps(batches.state()))
    assert state["step"] == dataset.check_state(state, seed=5, batch_size=3) == 9


def own_threads(before):
    """The threads started since `before` that are still there, once they have had time to end."""
    deadline = time.monotonic() + 5
    while (left := set(threading.enumerate()) - before) and time.monotonic() < deadline:
        time.sleep(0.01)
    return left


def test_close_ends_threads(dataset):
    before = set(threading.enumerate())
    batches = dataset.train_batches(seed=0, batch_size=4)
    next(batches)
    assert set(threading.enumerate()) - before
    batches.close()
    batches.close()
    assert not own_threads(before) and list(batches) == []


def test_forgotten_iterator_ends_its_threads(dataset):
    before = set(threading.enumerate())
    next(dataset.train_batches(seed=0, batch_size=4))
    assert not own_threads(before)


ORPHANS = """
import os, signal, subprocess
from effllm.data import Data, TextFiles, prepare

if __name__ == "__main__":
    import sys
    dataset = prepare(Data(source=TextFiles(sys.argv[1]), sequence_length=16, batch_size=4, held_out=0.2, cache=sys.argv[2]))
    batches = dataset.train_batches(seed=0, batch_size=4, workers=1)
    next(batches)
    import multiprocessing
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="looks at processes through /proc")
def test_workers_end_with_a_killed_parent(small, tmp_path):
    script = tmp_path / "orphans.py"
    script.write_text(ORPHANS)
    with (tmp_path / "workers").open("w") as file:
        killed = subprocess.run(
            [sys.executable, str(script), small.source.path, small.cache], stdout=file, stderr=subprocess.DEVNULL, timeout=60,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])})
    workers = [int(pid) for pid in (tmp_path / "workers").read_text().split()]
    assert killed.returncode == -signal.SIGKILL and len(workers) == 1
    deadline = time.monotonic() + 10
    while (left := [pid for pid in workers if alive(pid)]) and time.monotonic() < deadline:
        time.sleep(0.1)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left


def test_held_out_keeps_its_shape_and_pads_the_end(dataset):
    records = dataset.records("held_out")
    size = next(size for size in range(3, records) if records % size)
    batches = list(dataset.held_out_batches(batch_size=size))
    assert len(batches) == records // size + 1 and {batch["tokens"].shape for batch in batches} == {(size, 16)}
    assert sum(batch["weights"].sum() for batch in batches) == dataset.manifest["splits"]["held_out"]["tokens"]
    assert not batches[-1]["segment_ids"][records % size:].any() and not batches[-1]["weights"][records % size:].any()
    last_row = list(dataset.held_out_batches(batch_size=size, rows=range(size - 1, size)))
    assert len(last_row) == len(batches)
    assert all(same(a, {k: v[-1:] for k, v in b.items()}) for a, b in zip(last_row, batches))
    assert len(list(dataset.held_out_batches(batch_size=size, limit=2))) == 2
    assert len(list(dataset.held_out_batches(batch_size=size, limit=10**6))) == len(batches)


@pytest.mark.parametrize("options, complaint", [
    ({"batch_size": 0}, "batch_size=0"), ({"rows": range(2, 5)}, "global batch of 4"), ({"rows": range(0)}, "global batch of 4"),
    ({"seed": -1}, "seed=-1"), ({"seed": 1 << 32}, "seed=4294967296"), ({"start": -1}, "start=-1"), ({"workers": -1}, "workers=-1")])
def test_train_batches_refuses(dataset, options, complaint):
    with pytest.raises(ValueError, match=complaint):
        dataset.train_batches(**{"seed": 0, "batch_size": 4, **options})


def test_unknown_split(dataset):
    for ask in (dataset.records, dataset.documents, lambda split: next(dataset.held_out_batches(batch_size=1, split=split))):
        with pytest.raises(ValueError, match="split='test': the data has train and held_out"):
            ask("test")


def test_import_is_cheap():
    heavy = "('jax', 'grain', 'tensorflow_datasets', 'tokenizers', 'array_record', 'absl')"
    program = f"import sys, effllm.data; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.stdout == "[]\n", done.stderr
