"""Energy from the machine's own counters."""

from pathlib import Path

RAPL = Path("/sys/class/powercap")
GRID = 480.0  # g CO2e per kWh, about the world's average of 2023; say your own


class Meter:
    """Joules between two readings of RAPL (CPU packages) or NVML (GPUs); `source` is None where the machine has no readable counter."""

    def __init__(self):
        # A laptop also has "psys", the whole machine, in which its package counts a second time.
        self.packages = [p for p in sorted(RAPL.glob("intel-rapl:?")) if _text(p / "name") != "psys" and _text(p / "energy_uj")]
        self.gpus = _nvml_devices()
        self.source = " + ".join(n for n, found in (("RAPL", self.packages), ("NVML", self.gpus)) if found) or None

    def read(self) -> list[float]:
        """Joules on each counter."""
        return [int((p / "energy_uj").read_text()) / 1e6 for p in self.packages] + [_gpu_joules(gpu) for gpu in self.gpus]

    def since(self, before: list[float]) -> float:
        """Joules spent since a `read`; a counter that wrapped around meanwhile counts by its range."""
        spent = 0.0
        wraps = [int((p / "max_energy_range_uj").read_text()) / 1e6 for p in self.packages] + [0.0] * len(self.gpus)
        for old, new, wrap in zip(before, self.read(), wraps, strict=True):
            spent += new - old if new >= old else new - old + wrap
        return spent


def carbon(joules: float, grams_per_kwh: float = GRID) -> float:
    """Grams of CO2e of that energy on a grid of `grams_per_kwh`."""
    return joules / 3.6e6 * grams_per_kwh


def _text(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None


def _gpu_joules(gpu) -> float:
    import pynvml

    return pynvml.nvmlDeviceGetTotalEnergyConsumption(gpu) / 1e3


def _nvml_devices() -> list:
    try:
        import pynvml

        pynvml.nvmlInit()
    except (ImportError, OSError):
        return []
    except pynvml.NVMLError:
        return []
    return [gpu for gpu in map(pynvml.nvmlDeviceGetHandleByIndex, range(pynvml.nvmlDeviceGetCount())) if _counts(gpu)]


def _counts(gpu) -> bool:
    """Whether a GPU counts its energy: none before Volta does, nor a part of one."""
    import pynvml

    try:
        _gpu_joules(gpu)
    except pynvml.NVMLError:
        return False
    return True
