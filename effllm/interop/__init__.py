"""Weights in and out: directories of Hugging Face transformers (extra `hf`)."""

from effllm.interop.hf import load, save

__all__ = ["load", "save"]
