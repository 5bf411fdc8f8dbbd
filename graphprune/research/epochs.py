"""Parts of an epoch: its batches, their loss, the state that it runs in, and its mean loss."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from graphprune.errors import LossError
from graphprune.research.datasets import Batch, Split, batches

Precision = Literal["float32", "bfloat16"]
"""What matrix products and convolutions of a training step compute in; parameters and moments stay float32."""


def batch_loss(model: nn.Module, batch: Batch, precision: Precision) -> Tensor:
    """Mean cross-entropy in nats over a batch on the model's device, a scalar in float32 or the model's own float64."""
    inputs, targets = batch
    with torch.autocast(inputs.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        logits = model(inputs)
    return functional.cross_entropy(logits.to(torch.promote_types(logits.dtype, torch.float32)), targets)


def trainable_batches(split: Split, batch_size: int, generator: torch.Generator) -> Iterator[Batch]:
    """`batches` without a last one that shrank to a single sample."""
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
    """Of the first parameter; the CPU where there is none."""
    parameter = next(model.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device


@contextmanager
def mode(model: nn.Module, training: bool) -> Iterator[None]:
    """Put `model` in training or eval mode; give every module its own mode back at the end."""
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

    `torch.manual_seed` would not do: it also seeds devices that `fork_rng` was not asked to restore.
    """
    accelerators = [] if device.type == "cpu" else [device]
    with torch.random.fork_rng(accelerators, device_type=device.type):
        torch.set_rng_state(torch.Generator().manual_seed(seed).get_state())
        for accelerator in accelerators:
            state = torch.Generator(accelerator).manual_seed(seed).get_state()
            torch.get_device_module(accelerator).set_rng_state(state, accelerator)
        yield
