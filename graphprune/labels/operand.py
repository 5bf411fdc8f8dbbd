"""A tensor as op rules and rewriting see it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from graphprune.labels.planes import Planes, channel_planes, varying


@dataclass(slots=True, unsafe_hash=True)
class Operand:
    """A tensor as a rule sees it: its shape and its planes (none: nothing of it can be removed).

    ``also_labelled`` holds dims that can shrink through planes that the rule treats separately; ``constant`` is the
    value of a tensor that depends on neither parameters nor inputs. An operand is never changed; the class is not a
    frozen dataclass, because there are thousands of operands, and frozen ones take four times as long to make.
    """

    shape: tuple[int, ...]
    planes: Planes = ()
    also_labelled: frozenset[int] = frozenset()
    constant: Tensor | None = field(default=None, repr=False, compare=False)
    dtype: torch.dtype = field(default=torch.float32, repr=False, compare=False)

    @property
    def is_differentiable(self) -> bool:
        """Whether the tensor can have a gradient; positions (integers) and masks (booleans) cannot."""
        return self.dtype.is_floating_point or self.dtype.is_complex

    @property
    def labelled_dims(self) -> frozenset[int]:
        """Dims along which something can be removed."""
        return self.also_labelled.union(*map(varying, channel_planes(self.planes)))

    def stiff_dims(self, rank: int) -> Iterable[int]:
        """Dims with a size above 1 and without labels, numbered as in a result with ``rank`` dims."""
        offset, labelled = rank - len(self.shape), self.labelled_dims
        return (offset + dim for dim, size in enumerate(self.shape) if size > 1 and dim not in labelled)

    def mapped(self, shape: Sequence[int], change: Callable[[Tensor], Tensor]) -> Operand:
        """The operand after a change of layout to ``shape``; ``change`` maps one plane."""
        return Operand(tuple(shape), tuple(change(plane) for plane in self.planes))


def operand_of(tensor: Tensor) -> Operand:
    """Shape and planes of a labelled or plain tensor."""
    return Operand(tuple(tensor.shape), planes_of(tensor))


def planes_of(tensor: Tensor) -> Planes:
    """Planes of a labelled tensor; none for a plain one."""
    planes: Planes = getattr(tensor, "planes", ())
    return planes


def tensors_in(argument: Any) -> list[Tensor]:
    """The tensors of an argument: ATen ops take them alone or in lists."""
    if isinstance(argument, Tensor):
        return [argument]
    if isinstance(argument, (list, tuple)):
        return [entry for entry in argument if isinstance(entry, Tensor)]
    return []
