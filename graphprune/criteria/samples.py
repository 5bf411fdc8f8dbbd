"""Sensitivity samples and losses."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from graphprune.errors import InputError
from graphprune.program.example import Example


@dataclass(frozen=True)
class Batch:
    """Inputs and target of some samples.

    Attributes:
        inputs: Inputs as the model takes them.
        target: What the loss compares the output with; None for the model's own prediction.
        size: Number of samples.
        like: The example inputs, which show the tensors that are batched.
    """

    inputs: Example
    target: Any
    size: int
    like: Example | None = None

    def rows(self, start: int, stop: int) -> Batch:
        """The samples from ``start`` up to, but without, ``stop``."""

        def cut(tensor: Tensor) -> Tensor:
            return tensor[start:stop] if tensor.dim() > 0 and tensor.shape[0] == self.size else tensor

        inputs = self.inputs.rows(start, stop, self.like)
        return Batch(inputs, tree_map_only(Tensor, cut, self.target), stop - start, self.like)

    def parts(self, size: int) -> Iterator[Batch]:
        """Yields the smallest number of batches of at most ``size`` samples, all about equally large."""
        count = -(-self.size // size)
        edges = [self.size * index // count for index in range(count + 1)]
        for start, stop in pairwise(edges):
            yield self.rows(start, stop)


@dataclass
class SampleStream:
    """An endless stream of batches from a user's data: continues where the last round stopped, starts over at the end.

    Attributes:
        source: Batches ``(inputs, target)``; None to use the example, with the model's own prediction as the target.
        example: Example inputs of the model.
    """

    source: Iterable[Any] | None
    example: Example
    _iterator: Iterator[Any] | None = field(default=None, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        """The state without the place in the data, because the iterator of a data loader cannot be pickled."""
        return vars(self) | {"_iterator": None}

    def draw(self, samples: int, device: torch.device) -> Iterator[Batch]:
        """Yields batches with ``samples`` samples in all; all data once if it has fewer; the example once without data.

        Raises:
            InputError: the data is empty or used up, or holds something other than pairs of inputs and target.
        """
        if self.source is None:
            yield Batch(_to(self.example, device), None, self.example.batch_size)
            return
        left, from_the_start = samples, self._iterator is None
        while left > 0:
            item = next(self._opened(), _END)
            if item is _END:
                self._iterator = None
                if from_the_start:
                    break
                from_the_start = True
                continue
            batch = replace(batch_of(item, device), like=self.example)
            batch = batch.rows(0, min(left, batch.size))
            left -= batch.size
            yield batch
        if left == samples:
            raise InputError(
                "data gives no batches: it is empty, or a generator that is used up; give batches (inputs, target)"
            )

    def _opened(self) -> Iterator[Any]:
        """The iterator where the last round stopped, or at the start."""
        if self._iterator is None:
            self._iterator = _iterator(self.source)
        return self._iterator


_END = object()


def _iterator(source: Any) -> Iterator[Any]:
    try:
        return iter(source)
    except TypeError as error:
        kind = type(source).__name__
        raise InputError(f"data: expected an iterable of batches (inputs, target), got {kind}") from error


def _to(example: Example, device: torch.device) -> Example:
    return example.mapped(lambda tensor: tensor.to(device))


def batch_of(item: Any, device: torch.device, what: str = "data") -> Batch:
    """Makes a batch, on a device, of an item of a user's data.

    Args:
        item: Inputs and target.
        device: Device to which they are copied.
        what: Name of the argument that the data is given as, for messages.

    Raises:
        InputError: the item is not a pair of inputs and target, or holds no samples.
    """
    if not isinstance(item, (tuple, list)) or len(item) != 2:
        found = f"{type(item).__name__} of {len(item)}" if isinstance(item, (tuple, list)) else type(item).__name__
        raise InputError(
            f"{what}: expected batches (inputs, target), got {found}; a single batch is given as "
            f"{what}=[(inputs, target)]"
        )
    inputs, target = Example.of(item[0]), item[1]
    if not inputs.tensors():
        raise InputError(f"{what}: a batch has no tensor among its inputs; expected (inputs, target)")
    if inputs.batch_size == 0:
        raise InputError(f"{what}: a batch holds no samples (its dim 0 is 0); leave empty batches out")
    target = tree_map_only(Tensor, lambda tensor: tensor.to(device), target)
    return Batch(_to(inputs, device), target, inputs.batch_size)
