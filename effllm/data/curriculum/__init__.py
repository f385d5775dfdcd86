"""Curriculum (survey §4.3): what each step of a run reads, as values for `data.curriculum` and as the functions below them.

    data.curriculum=SequenceWarmup(minimum=32,steps=200)                  short sequences first
    data.curriculum=Paced(ByRarity(),Competence())                        easy records first; hardest_first=True is the control
    data.curriculum=LengthBuckets(shortest=32,lean="grow")                dataset decomposition
    data.curriculum=Stages(starts=(0.0,0.8),weights=((7,3),(2,8)))        mixtures by stages over data.source=Mixture(sources=(…))
    data.curriculum=Tempered(3.3)    data.curriculum=UniMax(epochs=4)     one mixture by the domains' sizes
    data.curriculum=SequenceWarmup(over=Paced(ByCompression()))           both at once

They change only what a step reads: the order stays a function of (seed, step), and shapes are few. Random layerwise token dropping is a block of the
model: RandomLTD(keep=Ramp()).
"""

from effllm.data.curriculum.buckets import BucketOrder, bucketed, decompose
from effllm.data.curriculum.difficulty import compression, ease_first, length, loss, perplexity, rarity, unigram
from effllm.data.curriculum.length_buckets import LengthBuckets, whole_documents
from effllm.data.curriculum.lengths import LengthWarmup, SequenceWarmup, shortened
from effllm.data.curriculum.mixing import Mixing, Tempered, UniMax
from effllm.data.curriculum.paced import Paced
from effllm.data.curriculum.pacing import Competence, ExponentialPacing, LinearPacing, LogPacing, Pacing, RootPacing, StepPacing
from effllm.data.curriculum.ranking import ByCompression, ByLength, ByPerplexity, ByRarity, ByScores, Ranking
from effllm.data.curriculum.stages import Stages, mixed_batch

__all__ = [
    "BucketOrder", "ByCompression", "ByLength", "ByPerplexity", "ByRarity", "ByScores", "Competence", "ExponentialPacing", "LengthBuckets", "LengthWarmup",
    "LinearPacing", "LogPacing", "Mixing", "Paced", "Pacing", "Ranking", "RootPacing", "SequenceWarmup", "Stages", "StepPacing", "Tempered", "UniMax",
    "bucketed", "compression", "decompose", "ease_first", "length", "loss", "mixed_batch", "perplexity", "rarity", "shortened", "unigram", "whole_documents",
]
