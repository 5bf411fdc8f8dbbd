"""Computes and checks the losses of batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._pytree import tree_leaves

from graphprune.criteria.samples import Batch
from graphprune.errors import InputError, LossError, is_out_of_memory
from graphprune.program.example import Example


def cross_entropy(output: Any, target: Any) -> Tensor:
    """Mean cross-entropy of logits ``(N, K, ...)``; without a target, against the model's own prediction.

    Targets of -100 do not count, as in torch; if no target counts, the loss is 0.

    Raises:
        LossError: the output is not a tensor of logits, or a target is not one of its classes.
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
            return output.sum() * 0.0  # no target counts; the mean over none would be NaN
    return functional.cross_entropy(output, target)


_IGNORED = -100
"""Target that `torch.nn.functional.cross_entropy` ignores."""


def _check_classes(target: Tensor, classes: int) -> None:
    """Refuses wrong targets before the loss does, which on CUDA would end the process's use of the device.

    Raises:
        LossError: a target is not a class.
    """
    wrong = ((target < 0) | (target >= classes)) & (target != _IGNORED)
    if bool(wrong.any()):
        raise LossError(
            f"target {int(target[wrong][0])} is not a class: the model's output has {classes}, so targets are 0 to "
            f"{classes - 1}. Check the labels, or the model's last layer"
        )


def describe(value: Any) -> str:
    """Describes a value for a message: shape and dtype of a tensor, type and number of tensors of a container."""
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} of {value.dtype}"
    leaves = [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]
    return f"{type(value).__name__} of {len(leaves)} tensors" if leaves else type(value).__name__


def evaluate_loss(loss: Callable[[Any, Any], Any], module: nn.Module, batch: Batch) -> Tensor:
    """Computes the loss of a batch, and checks it.

    Raises:
        InputError: the model cannot take the batch.
        LossError: the loss cannot be computed, is not a scalar tensor, or is not finite.
    """
    return loss_of_output(loss, run_batch(module, batch), batch)


def loss_of_output(loss: Callable[[Any, Any], Any], output: Any, batch: Batch) -> Tensor:
    """Computes the loss of a batch from the model's output, and checks it.

    Raises:
        LossError: the loss cannot be computed, is not a scalar tensor, or is not finite.
    """
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


def run_batch(module: nn.Module, batch: Batch) -> Any:
    """The output of a model for a batch.

    Raises:
        InputError: the model cannot take the batch.
    """
    try:
        return batch.inputs.given_to(module)
    except Exception as error:  # any op may refuse, in its own way
        if is_out_of_memory(error):
            raise
        raise refused(batch.inputs, str(error)) from error


def refused(inputs: Example, reason: str) -> InputError:
    """The error for inputs that a model cannot take."""
    shapes = ", ".join(f"{tuple(tensor.shape)} of {tensor.dtype}" for tensor in inputs.tensors())
    return InputError(
        f"data: the model cannot take a batch with inputs {shapes}: {reason}\nGive batches like the example input"
    )


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
