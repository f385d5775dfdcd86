from setuptools import find_packages, setup

setup(
    name="effllm",
    version="0.1.0",
    description="The Efficiency Spectrum of Large Language Models (arXiv 2312.00678) as a JAX/Flax research codebase",
    python_requires=">=3.11",
    packages=find_packages(include=["effllm", "effllm.*"]),
    package_data={"effllm.ops": ["tuned.json"]},
    install_requires=[
        "jax>=0.10,<0.13",
        "flax>=0.12,<0.13",
        "optax>=0.2.8",
        "orbax-checkpoint>=0.12,<0.13",
        "grain>=0.2.18",
        "tensorflow-datasets>=4.9.10",
        "importlib_resources",  # tensorflow-datasets needs it and does not say so
        "array_record>=0.8",
        "einops",
        "numpy",
        "scipy",  # effllm.scaling: NNLS, Akima, χ²; jax needs it too
        "matplotlib",
        "click>=8.1",
        "tqdm",
        "tokenizers",  # the BPE that data.tokenizer trains
        "zstandard",  # .zst corpora
        "safetensors",  # weights in and out
    ],
    extras_require={
        "test": ["pytest>=8", "pytest-timeout", "pytest-xdist", "nbclient", "ipykernel", "pyarrow"],
        "gpu": ["jax[cuda12]>=0.10,<0.13", "nvidia-ml-py"],
        "tpu": ["jax[tpu]>=0.10,<0.13"],
        "aot": ["libtpu", "triton"],  # compilers for TPUs and GPUs that are not there
        "hf": ["transformers"],
        "beam": ["apache-beam"],
        "parquet": ["pyarrow"],
    },
    entry_points={"console_scripts": ["effllm=effllm.cli:main"]},
)
