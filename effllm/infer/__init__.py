"""Inference (survey §7): generation."""

from effllm.infer.generate import generate, pad_prompts
from effllm.infer.sampler import Sampler

__all__ = ["Sampler", "generate", "pad_prompts"]
