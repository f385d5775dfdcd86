"""All that waits for a GPU, in order: benchmarks of kernels, each with its differences from the op, all cases of the kernels' law, then whole models. Each writes its results.json after every point, so that
the same command goes on after a stop; in half an hour what matters most has run.

    pip install -e '.[gpu,test]' && python -m venv peers && peers/bin/pip install torch flash-linear-attention
    python -m experiments.speed.gpu --minutes 30 --peers peers/bin/python     # apart, as JAX and PyTorch may bring CUDA libraries of two versions
"""

import argparse
import os
import signal
import subprocess
import sys
import time

BENCHMARKS = "flash_attention", "linear_kernels", "fused_cross_entropy", "compiled_kernels", "gpt_350m"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30, help="stop after so long; what is not done then is done by the next call")
    parser.add_argument("--peers", default=sys.executable, metavar="PYTHON", help="the Python that has PyTorch and flash-linear-attention")
    options = parser.parse_args()
    end = time.monotonic() + 60 * options.minutes
    codes = [run(name, end - time.monotonic(), "--peers", options.peers) for name in BENCHMARKS]
    raise SystemExit(next((code for code in codes if code), 0))


def run(name: str, seconds: float, *arguments: str) -> int:
    """The exit code of one benchmark, 0 where time has run out: it and all that it started are stopped then."""
    if seconds <= 0:
        print(f"{name}: not run: the time is over; the same command goes on", flush=True)
        return 0
    print(f"== {name}", flush=True)
    process = subprocess.Popen([sys.executable, "-m", f"experiments.speed.{name}.run", *arguments], start_new_session=True)
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        print(f"{name}: stopped: the time is over; the same command goes on", flush=True)
        return 0


if __name__ == "__main__":
    main()
