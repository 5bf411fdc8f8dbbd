"""GraSP: the contribution of a weight to the gradient flow."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from graphprune.costs.pool import full_weights, live_of
from graphprune.criteria.gradients import gradients_of, private_copy
from graphprune.criteria.losses import evaluate_loss
from graphprune.criteria.samples import Batch
from graphprune.criteria.scores import WeightScores
from graphprune.criteria.sensitivity import Sensitivity
from graphprune.criteria.weights.criterion import WEIGHT_CRITERIA
from graphprune.errors import LossError, OptionError, is_out_of_memory
from graphprune.process_state import private_random_state
from graphprune.program.program import Program, device_of

Loss = Callable[[Any, Any], Any]


@dataclass(frozen=True)
class Grasp:
    """w * (H g), with the Hessian H and the gradient g of the mean loss on logits that are divided by T.

    Removing w, a change of -w, changes the gradient flow |g|^2 by 2 S with S = -w * (H g), to first order. If S is
    high, the gradient flow grows when w is removed, so the weights with the highest S are removed first. The importance
    is -S, which may be negative: the least important weights, those with the lowest -S, have the highest S.

    H and g are taken over the live weights of the pool (no biases), on the same samples, in evaluation mode; if weights
    can come back, w of a dead weight is its former value. ``accumulate`` has no effect.

    Source: Wang et al. 2020, Picking Winning Tickets Before Training by Preserving Gradient Flow, with the temperature
        of its code.

    Attributes:
        temperature: T, greater than 0. 1 for outputs that are not a tensor of logits.

    Raises:
        OptionError: the temperature is not a number greater than 0.
    """

    temperature: float = 200.0
    __name__: ClassVar[str] = "grasp"

    def __post_init__(self) -> None:
        if not 0 < self.temperature < float("inf"):
            raise OptionError(f"temperature={self.temperature}: expected a number greater than 0")

    def __call__(self, program: Program, sensitivity: Sensitivity) -> WeightScores:
        """Scores the weights, in two passes over the samples; leaves no trace on the program or the random state.

        Raises:
            InputError: the data is empty or does not fit the model.
            LossError: the loss or a derivative is not finite, an op has no second derivative, or the model's output is
                not a tensor, so that the temperature cannot be applied.
        """
        weights = full_weights(program)
        module = private_copy(program.module)
        own = dict(module.named_parameters())
        wanted = [own[name] for name in weights]
        with private_random_state(sensitivity.seed), _differentiable_twice(module):
            batches = list(sensitivity.stream.draw(sensitivity.samples, device_of(program)))
            loss = _tempered(sensitivity.loss, self.temperature)
            gradient, mean_loss = _mean_gradient(module, wanted, batches, loss)
            gradient = [g * live_of(program, name, g) for name, g in zip(weights, gradient, strict=True)]
            products = _hessian_times(gradient, module, wanted, batches, loss)
        importance = {
            name: weight.double() * product.double()
            for (name, weight), product in zip(weights.items(), products, strict=True)
        }
        return WeightScores(importance, self.__name__, mean_loss, sum(batch.size for batch in batches))


grasp = WEIGHT_CRITERIA.register("grasp")(Grasp())


def _tempered(loss: Loss, temperature: float) -> Loss:
    """Makes a loss that divides the output by a temperature."""

    def tempered(output: Any, target: Any) -> Any:
        if not isinstance(output, Tensor):
            raise LossError(
                f"grasp divides the model's logits by {temperature:g}, but its output is a {type(output).__name__}; "
                "give a model that returns logits, or graphprune.weights.criteria.Grasp(temperature=1)"
            )
        return loss(output / temperature, target)

    return loss if temperature == 1 else tempered


def _zeros(parameters: Sequence[Tensor]) -> list[Tensor]:
    """Zeros to add to, float32 at least, because small terms would be lost in half precision."""
    return [torch.zeros_like(each, dtype=torch.promote_types(each.dtype, torch.float32)) for each in parameters]


def _mean_gradient(
    module: nn.Module, parameters: list[nn.Parameter], batches: Sequence[Batch], loss: Loss
) -> tuple[list[Tensor], float]:
    """The gradient of the mean loss over all samples, and that loss."""
    totals, loss_sum, count = _zeros(parameters), 0.0, sum(batch.size for batch in batches)
    for batch in batches:
        gradients, value = gradients_of(module, parameters, batch, loss)
        _add(totals, gradients, batch.size / count)
        loss_sum += value * batch.size / count
    return totals, loss_sum


def _hessian_times(
    direction: Sequence[Tensor], module: nn.Module, parameters: list[nn.Parameter], batches: Sequence[Batch], loss: Loss
) -> list[Tensor]:
    """The Hessian of the mean loss over all samples, times a fixed direction."""
    totals, count = _zeros(parameters), sum(batch.size for batch in batches)
    for batch in batches:
        with torch.enable_grad():
            value = evaluate_loss(loss, module, batch)
            products = _product(value, direction, parameters)
        if not all(bool(torch.isfinite(product).all()) for product in products if product is not None):
            raise LossError(f"the second derivative of the loss ({float(value.detach())}) is not finite")
        _add(totals, products, batch.size / count)
    return totals


def _product(value: Tensor, direction: Sequence[Tensor], parameters: list[nn.Parameter]) -> tuple[Tensor | None, ...]:
    """The gradient of <gradient, direction>; None for parameters on which that product does not depend."""
    try:
        gradients: tuple[Tensor | None, ...] = torch.autograd.grad(
            value, parameters, create_graph=True, allow_unused=True
        )
        along = [
            (gradient * each).sum()
            for gradient, each in zip(gradients, direction, strict=True)
            if gradient is not None and gradient.requires_grad
        ]
        if not along:  # the loss is linear in the weights
            return (None,) * len(parameters)
        total = torch.stack(along).sum()
        _check_differentiable(total)
        found: tuple[Tensor | None, ...] = torch.autograd.grad(total, parameters, allow_unused=True)
    except RuntimeError as error:  # an op without a second derivative
        if is_out_of_memory(error):
            raise
        raise _once_only(str(error).partition("\n")[0]) from error
    return found


def _check_differentiable(gradient: Tensor) -> None:
    """Refuses an op without a second derivative; torch would silently leave out its part of the result.

    Raises:
        LossError: there is such an op.
    """
    seen, stack = set(), [gradient.grad_fn]
    while stack:
        function = stack.pop()
        if function is None or function in seen:
            continue
        if function.name() in _NOT_DIFFERENTIABLE:
            raise _once_only("an op in it can be differentiated only once")
        seen.add(function)
        stack += [source for source, _ in function.next_functions]


_NOT_DIFFERENTIABLE = {"torch::autograd::NotImplemented", "torch::autograd::Error"}
"""Functions that torch puts in place of a missing second derivative; they raise when they are run."""


def _once_only(why: str) -> LossError:
    return LossError(
        f"grasp needs second derivatives, which the model or the loss does not have: {why}. Use a criterion of first "
        "derivatives, such as 'elasticity'"
    )


def _add(totals: Sequence[Tensor], found: Sequence[Tensor | None], share: float) -> None:
    for total, each in zip(totals, found, strict=True):
        if each is not None:
            total += each.detach() * share


@contextmanager
def _differentiable_twice(module: nn.Module) -> Iterator[None]:
    """Selects kernels that have second derivatives; fused attention and cuDNN's recurrent layers have none."""
    with ExitStack() as stack:
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        if any(isinstance(each, nn.RNNBase) for each in module.modules()):
            stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        yield
