"""A 350 M-parameter decoder in bfloat16 at 2,048 context, to see what a GPU makes of the training step.

    effllm train configs/gpt_350m.py "data.source=TextFiles(path='corpus/')"

Not run yet: no GPU was at hand. The target is 50 % model FLOPs utilisation on one H100, which result.json and report.html state.
As it stands it reads the embedded corpus, which suffices for speed; give it a corpus of your own to train it for real.
"""

from effllm.config import Experiment
from effllm.data import BPE, Data, Embedded
from effllm.nn import Attention, Block, DecoderLM, SwiGLU
from effllm.train import AdamW, Cosine


def config() -> Experiment:
    return Experiment(
        model=DecoderLM(
            vocab_size=16384, width=1024, depth=24, blocks=(Block(Attention(heads=16), SwiGLU(hidden=2816)),), remat="dots", dtype="bfloat16"
        ),
        data=Data(source=Embedded(), tokenizer=BPE(16384), sequence_length=2048, batch_size=32),
        optimizer=AdamW(learning_rate=3e-4, schedule=Cosine(warmup=100)),
        steps=200,
    )
