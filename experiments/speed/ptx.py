"""What the Triton compiler makes of a program's GPU kernels, on a machine without a GPU.

JAX hands Triton's intermediate representation to XLA, whose own copy of Triton compiles it when the program is built for a GPU. Here the package `triton`
does: another version of the same compiler, so that what fits, spills or is refused here need not be so there to the byte.
"""

import re
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jaxlib.mlir import ir
from jaxlib.triton import dialect

SHARED = {90: 232_448}  # bytes of shared memory that one program may have, by compute capability


class Kernel(NamedTuple):
    """One kernel of a lowered program: its name, Triton's intermediate representation, warps of a program and pipeline stages."""

    name: str
    text: str
    warps: int
    stages: int


class Compiled(NamedTuple):
    """What one program of a kernel takes: bytes of shared memory, registers a thread and bytes of its stack, where it keeps what registers cannot hold;
    instructions for products on tensor cores and by fused multiply-adds; seconds to compile."""

    shared: int
    registers: int
    stack: int
    tensor_core: int
    fma: int
    seconds: float


def kernels(function: Any, *arrays: Any) -> list[Kernel]:
    """The Triton kernels of `function` of these arrays (or their shapes), lowered for CUDA; ValueError for one that Triton's own rules reject."""
    lowered = jax.jit(function).trace(*arrays).lower(lowering_platforms=("cuda",))
    found = []

    def visit(op: Any) -> None:
        for region in op.regions:
            for block in region:
                for inner in block:
                    if inner.operation.name == "stablehlo.custom_call" and "__gpu$xla.gpu.triton" in str(inner.attributes["call_target_name"]):
                        found.append(_kernel(ir.DictAttr(inner.attributes["mhlo.backend_config"])))
                    visit(inner.operation)

    visit(lowered.compiler_ir().operation)
    return found


def _kernel(config: Any) -> Kernel:
    name = ir.StringAttr(config["name"]).value
    with ir.Context() as context:
        context.allow_unregistered_dialects = True  # gpu.barrier
        dialect.register_dialect(context)
        context.load_all_available_dialects()
        try:
            module = ir.Module.parse(ir.StringAttr(config["ir"]).value_bytes)  # which verifies it
        except ir.MLIRError as error:
            raise ValueError(f"kernel {name}: {error}") from error
        text = module.operation.get_asm(enable_debug_info=False)
    return Kernel(name, text, *(ir.IntegerAttr(config[key]).value for key in ("num_warps", "num_stages")))


def compiled(kernel: Kernel, capability: int = 90) -> Compiled:
    """The kernel compiled by the package `triton`; ImportError without that package, its own error where it refuses."""
    import triton
    from triton.backends.compiler import GPUTarget

    with tempfile.TemporaryDirectory() as scratch:
        source, program = Path(scratch, "kernel.ttir"), Path(scratch, "kernel.cubin")
        text = re.sub(r"^module @\S+", "module", kernel.text, flags=re.MULTILINE)
        source.write_text(re.sub(r'"gpu.barrier"\(\)( <.*>)? : \(\) -> \(\)', "gpu.barrier", text))
        with triton.knobs.cache.scope():
            triton.knobs.cache.dir = scratch  # nothing that was compiled before
            start = time.perf_counter()
            built = triton.compile(str(source), target=GPUTarget("cuda", capability, 32), options={"num_warps": kernel.warps, "num_stages": kernel.stages})
            seconds = time.perf_counter() - start
        program.write_bytes(built.asm["cubin"])
        tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
        usage = subprocess.run([tool, "-res-usage", program], capture_output=True, text=True, check=True).stdout
    registers, stack = (int(re.search(rf"{name}:(\d+)", usage)[1]) for name in ("REG", "STACK"))
    counts = (len(re.findall(pattern, built.asm["ptx"])) for pattern in (r"wgmma\.mma_async|mma\.sync", r"fma\.rn\.f32"))
    return Compiled(built.metadata.shared, registers, stack, *counts, seconds)
