"""The survey "The Efficiency Spectrum of Large Language Models" (arXiv 2312.00678) as a JAX/Flax research codebase."""

__version__ = "0.1.0"
