"""How rotary frequencies stretch to contexts longer than those trained on: f(base, turning channels 2F) -> frequencies (F,), as values for a config."""

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class RoPEScaling:
    """No stretching: frequency i is base^(−2i/2F) radians a position (Su et al. 2021, arXiv 2104.09864)."""

    def frequencies(self, base: float, turning: int) -> np.ndarray:
        """(F,) float64, for `turning` = 2F channels."""
        return base ** (-np.arange(0, turning, 2) / turning)

    @property
    def attention_factor(self) -> float:
        """What queries and keys are multiplied by, each."""
        return 1.0


def _need(name: str, **fields: float) -> None:
    for field, value in fields.items():
        if value <= 0:
            raise ValueError(f"{name}: {field}={value} must be positive")


@dataclass(frozen=True)
class PositionInterpolation(RoPEScaling):
    """Positions divided by `factor`: all frequencies fall alike (Chen et al. 2023, arXiv 2306.15595)."""

    factor: float = 2.0

    def __post_init__(self):
        _need("PositionInterpolation", factor=self.factor)

    def frequencies(self, base, turning):
        return super().frequencies(base, turning) / self.factor


@dataclass(frozen=True)
class NTKAware(RoPEScaling):
    """The base becomes base·factor^(2F/(2F−2)): the lowest frequency falls by `factor`, the highest stays (Peng et al. 2023, arXiv 2309.00071, §3.1)."""

    factor: float = 2.0

    def __post_init__(self):
        _need("NTKAware", factor=self.factor)

    def frequencies(self, base, turning):
        if turning < 4:
            raise ValueError(f"NTKAware needs at least 4 turning channels, got {turning}")
        return super().frequencies(base * self.factor ** (turning / (turning - 2)), turning)


@dataclass(frozen=True)
class YaRN(RoPEScaling):
    """Frequencies that turn often within the trained context stay, those that turn rarely are divided by `factor`, with a ramp between (Peng et al. 2023, arXiv 2309.00071).

    Channel pair i turns r_i = trained_length·frequency_i / 2π times. The ramp runs over the pairs from r = fast to r = slow, rounded
    outwards. Queries and keys are multiplied by 0.1·ln(factor) + 1.
    """

    factor: float = 4.0
    trained_length: int = 2048
    fast: float = 32.0
    slow: float = 1.0

    def __post_init__(self):
        _need("YaRN", factor=self.factor, trained_length=self.trained_length, fast=self.fast, slow=self.slow)

    def frequencies(self, base, turning):
        def pair(turns):
            return turning * math.log(self.trained_length / (turns * 2 * math.pi)) / (2 * math.log(base))

        low, high = max(math.floor(pair(self.fast)), 0), min(math.ceil(pair(self.slow)), turning - 1)
        ramp = np.clip((np.arange(turning // 2) - low) / max(high - low, 1e-3), 0, 1)
        plain = super().frequencies(base, turning)
        return plain * (1 - ramp) + plain / self.factor * ramp

    @property
    def attention_factor(self):
        return 0.1 * math.log(self.factor) + 1 if self.factor > 1 else 1.0


@dataclass(frozen=True)
class Llama3Scaling(RoPEScaling):
    """Wavelengths above trained_length/low are divided by `factor` in frequency, those below trained_length/high stay, between them a blend (Llama 3.1, arXiv 2407.21783)."""

    factor: float = 8.0
    trained_length: int = 8192
    low: float = 1.0
    high: float = 4.0

    def __post_init__(self):
        _need("Llama3Scaling", factor=self.factor, trained_length=self.trained_length, low=self.low)
        if self.high <= self.low:
            raise ValueError(f"Llama3Scaling: high={self.high} must be above low={self.low}")

    def frequencies(self, base, turning):
        plain = super().frequencies(base, turning)
        turns = self.trained_length * plain / (2 * math.pi)
        kept = np.clip((turns - self.low) / (self.high - self.low), 0, 1)
        return plain * kept + plain / self.factor * (1 - kept)


@dataclass(frozen=True)
class LongRoPE(RoPEScaling):
    """Each frequency divided by a factor of its own, found by search for one extended length (Ding et al. 2024, arXiv 2402.13753).

    `factors` has one number a channel pair. Queries and keys are multiplied by sqrt(1 + ln(factor) / ln(trained_length)).
    """

    factors: tuple[float, ...] = (1.0,)
    factor: float = 1.0
    trained_length: int = 2048

    def __post_init__(self):
        _need("LongRoPE", factor=self.factor, trained_length=self.trained_length, factors=min(self.factors, default=0))

    def frequencies(self, base, turning):
        if len(self.factors) not in (1, turning // 2):
            raise ValueError(f"LongRoPE has {len(self.factors)} factors for {turning // 2} turning pairs of channels; give one for each")
        return super().frequencies(base, turning) / np.array(self.factors)

    @property
    def attention_factor(self):
        return math.sqrt(1 + math.log(self.factor) / math.log(self.trained_length)) if self.factor > 1 else 1.0
