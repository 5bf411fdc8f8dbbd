"""Sensitivity samples and losses."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._pytree import tree_leaves, tree_map_only

from graphprune.errors import InputError, LossError, is_out_of_memory
from graphprune.example import Example


@dataclass(frozen=True)
class Batch:
    """Inputs and target of some samples.

    Attributes:
        inputs: As the model takes them.
        target: What the loss compares the output with; None for the model's own prediction.
        size: Number of samples.
        like: The example inputs, which tell what is batched.
    """

    inputs: Example
    target: Any
    size: int
    like: Example | None = None

    def rows(self, start: int, stop: int) -> Batch:
        """Some of the samples."""

        def cut(tensor: Tensor) -> Tensor:
            return tensor[start:stop] if tensor.dim() > 0 and tensor.shape[0] == self.size else tensor

        inputs = self.inputs.rows(start, stop, self.like)
        return Batch(inputs, tree_map_only(Tensor, cut, self.target), stop - start, self.like)

    def parts(self, size: int) -> Iterator[Batch]:
        """As few batches of at most so many samples as there can be, all about as large."""
        count = -(-self.size // size)
        edges = [self.size * index // count for index in range(count + 1)]
        for start, stop in pairwise(edges):
            yield self.rows(start, stop)


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

    def __getstate__(self) -> dict[str, Any]:
        """Without its place in the data, which the iterator of a data loader cannot take elsewhere."""
        return vars(self) | {"_iterator": None}

    def draw(self, samples: int, device: torch.device) -> Iterator[Batch]:
        """Batches of together ``samples`` samples, or one pass over data that has fewer; without data the example once.

        Raises:
            InputError: the data is empty or used up, or holds something else than pairs of inputs and target.
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
        """Where the last round stopped, or the start."""
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
    """What a user's data gives, on a device.

    Args:
        item: Inputs and target.
        device: Where they go.
        what: The argument that the data is given as.

    Raises:
        InputError: it is no pair of inputs and target, or holds no samples.
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


def cross_entropy(output: Any, target: Any) -> Tensor:
    """Mean cross-entropy of logits ``(N, K, ...)``; against the model's own prediction where there is no target.

    Targets of -100 do not count, as in torch; where none counts the loss is 0.

    Raises:
        LossError: the output is no tensor of logits, or a target is no class of it.
    """
    if not isinstance(output, Tensor):
        raise LossError(
            f"the model's output is {describe(output)}, not a tensor; pass loss=lambda output, target: ... to say "
            "which part of it matters"
        )
    if output.dim() < 2 or output.shape[1] < 2:
        raise LossError(
            f"the model's output has shape {tuple(output.shape)}; cross-entropy needs (N, classes, ...). Pass loss= "
            "for another task"
        )
    if target is None:
        target = output.detach().argmax(dim=1)
    if isinstance(target, Tensor) and target.dtype == torch.long and target.numel():
        _check_classes(target, output.shape[1])
        if bool((target == _IGNORED).all()):
            return output.sum() * 0.0  # such samples say nothing; their mean would be NaN
    return functional.cross_entropy(output, target)


_IGNORED = -100
"""Target that `torch.nn.functional.cross_entropy` leaves out."""


def _check_classes(target: Tensor, classes: int) -> None:
    """Before the loss does: on CUDA it would end the process's use of the device."""
    wrong = ((target < 0) | (target >= classes)) & (target != _IGNORED)
    if bool(wrong.any()):
        raise LossError(
            f"target {int(target[wrong][0])} is not a class: the model's output has {classes}, so targets are 0 to "
            f"{classes - 1}. Check the labels, or the model's last layer"
        )


def describe(value: Any) -> str:
    """What a value is, for a message: shape and type of tensors, for what is no tensor how many it has."""
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} of {value.dtype}"
    leaves = [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]
    return f"{type(value).__name__} of {len(leaves)} tensors" if leaves else type(value).__name__


def evaluate_loss(loss: Callable[[Any, Any], Any], module: nn.Module, batch: Batch) -> Tensor:
    """The loss of a batch, checked.

    Raises:
        InputError: the model cannot take the batch.
        LossError: the loss cannot be computed, is no scalar tensor, or is not finite.
    """
    output = _run(module, batch)
    value = _loss_of(loss, output, batch.target)
    if not isinstance(value, Tensor) or value.numel() != 1:
        found = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise LossError(f"the loss must be a scalar tensor, the mean over the batch; got {found}")
    if not bool(torch.isfinite(value)):
        raise LossError(
            f"the loss of a batch of {batch.size} samples is {float(value.detach())}; check the data for NaN or inf, "
            "and the model's weights"
        )
    return value.reshape(())


def _run(module: nn.Module, batch: Batch) -> Any:
    try:
        return batch.inputs.given_to(module)
    except Exception as error:  # any op may refuse, in its own way
        if is_out_of_memory(error):
            raise
        shapes = ", ".join(f"{tuple(tensor.shape)} of {tensor.dtype}" for tensor in batch.inputs.tensors())
        raise InputError(
            f"data: the model cannot take a batch with inputs {shapes}: {error}\nGive batches like the example input"
        ) from error


def _loss_of(loss: Callable[[Any, Any], Any], output: Any, target: Any) -> Any:
    try:
        return loss(output, target)
    except Exception as error:  # a user's function
        if isinstance(error, LossError) or is_out_of_memory(error):
            raise
        no_target = "\nWithout data= there is no target; give batches (inputs, target)" if target is None else ""
        raise LossError(
            f"the loss cannot be computed from output {describe(output)} and target {describe(target)}: "
            f"{type(error).__name__}: {error}{no_target}"
        ) from error
