"""Gradients of the loss with respect to the weights, on a private copy of the program's module."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import redirect_stderr
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from graphprune.criteria.elasticity import ACCUMULATE
from graphprune.criteria.losses import evaluate_loss
from graphprune.criteria.samples import Batch
from graphprune.criteria.sensitivity import Sensitivity
from graphprune.errors import InputError, LossError
from graphprune.program.program import Program
from graphprune.program.surgery import copy_sharing_tensors

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Differentiated:
    """A copy of a program's module whose parameters have gradients.

    Attributes:
        module: The module, in evaluation mode; its parameters use the program's memory, its buffers are its own.
        loss: Mean loss over the samples; None if no data was drawn.
        samples: Number of samples.
    """

    module: fx.GraphModule
    loss: float | None = None
    samples: int = 0


def private_copy(module: fx.GraphModule) -> fx.GraphModule:
    """Makes a copy in evaluation mode, with its own modules, parameter objects and buffers; ties stay ties."""
    copied = copy_sharing_tensors(module)
    fresh: dict[int, Any] = {}
    for submodule in copied.modules():
        for name, parameter in submodule._parameters.items():
            if parameter is not None:
                own = nn.Parameter(parameter.detach(), requires_grad=parameter.is_floating_point())
                setattr(submodule, name, fresh.setdefault(id(parameter), own))  # by setattr, as RNNs also keep a list
        for name, buffer in submodule._buffers.items():
            if buffer is not None:
                submodule._buffers[name] = fresh.setdefault(id(buffer), buffer.detach().clone())
    return copied.eval()


def differentiate(program: Program, sensitivity: Sensitivity, *, squared: bool) -> Differentiated:
    """Runs the loss over the sensitivity samples; the program is not changed.

    Args:
        program: The program.
        sensitivity: Samples and loss.
        squared: Whether ``.grad`` is the mean over samples of the squared gradient of each, the diagonal of the
            empirical Fisher matrix, which takes a backward pass per sample; otherwise it is the gradient of the mean
            loss.

    Raises:
        LossError: the loss or its gradient is not finite, or the loss does not depend on the weights.
    """
    module = private_copy(program.module)
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    sensitivity = replace(sensitivity, accumulate="squared" if squared else "signed", together=1)
    means, loss, count = mean_gradients(module, parameters, sensitivity)
    for parameter, mean in zip(parameters, means, strict=True):
        parameter.grad = mean.to(parameter.dtype)
    return Differentiated(module, loss, count)


def mean_gradients(
    module: nn.Module, parameters: list[nn.Parameter], sensitivity: Sensitivity
) -> tuple[list[Tensor], float, int]:
    """Means over samples of the gradients of a module and of its loss, and the number of samples.

    Args:
        module: The module, in evaluation mode.
        parameters: Parameters of the module with respect to which gradients are taken.
        sensitivity: Samples and loss; how gradients add up, and how many samples share a backward pass. Signed
            gradients are taken for whole batches.

    Raises:
        LossError: the loss or its gradient is not finite, or the loss does not depend on the weights.
    """
    # summed in float32 at least: in half precision thousands of small terms would be lost
    totals = [torch.zeros_like(each, dtype=torch.promote_types(each.dtype, torch.float32)) for each in parameters]
    loss_sum, count = 0.0, 0
    batches: Iterable[Batch] = sensitivity.stream.draw(sensitivity.samples, next(module.parameters()).device)
    for batch in batches if sensitivity.accumulate == "signed" else _in_parts(module, batches, sensitivity):
        gradients, loss = gradients_of(module, parameters, batch, sensitivity.loss)
        for total, gradient in zip(totals, gradients, strict=True):
            if gradient is not None:
                total += ACCUMULATE[sensitivity.accumulate](gradient.to(total)) * batch.size
        loss_sum += loss * batch.size
        count += batch.size
    return [total / count for total in totals], loss_sum / count, count


def _in_parts(module: nn.Module, batches: Iterable[Batch], sensitivity: Sensitivity) -> Iterator[Batch]:
    """Yields batches in parts of `Sensitivity.together` samples, or whole if the model takes no other batch size."""
    size = sensitivity.together
    for index, batch in enumerate(batches):
        if index == 0 and size < batch.size and (reason := _refusal(module, next(batch.parts(size)), sensitivity)):
            size = batch.size
            message = f"gradients add up for {size} samples at a time, for fewer cannot be taken: {reason}"
            if message not in sensitivity.warned:
                sensitivity.warned.add(message)
                log.warning(message)
        yield from batch.parts(size)


def _refusal(module: nn.Module, batch: Batch, sensitivity: Sensitivity) -> str:
    """The reason why the model cannot take a batch; empty if it can."""
    try:
        with torch.no_grad(), redirect_stderr(io.StringIO()):  # torch.fx prints the code that fails there
            evaluate_loss(sensitivity.loss, module, batch)
    except (InputError, LossError) as error:
        return str(error).partition("\n")[0]
    return ""


def gradients_of(
    module: nn.Module, parameters: list[nn.Parameter], batch: Batch, loss: Callable[[Any, Any], Any]
) -> tuple[tuple[Tensor | None, ...], float]:
    """Gradient of a batch's mean loss with respect to each parameter, None if it does not depend on it, and the loss.

    Raises:
        InputError: the model cannot take the batch.
        LossError: the loss or its gradient is not finite, or the loss does not depend on the weights.
    """
    with torch.enable_grad():
        value = evaluate_loss(loss, module, batch)
        if not value.requires_grad:
            raise LossError("the loss has no gradient in the model's weights: it is computed from something else")
        gradients = torch.autograd.grad(value, parameters, allow_unused=True)
    found: tuple[Tensor | None, ...] = gradients
    if not all(bool(torch.isfinite(gradient).all()) for gradient in found if gradient is not None):
        raise LossError(f"the gradient of the loss ({float(value.detach())}) in the weights is not finite")
    return found, float(value.detach())
