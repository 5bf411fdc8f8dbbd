"""Makes smaller networks from the numbers that layers have for their channels, with graphprune's groups and pruner."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from graphprune.capture import capture
from graphprune.criteria import Given, Sensitivity
from graphprune.labels.dependencies import Dependencies
from graphprune.pass_manager.runner import Runner
from graphprune.passes import pipelines
from graphprune.program.program import Program
from graphprune.pruner import Pruner
from graphprune.request.schedule import Schedule
from graphprune.research.datasets import Dataset
from graphprune.research.training import Trainer

log = logging.getLogger(__name__)

Values = Mapping[tuple[str, int], Tensor]
"""Numbers for the indices of a dim, shape ``(size,)``, by name of the parameter and dim."""


def example_of(model: nn.Module, dataset: Dataset) -> Tensor:
    """Returns two samples on the model's device, ``(2, C, H, W)``, because BatchNorm1d cannot train on one."""
    return dataset.train.inputs[:2].to(next(model.parameters()).device)


def analysed(model: nn.Module, example: Tensor) -> Program:
    """Returns the program with its channels and groups; the channels have the order that a `Pruner` finds."""
    return Runner().run(pipelines.analysis(), capture(model, example))


def of_channels(program: Program, values: Values, combine: Literal["sum", "amax"], missing: float) -> Tensor:
    """Combines the values that belong to each channel into one.

    Args:
        program: The program, with its dependencies.
        values: Values of some of the dims of its parameters; others do not count.
        combine: How the values of coupled layers become one.
        missing: Value of a channel that no value belongs to.

    Returns:
        float64, shape ``(channels,)``.
    """
    dependencies = program[Dependencies]
    total = torch.zeros(dependencies.channels + 1, dtype=torch.float64)
    found = torch.zeros(dependencies.channels + 1, dtype=torch.bool)
    for owner in dependencies.stored:
        if (owner.name, owner.dim) in values:
            channels = dependencies.channel_of[owner.start : owner.start + owner.size]
            channels = channels % (dependencies.channels + 1)  # frozen channels, -1, become the last one
            of_dim = values[owner.name, owner.dim].detach().cpu().double()
            before = total if combine == "sum" else total.where(found, float("-inf"))
            total = before.scatter_reduce(0, channels, of_dim, combine)
            found[channels] = True
    return total.where(found, missing)[:-1]


def under(program: Program, scores: Tensor, threshold: float) -> int:
    """Returns how many channels have a score of at most the threshold and can go; one channel of each group stays.

    Args:
        program: The program, with its dependencies.
        scores: Shape ``(channels,)``.
        threshold: Channels above it stay.
    """
    return sum(
        min(int((scores[group.start : group.stop] <= threshold).sum()), group.channels - 1)
        for group in program[Dependencies].groups
    )


def remove_under(
    trainer: Trainer, dataset: Dataset, program: Program, scores: Tensor, threshold: float
) -> Pruner | None:
    """Removes the channels of a trainer's network whose score is at most the threshold; see `under`.

    The trainer goes on with the smaller network. If no channel can go, the network stays as it is, and a warning is
    logged.

    Args:
        trainer: Its network is pruned, its optimizer follows.
        dataset: For the example.
        program: Program of that network, with its dependencies.
        scores: Shape ``(channels,)``.
        threshold: Channels above it stay.
    """
    count, channels = under(program, scores, threshold), program[Dependencies].channels
    if count == 0:
        log.warning("none of %d channels is under the threshold %g (lowest: %g): the network stays as it is",
                    channels, threshold, float(scores.min()) if channels else 0.0)  # fmt: skip
        return None

    def score(program: Program, sensitivity: Sensitivity) -> Tensor:
        return scores

    return remove(trainer, dataset, count / channels, score, seed=0)


def check_share(model: nn.Module, dataset: Dataset, sparsity: float) -> None:
    """Raises before a training what `remove` would raise at its end, by trying the removal on a copy.

    Raises:
        UserError: the network has too few prunable channels.
    """
    example = example_of(model, dataset)
    Pruner(copy.deepcopy(model), example, sparsity=sparsity, criterion="random", schedule="one-shot").step()


def remove(trainer: Trainer, dataset: Dataset, sparsity: float, criterion: Given, seed: int) -> Pruner:
    """Removes a share of the channels of a trainer's network at once; the trainer goes on with the smaller network."""
    pruner = adopted(trainer, dataset, sparsity, criterion, "one-shot", seed)
    pruner.step(optimizer=trainer.optimizer)
    return pruner


def adopted(
    trainer: Trainer, dataset: Dataset, sparsity: float, criterion: Given, schedule: str | Schedule, seed: int
) -> Pruner:
    """Returns a pruner of a trainer's network and makes the trainer use its module; nothing is removed yet."""
    example = example_of(trainer.model, dataset)
    pruner = Pruner(trainer.model, example, sparsity=sparsity, criterion=criterion, schedule=schedule, seed=seed)
    trainer.adopt(pruner.module)
    return pruner
