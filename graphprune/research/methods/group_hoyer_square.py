"""Hoyer-square regularisation of whole nodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from graphprune.program.program import Program
from graphprune.research.datasets import Dataset
from graphprune.research.methods.channels import analysed, example_of, of_channels, remove_under
from graphprune.research.methods.hoyer_square import hoyer_square
from graphprune.research.methods.masks import layer_weights
from graphprune.research.methods.method import (
    METHODS,
    Target,
    Trained,
    check_penalty,
    epochs_before_pruning,
    shrunk,
    trainer_of,
)
from graphprune.research.training import Recipe


def group_hoyer_square(weight: Tensor) -> Tensor:
    """Returns the Hoyer-square of the L2 norms by output channel, plus that of the L2 norms by input channel.

    Source: Yang, Wen and Li, DeepHoyer, ICLR 2020, equation 5, with filter-wise and channel-wise groups together.

    Args:
        weight: Weight of a layer, ``(C_out, C_in/groups, ...)``.
    """
    return hoyer_square(_norms(weight, 0)) + hoyer_square(_norms(weight, 1))


def group_hoyer_square_of_layers(module: nn.Module) -> Tensor:
    """Returns the sum of `group_hoyer_square` over the convolutions and linear layers, a scalar."""
    return torch.stack([group_hoyer_square(weight) for weight in layer_weights(module).values()]).sum()


def _norms(weight: Tensor, dim: int) -> Tensor:
    """Returns the L2 norm for each index of a dim, shape ``(size,)``; the gradient of a norm of 0 is 0."""
    norms: Tensor = torch.linalg.vector_norm(weight.movedim(dim, 0).flatten(1), dim=1)
    return norms


def largest_weights(program: Program) -> Tensor:
    """Scores each channel by the largest absolute weight that makes it or by the largest that reads it.

    The smaller of the two counts, or the only one where a channel has weights of one kind only. All coupled layers
    (residual blocks) count: a channel is small only if it is small in every layer that adds to it, or in every layer
    that reads it.

    Returns:
        float64, shape ``(channels,)``.
    """
    weights = {name: weight.detach().abs() for name, weight in layer_weights(program.module).items()}
    made = {(name, 0): weight.flatten(1).amax(1) for name, weight in weights.items()}
    read = {(name, 1): weight.movedim(1, 0).flatten(1).amax(1) for name, weight in weights.items()}
    never = torch.finfo(torch.float64).max
    return torch.minimum(*(of_channels(program, values, "amax", never) for values in (made, read)))


@dataclass(frozen=True)
class GroupHoyerSquare:
    """Trains with the penalty lambda * group Hoyer-square, removes small nodes at 7/8, fine-tunes without the penalty.

    The penalty pushes whole filters to zero, and whole columns of the layers that read them. A node is removed if
    either of the two is small, see `largest_weights`. Nodes are removed after 7/8 of the epochs. A BatchNorm behind a
    small filter scales it up again, so the removal changes the network, and fine-tuning has to repair this. If no node
    is small enough, the network stays dense. Each layer keeps at least one node.

    Source: Yang, Wen and Li, DeepHoyer, ICLR 2020; the threshold is from appendix F of the SNIP-it paper.

    Attributes:
        threshold: Largest absolute weight of a node that is removed, 0 or more.
    """

    threshold: float = 1e-3

    name: ClassVar[str] = "group-hoyer-square"
    target: ClassVar[Target] = "lambda"
    structured: ClassVar[bool] = True

    def train(self, model: nn.Module, dataset: Dataset, recipe: Recipe, target: float, seed: int) -> Trained:
        """See `graphprune.research.methods.Method`."""
        check_penalty(self, target)
        trainer, before = trainer_of(model, dataset, recipe, seed), epochs_before_pruning(recipe.epochs)
        trainer.penalty = lambda module: target * group_hoyer_square_of_layers(module)
        trainer.run(before)
        trainer.penalty = None
        program = analysed(trainer.model, example_of(trainer.model, dataset))
        pruner = remove_under(trainer, dataset, program, largest_weights(program), self.threshold)
        trainer.run(recipe.epochs - before)
        return shrunk(model, trainer, pruner)


METHODS.register(GroupHoyerSquare.name)(GroupHoyerSquare())
