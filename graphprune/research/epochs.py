"""Parts of an epoch: its batches, their loss, the modes and random state it runs in, its mean loss; and accuracy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from graphprune.errors import LossError, OptionError
from graphprune.research.datasets import Batch, Split, batches

Precision = Literal["float32", "bfloat16"]
"""Type in which a training step computes matrix products and convolutions; parameters and moments stay float32."""


def batch_loss(model: nn.Module, batch: Batch, precision: Precision) -> Tensor:
    """Return the mean cross-entropy of a batch in nats, a scalar: float64 for a model in float64, else float32.

    The batch is on the model's device.
    """
    inputs, targets = batch
    with torch.autocast(inputs.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        logits = model(inputs)
    return functional.cross_entropy(logits.to(torch.promote_types(logits.dtype, torch.float32)), targets)


def trainable_batches(split: Split, batch_size: int, generator: torch.Generator) -> Iterator[Batch]:
    """Yield `batches`, but without a last batch that shrank to a single sample."""
    for step, (inputs, targets) in enumerate(batches(split, batch_size, generator)):
        if step > 0 and len(targets) == 1 < batch_size:
            return
        yield inputs, targets


def mean_loss(losses: Tensor, counts: list[int], epoch: int) -> float:
    """Return the mean over samples of the losses ``(steps,)``; raise `LossError` at the first that is not finite."""
    broken = (~losses.isfinite()).nonzero().flatten().tolist()
    if broken:
        step = broken[0]
        raise LossError(
            f"train: the loss is {losses[step].item()} at epoch {epoch}, step {step} of {len(counts)} (both from 0); "
            "check the inputs for nan and inf, or lower learning_rate or clip_norm"
        )
    weights = torch.tensor(counts, dtype=torch.float64)
    return float((losses.to(torch.float64) * weights).sum() / weights.sum())


def device_of(model: nn.Module) -> torch.device:
    """Returns the device of the first parameter; the CPU where there is none."""
    parameter = next(model.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device


@contextmanager
def mode(model: nn.Module, training: bool) -> Iterator[None]:
    """Put `model` in training or eval mode, and give every module its own mode back at the end."""
    before = {module: module.training for module in model.modules()}
    model.train(training)
    try:
        yield
    finally:
        for module, was_training in before.items():
            module.training = was_training


@contextmanager
def private_random_state_on(seed: int, device: torch.device) -> Iterator[None]:
    """Seed the global generators of the CPU and of `device`, and give them their state back at the end.

    `torch.manual_seed` is not used, because it also seeds devices that `fork_rng` does not restore here.
    """
    accelerators = [] if device.type == "cpu" else [device]
    with torch.random.fork_rng(accelerators, device_type=device.type):
        torch.set_rng_state(torch.Generator().manual_seed(seed).get_state())
        for accelerator in accelerators:
            state = torch.Generator(accelerator).manual_seed(seed).get_state()
            torch.get_device_module(accelerator).set_rng_state(state, accelerator)
        yield


@torch.no_grad()
def accuracy(model: nn.Module, split: Split, batch_size: int = 1000) -> float:
    """Return the share of `split` that `model` classifies right, in [0, 1].

    The model is evaluated in eval mode; then every module gets the mode back that it had.

    Args:
        model: maps inputs ``(B, C, H, W)`` to logits ``(B, classes)``.
        split: the samples; on any device, batches move to the model's.
        batch_size: samples evaluated at a time; the result does not depend on it beyond rounding.

    Raises:
        OptionError: if `batch_size` is below 1.
    """
    if batch_size < 1:
        raise OptionError(f"batch_size must be 1 or more, got {batch_size}")
    device = device_of(model)
    correct = torch.zeros((), dtype=torch.int64, device=device)
    with mode(model, training=False):
        for inputs, targets in zip(split.inputs.split(batch_size), split.targets.split(batch_size), strict=True):
            correct += (model(inputs.to(device)).argmax(dim=1) == targets.to(device)).sum()
    return int(correct) / len(split)
