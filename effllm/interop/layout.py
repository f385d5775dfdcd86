"""How parameters of ours lie in the tensors of a checkpoint: transposed, or several in one."""

import abc
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Shape = tuple[int, ...]


class Layout(abc.ABC):
    """One tensor of theirs holds one or several parameters of ours (of one layer); join(split(tensor)) is the tensor, byte for byte."""

    @abc.abstractmethod
    def shape(self, ours: Sequence[Shape]) -> Shape:
        """The shape of their tensor, given those of our parameters."""

    @abc.abstractmethod
    def split(self, tensor: np.ndarray, ours: Sequence[Shape]) -> list[np.ndarray]:
        """Our parameters from their tensor; views where they can be."""

    @abc.abstractmethod
    def join(self, arrays: Sequence[np.ndarray]) -> np.ndarray:
        """Their tensor from our parameters."""


@dataclass(frozen=True)
class Same(Layout):
    """One parameter as it is: vectors, embeddings, and kernels that are stored (in, out)."""

    def shape(self, ours):
        return ours[0]

    def split(self, tensor, ours):
        return [tensor]

    def join(self, arrays):
        return arrays[0]


@dataclass(frozen=True)
class Rows(Layout):
    """Outputs first, as torch's Linear stores them: kernels (in, out_i) of one or several projections in one (Σ out_i, in), biases in (Σ out_i,).

    The rows are cut into `groups`, each of which holds its share of every projection in turn: 1 lies q, k and v one after another, the
    number of heads lies them head by head (q₀ k₀ v₀ q₁ …), the number of key/value heads lies each group's queries before its key and value.
    """

    groups: int = 1

    def shape(self, ours):
        return sum(s[-1] for s in ours), *ours[0][:-1]

    def split(self, tensor, ours):
        shares = np.cumsum([s[-1] // self.groups for s in ours])
        grouped = tensor.reshape(self.groups, shares[-1], *tensor.shape[1:])
        return [part.reshape(-1, *tensor.shape[1:]).T for part in np.split(grouped, shares[:-1], axis=1)]

    def join(self, arrays):
        inner = arrays[0].shape[:-1]
        rows = [a.T.reshape(self.groups, -1, *inner) for a in arrays]
        return (rows[0] if len(rows) == 1 else np.concatenate(rows, axis=1)).reshape(-1, *inner)


@dataclass(frozen=True)
class Columns(Rows):
    """The same with inputs first, (in, Σ out_i): the Conv1D of GPT-2."""

    def shape(self, ours):
        return super().shape(ours)[::-1]

    def split(self, tensor, ours):
        return super().split(tensor.T, ours)

    def join(self, arrays):
        return super().join(arrays).T


@dataclass(frozen=True)
class Filter(Rows):
    """Depthwise filters (taps, channels_i), one or several in one (Σ channels_i, 1, taps), as torch's Conv1d stores them."""

    def shape(self, ours):
        channels, taps = super().shape(ours)
        return channels, 1, taps

    def split(self, tensor, ours):
        return super().split(tensor[:, 0], ours)

    def join(self, arrays):
        return super().join(arrays)[:, None]


@dataclass(frozen=True)
class Broadcast(Layout):
    """A vector (D,) stored (1, 1, D)."""

    def shape(self, ours):
        return 1, 1, *ours[0]

    def split(self, tensor, ours):
        return [tensor[0, 0]]

    def join(self, arrays):
        return arrays[0][None, None]


@dataclass(frozen=True)
class Tensor:
    """A tensor of theirs by name, with {} for the layer, and the parameters of ours in it: dotted paths from the top, or from within a block.

    It belongs to a model that has these parameters; a model without a bias has no tensor for it.
    """

    name: str
    paths: tuple[str, ...]
    layout: Layout = Same()


def linear(name: str, *paths: str, layout: Layout = Rows()) -> tuple[Tensor, ...]:
    """name.weight and name.bias, of one `Linear` of ours or of several in one."""
    kernels, biases = (tuple(f"{p}.{kind}" for p in paths) for kind in ("kernel", "bias"))
    return Tensor(f"{name}.weight", kernels, layout), Tensor(f"{name}.bias", biases, layout)


def norm(name: str, path: str) -> tuple[Tensor, ...]:
    """name.weight and name.bias of a norm."""
    return Tensor(f"{name}.weight", (f"{path}.scale",)), Tensor(f"{name}.bias", (f"{path}.bias",))


def embedding(name: str, path: str = "embed") -> tuple[Tensor, ...]:
    """name.weight of a table with a row for each token or position."""
    return (Tensor(f"{name}.weight", (f"{path}.embedding",)),)
