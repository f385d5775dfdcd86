"""All that waits for a GPU, in order: kernels compiled against their ops, then every benchmark of them. Each writes its results.json after every point, so that
the same command goes on after a stop; in half an hour what matters most has run.

    pip install -e '.[gpu,test]' torch flash-linear-attention && python -m experiments.speed.gpu --minutes 30     # --peers PYTHON: where PyTorch lies
"""

import argparse
import os
import signal
import subprocess
import sys
import time

BENCHMARKS = "compiled_kernels", "flash_attention", "fused_cross_entropy", "gpt_350m", "linear_kernels"


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
