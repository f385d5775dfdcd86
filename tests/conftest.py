"""Eight simulated devices for every test, and a compilation cache that subprocesses share."""

import os
import tempfile

os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.join(tempfile.gettempdir(), "effllm-test-compilations"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
os.environ["EFFLLM_CACHE"] = tempfile.mkdtemp(prefix="effllm-test-data-")

import jax  # noqa: E402

jax.config.update("jax_default_matmul_precision", "highest")
