"""Curriculum (survey §4.3): difficulty × pacing, sequence-length warm-up, length buckets, stages of mixtures. They change only what a step reads."""

from effllm.data.curriculum.buckets import BucketOrder, bucketed, decompose
from effllm.data.curriculum.difficulty import compression, ease_first, length, loss, perplexity, rarity, unigram
from effllm.data.curriculum.lengths import LengthWarmup, shortened
from effllm.data.curriculum.pacing import Competence, Exponential, Linear, Log, Pacing, Root, Step
from effllm.data.curriculum.sampler import CurriculumBatches, paced_batch
from effllm.data.curriculum.stages import Stages, mixed_batch

__all__ = [
    "BucketOrder", "Competence", "CurriculumBatches", "Exponential", "LengthWarmup", "Linear", "Log", "Pacing", "Root", "Stages", "Step", "bucketed",
    "compression", "decompose", "ease_first", "length", "loss", "mixed_batch", "paced_batch", "perplexity", "rarity", "shortened", "unigram",
]
