"""Elasticity of the loss in each channel, by gates in the graph."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from graphprune.criteria.criterion import CRITERIA, Accumulate, Sensitivity
from graphprune.data import Batch, evaluate_loss
from graphprune.errors import LossError
from graphprune.gates import GatedModule, can_be_per_sample, find_sites, insert_gates
from graphprune.program import Program, device_of
from graphprune.scores import Scores

_ACCUMULATE: dict[Accumulate, Callable[[Tensor], Tensor]] = {
    "signed": lambda gradient: gradient,
    "absolute": torch.abs,
    "squared": torch.square,
}


@dataclass(frozen=True)
class Elasticity:
    """|dL/dc| / L for a gate c on the channel's pre-activation.

    Source: formula 4 of the SNIP-it paper for ``accumulate="signed"``: the gradient of the mean loss, one absolute value at
    the end. ``"absolute"`` and ``"squared"`` take the absolute value or the square of each sample's gradient first (of
    squares the root is taken at the end): on a trained model signed gradients of samples cancel.

    Attributes:
        training: Score with batch statistics and dropout, as in training; in evaluation mode by default.
    """

    training: bool = False

    def __call__(self, program: Program, sensitivity: Sensitivity) -> Scores:
        """Draws the samples and scores the channels; leaves no trace on the program or the random state."""
        dependencies = program.dependencies
        assert dependencies is not None
        signed = sensitivity.accumulate == "signed"
        separable = all(map(can_be_per_sample, find_sites(program, dependencies)))
        gated = insert_gates(program, dependencies, per_sample=not signed and separable)
        batches = sensitivity.stream.draw(sensitivity.samples, device_of(program))
        if not signed and not separable:
            batches = _single_samples(batches)
        with _untouched(gated.module, training=self.training):
            total, loss, count = _accumulate(gated, batches, sensitivity)
        mean = total / count
        importance = mean.sqrt() if sensitivity.accumulate == "squared" else mean.abs()
        if loss == 0:
            raise LossError("the loss of the sensitivity samples is 0; elasticity is relative to the loss. Give other data")
        return Scores((importance / abs(loss)).cpu(), "elasticity", loss, count)


CRITERIA.register("elasticity")(Elasticity())


def _accumulate(gated: GatedModule, batches: Iterable[Batch], sensitivity: Sensitivity) -> tuple[Tensor, float, int]:
    """Sum over samples of the accumulated gate gradients, float64, shape ``(channels,)``; mean loss; samples."""
    accumulate = _ACCUMULATE[sensitivity.accumulate]
    device = next(gated.module.parameters()).device
    total = torch.zeros(gated.channels, dtype=torch.float64, device=device)
    loss_sum, count = 0.0, 0
    for batch in batches:
        gradient, loss = gate_gradient(gated, batch, sensitivity.loss)
        # the loss is a mean over the batch, so a sample's own gradient is the batch size times its share
        per_sample = gradient.double() * batch.size
        total += accumulate(per_sample).sum(0) if per_sample.dim() == 2 else accumulate(per_sample)
        loss_sum += loss * batch.size
        count += batch.size
    return total, loss_sum / count, count


def gate_gradient(gated: GatedModule, batch: Batch, loss: Callable[[object, object], object]) -> tuple[Tensor, float]:
    """Gradient of a batch's mean loss in the gates, shape ``(channels,)`` or ``(N, channels)``, and the loss.

    Raises:
        LossError: the loss or its gradient is not finite.
    """
    parameter = next(gated.module.parameters())
    shape = (batch.size, gated.channels + 1) if gated.per_sample else (gated.channels + 1,)
    gate = torch.ones(shape, dtype=parameter.dtype, device=parameter.device, requires_grad=True)
    gated.set_gate(gate)
    with torch.enable_grad():
        value = evaluate_loss(loss, gated.module, batch)
        (gradient,) = torch.autograd.grad(value, [gate])
    if not bool(torch.isfinite(gradient).all()):
        raise LossError(f"the gradient of the loss ({float(value.detach())}) in the gates is not finite; check data and weights")
    return gradient[..., :-1], float(value.detach())


def _single_samples(batches: Iterable[Batch]) -> Iterator[Batch]:
    """Batches of one: the fallback where samples cannot have gates of their own."""
    for batch in batches:
        for index in range(batch.size):
            yield batch.rows(index, index + 1)


@contextmanager
def _untouched(module: nn.Module, *, training: bool) -> Iterator[None]:
    """Sets the mode for scoring; modes, buffers, ``requires_grad`` and random state come back afterwards."""
    modes = [(submodule, submodule.training) for submodule in module.modules()]
    needed = [(parameter, parameter.requires_grad) for parameter in module.parameters()]
    buffers = [(buffer, buffer.clone()) for buffer in module.buffers()] if training else []
    devices = {parameter.device.index for parameter, _ in needed if parameter.device.type == "cuda"}
    with torch.random.fork_rng(devices=[device for device in devices if device is not None]):
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
            for buffer, value in buffers:
                buffer.copy_(value)

