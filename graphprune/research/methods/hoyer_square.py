"""Hoyer-square regularisation of single weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from graphprune.research.datasets import Dataset
from graphprune.research.methods.masks import hold_in, layer_weights
from graphprune.research.methods.method import (
    METHODS,
    Target,
    Trained,
    check_penalty,
    epochs_before_pruning,
    trainer_of,
    with_masks,
)
from graphprune.research.training import Recipe


def hoyer_square(values: Tensor) -> Tensor:
    """Returns ``(sum |v|)^2 / sum v^2``, between 1 and the number of values.

    It equals the number of values where all are equally large, and is 0 where all are 0. It does not change when the
    values are scaled.

    Source: Yang, Wen and Li, DeepHoyer, ICLR 2020, equation 3.
    """
    squares = values.square().sum()
    return values.abs().sum().square() / squares.clamp_min(torch.finfo(squares.dtype).tiny)


def hoyer_square_of_layers(module: nn.Module) -> Tensor:
    """Returns the sum of `hoyer_square` over the weights of the convolutions and linear layers, a scalar."""
    return torch.stack([hoyer_square(weight) for weight in layer_weights(module).values()]).sum()


@dataclass(frozen=True)
class HoyerSquare:
    """Trains with a Hoyer-square penalty, zeroes small weights at 7/8 of the epochs, fine-tunes without the penalty.

    The penalty is ``lambda * sum_l (sum |w|)^2 / sum w^2``, a sum over layers.

    Source: Yang, Wen and Li, DeepHoyer, ICLR 2020; the threshold is from appendix F of the SNIP-it paper.

    Attributes:
        threshold: Largest absolute value of a weight that is zeroed, 0 or more.
    """

    threshold: float = 1e-3

    name: ClassVar[str] = "hoyer-square"
    target: ClassVar[Target] = "lambda"
    structured: ClassVar[bool] = False

    def train(self, model: nn.Module, dataset: Dataset, recipe: Recipe, target: float, seed: int) -> Trained:
        """See `graphprune.research.methods.Method`."""
        check_penalty(self, target)
        trainer, before = trainer_of(model, dataset, recipe, seed), epochs_before_pruning(recipe.epochs)
        trainer.penalty = lambda module: target * hoyer_square_of_layers(module)
        trainer.run(before)
        trainer.penalty = None
        masks = {name: weight.detach().abs() > self.threshold for name, weight in layer_weights(trainer.model).items()}
        hold_in(trainer, masks)
        trainer.run(recipe.epochs - before)
        return with_masks(model, trainer, masks)


METHODS.register(HoyerSquare.name)(HoyerSquare())
