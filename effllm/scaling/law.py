"""What a scaling law is: a frozen dataclass of its parameters that maps columns of runs to a target; or anybody's function."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np

from effllm.scaling.conventions import Cost, SixN
from effllm.scaling.numeric import exp


class Law:
    """Base of all laws. A law is a frozen dataclass whose fields are its parameters, by the paper's symbols; defaults are published values.

    `law(*columns)` takes the columns named in `inputs` and returns `target`, in NumPy float64 for NumPy or Python numbers and as JAX arrays
    (so that grad, vmap and jit apply) for those of JAX. Parameters may be arrays too, and broadcast against the columns.

    cost: what a training token costs a model of N as this law counts it. positive: parameters fitted as logarithms. linear: those in which the
    law is linear once the others are given (they need no grid of starts).
    starts: values of every other parameter whose product is the grid of starts.
    """

    inputs: ClassVar[tuple[str, ...]] = ("params", "tokens")
    target: ClassVar[str] = "loss"
    cost: ClassVar[Cost] = SixN()
    positive: ClassVar[tuple[str, ...]] = ()
    linear: ClassVar[tuple[str, ...]] = ()
    starts: ClassVar[Mapping[str, tuple[float, ...]]] = {}

    def __call__(self, *columns: Any) -> Any:
        raise TypeError(f"{type(self).__name__} does not say its formula: it needs a __call__")

    def values(self) -> dict[str, Any]:
        """The parameters by name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


@dataclass(frozen=True)
class Fitted:
    """A user's own function with fitted parameters; called with its columns like a Law."""

    function: Callable[..., Any]
    parameters: tuple[tuple[str, Any], ...]
    inputs: tuple[str, ...]
    target: str = "loss"

    def __call__(self, *columns):
        return self.function(**dict(zip(self.inputs, columns, strict=True)), **dict(self.parameters))

    def values(self) -> dict[str, Any]:
        """The parameters by name."""
        return dict(self.parameters)


@dataclass(frozen=True)
class Form:
    """A law without values: what the solver needs to know of it. θ holds `names` in order, logarithms for the positive ones."""

    law: Callable[..., Any]
    names: tuple[str, ...]
    inputs: tuple[str, ...]
    target: str
    positive: tuple[str, ...]
    linear: tuple[str, ...]
    starts: tuple[tuple[str, tuple[float, ...]], ...]

    @property
    def label(self) -> str:
        return self.law.__name__

    def predict(self, values: list[Any], columns: list[Any]) -> Any:
        """The target of these columns under parameters in the order of `names`."""
        return self.build(values)(*columns)

    def build(self, values: list[Any]) -> Any:
        """The law with these parameters."""
        if isinstance(self.law, type):
            return self.law(*values)
        return Fitted(self.law, tuple(zip(self.names, values, strict=True)), self.inputs, self.target)

    def natural(self, theta: Any) -> list[Any]:
        """Parameters from θ of shape (..., p), each of shape (...)."""
        return [exp(theta[..., i]) if name in self.positive else theta[..., i] for i, name in enumerate(self.names)]

    def theta(self, values: Mapping[str, Any]) -> np.ndarray:
        """θ (..., p) of parameters by name."""
        arrays = np.broadcast_arrays(*(np.asarray(values[n], float) for n in self.names))
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.stack([np.log(a) if n in self.positive else a for n, a in zip(self.names, arrays, strict=True)], axis=-1)


def form_of(law: Any, starts: Mapping[str, tuple[float, ...]] | None = None) -> Form:
    """The form of a Law class, or of a function `f(columns..., parameters...)` whose parameters are those that `starts` names.

    A function's parameters are fitted as logarithms where all of their starts are positive. Raises ValueError for a function without starts.
    """
    if isinstance(law, type) and issubclass(law, Law):
        names = tuple(f.name for f in fields(law))
        return Form(law, names, law.inputs, law.target, law.positive, law.linear, tuple(law.starts.items()))
    if not starts:
        raise ValueError(f"the law {law.__name__} is a function: give starts={{parameter: (values, ...)}}; its other arguments are columns of the runs")
    arguments = tuple(inspect.signature(law).parameters)
    unknown = sorted(set(starts) - set(arguments))
    if unknown:
        raise ValueError(f"starts names {', '.join(unknown)}, which {law.__name__}({', '.join(arguments)}) does not take")
    positive = tuple(n for n in starts if min(starts[n]) > 0)
    inputs = tuple(a for a in arguments if a not in starts)
    return Form(law, tuple(starts), inputs, "loss", positive, (), tuple((n, tuple(v)) for n, v in starts.items()))
