"""Baselines that every method has to beat: no pruning, and random pruning before training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from graphprune.criteria.evenly import Evenly
from graphprune.research.datasets import Dataset
from graphprune.research.methods.channels import remove
from graphprune.research.methods.masks import hold_in, largest, layer_weights
from graphprune.research.methods.method import METHODS, Target, Trained, check_sparsity, shrunk, trainer_of, with_masks
from graphprune.research.training import Recipe


@dataclass(frozen=True)
class Dense:
    """Trains and removes nothing; the target is ignored."""

    name: ClassVar[str] = "dense"
    target: ClassVar[Target] = "nothing"
    structured: ClassVar[bool] = True

    def train(self, model: nn.Module, dataset: Dataset, recipe: Recipe, target: float, seed: int) -> Trained:
        """See `graphprune.research.methods.Method`."""
        trainer = trainer_of(model, dataset, recipe, seed)
        trainer.run(recipe.epochs)
        return shrunk(model, trainer, None)


@dataclass(frozen=True)
class RandomNodes:
    """Removes random nodes before training, the same share of each layer."""

    name: ClassVar[str] = "random-nodes"
    target: ClassVar[Target] = "node sparsity"
    structured: ClassVar[bool] = True

    def train(self, model: nn.Module, dataset: Dataset, recipe: Recipe, target: float, seed: int) -> Trained:
        """See `graphprune.research.methods.Method`."""
        check_sparsity(self, target)
        trainer = trainer_of(model, dataset, recipe, seed)
        pruner = remove(trainer, dataset, target, Evenly("random"), seed)
        trainer.run(recipe.epochs)
        return shrunk(model, trainer, pruner)


@dataclass(frozen=True)
class RandomWeights:
    """Zeroes random weights before training, drawn uniformly from the weights of all layers together."""

    name: ClassVar[str] = "random-weights"
    target: ClassVar[Target] = "weight sparsity"
    structured: ClassVar[bool] = False

    def train(self, model: nn.Module, dataset: Dataset, recipe: Recipe, target: float, seed: int) -> Trained:
        """See `graphprune.research.methods.Method`."""
        check_sparsity(self, target)
        trainer, generator = trainer_of(model, dataset, recipe, seed), torch.Generator().manual_seed(seed)
        weights = layer_weights(trainer.model)
        # float64, because in float32 equal numbers would be common among millions
        drawn = {
            name: torch.rand(weight.shape, generator=generator, dtype=torch.float64) for name, weight in weights.items()
        }
        masks = {name: mask.to(weights[name].device) for name, mask in largest(drawn, target).items()}
        hold_in(trainer, masks)
        trainer.run(recipe.epochs)
        return with_masks(model, trainer, masks)


for _method in (Dense(), RandomNodes(), RandomWeights()):
    METHODS.register(_method.name)(_method)
