"""Weights in and out: directories of Hugging Face transformers (extra `hf`)."""

from effllm.interop.hf import load, model_of, save

__all__ = ["load", "model_of", "save"]
