"""Elasticity of the loss with respect to each channel, by gates in the graph."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from graphprune.criteria.criterion import CRITERIA
from graphprune.criteria.losses import evaluate_loss
from graphprune.criteria.samples import Batch
from graphprune.criteria.scores import Scores
from graphprune.criteria.sensitivity import Accumulate, Sensitivity
from graphprune.errors import LossError, is_out_of_memory
from graphprune.gates.gating import gated_module
from graphprune.gates.insertion import GatedModule, Gating
from graphprune.process_state import private_random_state
from graphprune.program.program import Program, device_of

ACCUMULATE: dict[Accumulate, Callable[[Tensor], Tensor]] = {
    "signed": lambda gradient: gradient,
    "absolute": torch.abs,
    "squared": torch.square,
}
"""Function of a sample's gradient before it is added up."""


@dataclass(frozen=True)
class Elasticity:
    """|dL/dc| / L for a gate c on the channel's pre-activation.

    Source: formula 4 of the SNIP-it paper for ``accumulate="signed"``: the absolute value of the gradient of the mean
        loss. ``"absolute"`` and ``"squared"`` take the absolute value or the square of each sample's gradient before
        the mean (and the root of the mean of squares), because on a trained model the signed gradients of samples
        cancel. The paper has activations that are zero at zero; after others (sigmoid) the gate acts on the
        activation, see `graphprune.gates.placement`.

    Attributes:
        training: Score with batch statistics and dropout, as in training; by default in evaluation mode.
        before_normalisation: Place gates before normalisations instead of after them, as in the published code. In
            training mode a normalisation by batch statistics undoes them, and no gradient is left.
    """

    training: bool = False
    before_normalisation: bool = False

    def gating(self, sensitivity: Sensitivity) -> Gating:
        """One set of gates for all samples if signed gradients add up, otherwise one for each sample."""
        return Gating(self.before_normalisation, per_sample=sensitivity.accumulate != "signed")

    def __call__(self, program: Program, sensitivity: Sensitivity) -> Scores:
        """Draws the samples and scores the channels; leaves no trace on the program or the random state.

        Raises:
            InputError: the data is empty or does not fit the model.
            LossError: the loss or its gradient is not finite, or the loss is 0.
        """
        gating = self.gating(sensitivity)
        mean, loss, count = mean_gate_gradient(program, sensitivity, gating, training=self.training)
        if loss == 0:
            raise LossError(
                "the mean loss of the sensitivity samples is 0; elasticity is relative to the loss. Give other data, "
                "or data with targets if you gave none"
            )
        importance = mean.sqrt() if sensitivity.accumulate == "squared" else mean.abs()
        return Scores(importance / abs(loss), "elasticity", loss, count)


CRITERIA.register("elasticity")(Elasticity())


def mean_gate_gradient(
    program: Program, sensitivity: Sensitivity, gating: Gating, *, training: bool = False
) -> tuple[Tensor, float, int]:
    """Draws samples and averages their gate gradients; leaves no trace on the program or the random state.

    Args:
        program: The program, with its dependencies, and with its gates if the pass that inserts them has run.
        sensitivity: Data, and how samples add up.
        gating: The gates that are needed.
        training: Score with batch statistics and dropout, as in training.

    Returns:
        Mean over samples of the accumulated gradients of the loss with respect to the gates, float64, on the CPU, shape
        ``(channels,)``; the mean loss; and the number of samples.

    Raises:
        InputError: the data is empty or does not fit the model.
        LossError: the loss or its gradient is not finite.
    """
    gated = program.get(GatedModule)
    if gated is None or gated.gating != gating:
        gated = gated_module(program, gating)
    batches = sensitivity.stream.draw(sensitivity.samples, device_of(program))
    if gating.per_sample and not gated.per_sample:
        batches = (sample for batch in batches for sample in batch.parts(1))  # samples cannot have their own gates
    # the number of channels left differs from round to round, so each round draws other random numbers
    seed = sensitivity.seed + gated.channels
    with private_random_state(seed), _untouched(gated.module, training=training):
        total, loss, count = _accumulate(gated, batches, sensitivity)
    return (total / count).cpu(), loss, count


def _accumulate(gated: GatedModule, batches: Iterable[Batch], sensitivity: Sensitivity) -> tuple[Tensor, float, int]:
    """Sum over samples of the accumulated gate gradients, float64, ``(channels,)``; mean loss; number of samples."""
    accumulate = ACCUMULATE[sensitivity.accumulate]
    device = next(gated.module.parameters()).device
    total = torch.zeros(gated.channels, dtype=torch.float64, device=device)
    loss_sum, count = 0.0, 0
    for batch in batches:
        gradient, loss = gate_gradient(gated, batch, sensitivity.loss)
        # the loss is a mean over the batch, so a sample's own gradient is the batch size times its part of the gradient
        per_sample = gradient.double() * batch.size
        total += accumulate(per_sample).sum(0) if per_sample.dim() == 2 else accumulate(per_sample)
        loss_sum += loss * batch.size
        count += batch.size
    return total, loss_sum / count, count


def gate_gradient(gated: GatedModule, batch: Batch, loss: Callable[[Any, Any], Any]) -> tuple[Tensor, float]:
    """Gradient of a batch's mean loss with respect to the gates, ``(channels,)`` or ``(N, channels)``, and the loss.

    Raises:
        LossError: the loss or its gradient is not finite, or the loss does not depend on the model.
    """
    parameter = next(gated.module.parameters())
    shape = (batch.size, gated.channels + 1) if gated.per_sample else (gated.channels + 1,)
    gate = torch.ones(shape, dtype=parameter.dtype.to_real(), device=parameter.device, requires_grad=True)
    gated.set_gate(gate)
    with torch.enable_grad():
        value = evaluate_loss(loss, gated.module, batch)
        gradient = _gradient(value, gate) if value.requires_grad else None
    if gradient is None:
        raise LossError(
            "the loss has no gradient in the model's channels: it is computed from something else, or from a detached "
            "output. Return a tensor that is computed from the output with torch"
        )
    if not bool(torch.isfinite(gradient).all()):
        raise LossError(
            f"the gradient of the loss ({float(value.detach())}) in the gates is not finite; check the data for "
            "extreme values, and the model's weights"
        )
    return gradient[..., :-1], float(value.detach())


def _gradient(value: Tensor, gate: Tensor) -> Tensor | None:
    try:
        return torch.autograd.grad(value, [gate], allow_unused=True)[0]
    except RuntimeError as error:  # an op without a derivative
        if is_out_of_memory(error):
            raise
        raise LossError(
            f"the loss has no gradient in the model's channels: {str(error).partition(chr(10))[0]}. Use a criterion "
            "without gradients, such as 'l1-norm'"
        ) from error


@contextmanager
def _untouched(module: nn.Module, *, training: bool) -> Iterator[None]:
    """Sets the mode for scoring, and restores modes, buffers and ``requires_grad`` afterwards."""
    modes = [(submodule, submodule.training) for submodule in module.modules()]
    needed = [(parameter, parameter.requires_grad) for parameter in module.parameters()]
    buffers = [(buffer, buffer.detach().clone()) for buffer in module.buffers()]
    module.train(training)
    for parameter, _ in needed:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for submodule, mode in modes:
            submodule.training = mode
        for parameter, required in needed:
            parameter.requires_grad_(required)
        with torch.no_grad():
            for buffer, value in buffers:
                if not torch.equal(buffer, value):
                    buffer.copy_(value)
