"""EfficientConvNets, which removes filters of small L1 norm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from graphprune.criteria.evenly import Evenly
from graphprune.research.datasets import Dataset
from graphprune.research.methods.channels import check_share, remove
from graphprune.research.methods.method import (
    METHODS,
    Target,
    Trained,
    check_sparsity,
    epochs_before_pruning,
    shrunk,
    trainer_of,
)
from graphprune.research.training import Recipe


@dataclass(frozen=True)
class EfficientConvNets:
    """Trains, removes after 7/8 of the epochs the same share of each layer's filters by L1 norm, and fine-tunes.

    The filters of the smallest norm go. Where residual blocks couple filters, their norms add up. Linear layers are
    pruned like convolutions.

    Source: Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017, in one shot.
    """

    name: ClassVar[str] = "efficient-conv-nets"
    target: ClassVar[Target] = "node sparsity"
    structured: ClassVar[bool] = True

    def train(self, model: nn.Module, dataset: Dataset, recipe: Recipe, target: float, seed: int) -> Trained:
        """See `graphprune.research.methods.Method`.

        Raises:
            BudgetError: the network has too few prunable channels.
        """
        check_sparsity(self, target)
        check_share(model, dataset, target)
        trainer, before = trainer_of(model, dataset, recipe, seed), epochs_before_pruning(recipe.epochs)
        trainer.run(before)
        pruner = remove(trainer, dataset, target, Evenly("l1-norm"), seed)
        trainer.run(recipe.epochs - before)
        return shrunk(model, trainer, pruner)


METHODS.register(EfficientConvNets.name)(EfficientConvNets())
