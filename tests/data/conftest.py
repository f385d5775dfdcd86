import numpy as np
import pytest

from effllm.data import Data, TextFiles, prepare


@pytest.fixture(scope="session")
def write_corpus():
    """Writes `documents` files of seeded random words and returns the folder."""

    def write(folder, documents=60, seed=0):
        folder.mkdir(parents=True, exist_ok=True)
        generator = np.random.default_rng(seed)
        words = ["alpha", "béta", "γάμμα", "delta", "epsilon", "zeta", "eta", "theta"]
        for number in range(documents):
            chosen = generator.choice(words, size=generator.integers(1, 40))
            (folder / f"{number:03d}.txt").write_text(" ".join(chosen), encoding="utf-8")
        return folder

    return write


@pytest.fixture
def small(write_corpus, tmp_path):
    """A small configuration over a corpus and a cache of its own."""
    folder = write_corpus(tmp_path / "corpus")
    return Data(source=TextFiles(str(folder)), sequence_length=16, batch_size=4, held_out=0.2, cache=str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def dataset(write_corpus, tmp_path_factory):
    """A prepared data set that tests only read."""
    root = tmp_path_factory.mktemp("prepared")
    folder = write_corpus(root / "corpus")
    return prepare(Data(source=TextFiles(str(folder)), sequence_length=16, batch_size=4, held_out=0.2, cache=str(root / "cache")))
