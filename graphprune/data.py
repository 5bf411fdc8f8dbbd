"""Sensitivity samples and losses."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._pytree import tree_leaves, tree_map_only

from graphprune.errors import InputError, LossError
from graphprune.program import Example


@dataclass(frozen=True)
class Batch:
    """Inputs and target of some samples.

    Attributes:
        inputs: As the model takes them.
        target: What the loss compares the output with; None for the model's own prediction.
        size: Number of samples.
    """

    inputs: Example
    target: Any
    size: int

    def rows(self, start: int, stop: int) -> Batch:
        """Some of the samples."""

        def cut(tensor: Tensor) -> Tensor:
            return tensor[start:stop] if tensor.dim() > 0 and tensor.shape[0] == self.size else tensor

        return Batch(self.inputs.mapped(cut), tree_map_only(Tensor, cut, self.target), stop - start)


@dataclass
class SampleStream:
    """Endless batches from a user's data: goes on where the last round stopped, starts over when the data ends.

    Attributes:
        source: Batches ``(inputs, target)``; None to use the example against the model's own prediction.
        example: Example inputs of the model.
    """

    source: Iterable[Any] | None
    example: Example
    _iterator: Iterator[Any] | None = field(default=None, repr=False)

    def draw(self, samples: int, device: torch.device) -> Iterator[Batch]:
        """Batches of together exactly ``samples`` samples; without data the example once.

        Raises:
            InputError: the data is empty, or a batch is not a pair.
        """
        if self.source is None:
            yield Batch(_to(self.example, device), None, self.example.batch_size)
            return
        left = samples
        while left > 0:
            batch = _batch(self._next(), device)
            if batch.size > left:
                batch = batch.rows(0, left)
            left -= batch.size
            yield batch

    def _next(self) -> Any:
        assert self.source is not None
        for _ in range(2):
            if self._iterator is None:
                self._iterator = iter(self.source)
            for item in self._iterator:
                return item
            self._iterator = None
        raise InputError("data gives no batches; give an iterable of (inputs, target) that is not exhausted")


def _to(example: Example, device: torch.device) -> Example:
    return example.mapped(lambda tensor: tensor.to(device))


def _batch(item: Any, device: torch.device) -> Batch:
    if not isinstance(item, (tuple, list)) or len(item) != 2:
        raise InputError(f"data: expected batches (inputs, target), got {type(item).__name__}")
    inputs, target = Example.of(item[0]), item[1]
    if not inputs.tensors():
        raise InputError("data: a batch has no tensor among its inputs")
    target = tree_map_only(Tensor, lambda tensor: tensor.to(device), target)
    return Batch(_to(inputs, device), target, inputs.batch_size)


def cross_entropy(output: Any, target: Any) -> Tensor:
    """Mean cross-entropy of logits ``(N, K, ...)``; against the model's own prediction where there is no target.

    Raises:
        LossError: the output is no tensor of logits.
    """
    if not isinstance(output, Tensor):
        raise LossError(
            f"the model's output is {_describe(output)}, not a tensor; pass loss=lambda output, target: ... to say "
            "which part of it matters"
        )
    if output.dim() < 2 or output.shape[1] < 2:
        raise LossError(
            f"the model's output has shape {tuple(output.shape)}; cross-entropy needs (N, classes, ...). Pass loss= for "
            "another task"
        )
    if target is None:
        target = output.detach().argmax(dim=1)
    return functional.cross_entropy(output, target)


def _describe(output: Any) -> str:
    leaves = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
    return f"{type(output).__name__} of {len(leaves)} tensors"


def evaluate_loss(loss: Callable[[Any, Any], Any], module: nn.Module, batch: Batch) -> Tensor:
    """The loss of a batch, checked.

    Raises:
        LossError: not a scalar tensor, or not finite.
    """
    output = module(*batch.inputs.args, **batch.inputs.kwargs)
    value = loss(output, batch.target)
    if not isinstance(value, Tensor) or value.numel() != 1:
        raise LossError(f"the loss must be a scalar tensor, got {value if not isinstance(value, Tensor) else tuple(value.shape)}")
    if not bool(torch.isfinite(value)):
        raise LossError(
            f"the loss of a batch of {batch.size} samples is {float(value.detach())}; check the data for NaN or inf, and the "
            "model's weights"
        )
    return value.reshape(())
