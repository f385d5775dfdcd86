"""Eight simulated devices for every test, quick compilation rather than quick code, and a compilation cache that subprocesses share."""

import os
import random
import tempfile
from importlib.metadata import version
from pathlib import Path

QUICK = "" if "cuda" in os.environ.get("JAX_PLATFORMS", "") else "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
if QUICK and version("jaxlib").startswith("0.10."):
    QUICK += " --xla_cpu_use_fusion_emitters=false"  # a third of the time to compile; later versions refuse it
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8 {QUICK}"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.join(tempfile.gettempdir(), "effllm-test-compilations"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
os.environ["EFFLLM_CACHE"] = tempfile.mkdtemp(prefix="effllm-test-data-")

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_default_matmul_precision", "highest")

CONFIG = '''
from effllm.config import Experiment
from effllm.data import Data, TextFiles
from effllm.nn import Attention, Block, DecoderLM, SwiGLU
from effllm.shard import MeshShape
from effllm.train import AdamW, Cosine

def config():
    return Experiment(
        model=DecoderLM(vocab_size=256, width=32, depth=2, blocks=(Block(Attention(heads=2), SwiGLU(hidden=32), dropout=0.1),)),
        data=Data(source=TextFiles({corpus!r}), sequence_length=32, batch_size=4, held_out=0.2),
        optimizer=AdamW(learning_rate=3e-3, schedule=Cosine(warmup=2)),
        mesh=MeshShape(data=1),
        {fields}
    )
'''


@pytest.fixture(scope="session")
def tiny_config():
    """Writes corpus/ and config.py into a folder, with more fields of Experiment as given, and returns the folder."""

    def write(directory, **fields):
        words = "the model reads a text and guesses what comes next after every byte of it".split()
        corpus = directory / "corpus"
        corpus.mkdir(parents=True)
        rng = random.Random(0)
        for i in range(40):
            (corpus / f"{i:02d}.txt").write_text(" ".join(rng.choices(words, k=60)) + ".\n")
        text = CONFIG.format(corpus=str(corpus), fields=", ".join(f"{k}={v!r}" for k, v in fields.items()))
        (directory / "config.py").write_text(text)
        return directory

    return write


@pytest.fixture(autouse=True)
def room_for_programs():
    """Forgets compiled programs before the process has as many memory mappings as Linux allows (65,530), where the next compilation would crash."""
    yield
    mappings = Path("/proc/self/maps")
    if mappings.exists() and mappings.read_bytes().count(b"\n") > 30000:
        jax.clear_caches()
