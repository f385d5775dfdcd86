"""A plan's time, money and carbon on a machine, and the best plan when those are what is limited."""

from dataclasses import dataclass

import numpy as np

from effllm import flops
from effllm.scaling.optimal import Plan

SECONDS_PER_HOUR = 3600.0


@dataclass(frozen=True)
class Machine:
    """devices of one kind, each with `peak` FLOP/s of which training uses the share `utilisation`; `price` an hour and device in any currency; `watts` a
    device under load, with the share of the building (PUE) in it; `grid` grams of CO2e per kWh."""

    devices: int
    peak: float
    utilisation: float = 0.4
    price: float = 0.0
    watts: float = 0.0
    grid: float = 480.0

    def __post_init__(self):
        if self.devices < 1 or self.peak <= 0 or not 0 < self.utilisation <= 1:
            raise ValueError(f"a machine needs devices ≥ 1, peak > 0 and 0 < utilisation ≤ 1, got {self}")

    @classmethod
    def of(cls, kind: str, devices: int, dtype: str = "bfloat16", utilisation: float = 0.4, price: float = 0.0, watts: float = 0.0, grid: float = 480.0) -> "Machine":
        """A machine of devices that effllm.flops.PEAKS knows. Raises ValueError naming those it knows."""
        peak = flops.peak(kind, dtype)
        if peak is None:
            raise ValueError(f"no peak known for {kind!r} in {dtype}; known are {', '.join(flops.PEAKS)}: or give peak in FLOP/s")
        return cls(devices, peak, utilisation, price, watts, grid)

    @property
    def speed(self) -> float:
        """FLOP/s of all devices in training."""
        return self.devices * self.peak * self.utilisation

    def seconds(self, compute: np.ndarray) -> np.ndarray:
        """Time that `compute` FLOPs take."""
        return np.asarray(compute) / self.speed

    def money(self, compute: np.ndarray) -> np.ndarray:
        """Their price."""
        return self.seconds(compute) / SECONDS_PER_HOUR * self.devices * self.price

    def carbon(self, compute: np.ndarray) -> np.ndarray:
        """Their grams of CO2e."""
        return self.seconds(compute) * self.devices * self.watts / 3.6e6 * self.grid

    def budget(self, *, seconds: float | None = None, money: float | None = None, carbon: float | None = None) -> float:
        """The FLOPs that all given limits allow: the least of them is what `optimal` then gets. Raises ValueError where nothing limits."""
        limits = [seconds * self.speed] if seconds is not None else []
        for limit, price in ((money, float(self.money(1.0))), (carbon, float(self.carbon(1.0)))):
            if limit is not None:
                if price <= 0:
                    raise ValueError("a limit of money needs the machine's price, a limit of carbon its watts")
                limits.append(limit / price)
        if not limits:
            raise ValueError("give a limit: seconds, money or carbon")
        return min(limits)

    def bill(self, plan: Plan) -> dict[str, np.ndarray]:
        """{"hours", "money", "carbon_grams"} of a plan's training."""
        return {"hours": self.seconds(plan.flops) / SECONDS_PER_HOUR, "money": self.money(plan.flops), "carbon_grams": self.carbon(plan.flops)}
