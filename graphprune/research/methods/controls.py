"""Controls: does the choice of weights matter, or only their number in each layer, or only the network's shape?

Source: the two sanity checks of Frankle et al., Pruning Neural Networks at Initialization, ICLR 2021.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from graphprune.errors import OptionError
from graphprune.program.tensors import Masks
from graphprune.research.datasets import Dataset
from graphprune.research.methods.method import Method, Target, Trained
from graphprune.research.metrics import node_sparsity, weight_sparsity
from graphprune.research.networks import orthogonal_init_
from graphprune.research.training import Epoch, Recipe, Trainer
from graphprune.training.masks import hold

FRESH_SEED = 10_000
"""Number that a control adds to the seed of its run, so that it does not draw the same weights as the run."""


def shuffled(masks: Masks, seed: int) -> Masks:
    """Returns masks with the same number of live weights in each layer, at random places."""
    generator = torch.Generator().manual_seed(seed)
    return {name: _shuffled(mask, generator) for name, mask in masks.items()}


def _shuffled(mask: Tensor, generator: torch.Generator) -> Tensor:
    order = torch.randperm(mask.numel(), generator=generator).to(mask.device)
    return mask.flatten()[order].view(mask.shape)


def reinitialise_(module: nn.Module, masks: Masks | None, seed: int) -> None:
    """Draws new orthogonal weights in place, resets normalisation, and applies masks.

    Args:
        module: A pruned network, of any structure.
        masks: Live weights, or None.
        seed: Seed of the weights.
    """
    orthogonal_init_(module, seed)
    for layer in module.modules():
        if isinstance(layer, _BatchNorm):
            layer.reset_parameters()
    if masks:
        hold(module, masks)


@dataclass(frozen=True)
class _Control:
    """Runs another method, then changes its result and trains it; all properties but the name are that method's.

    Attributes:
        of: The other method.
        change: What is changed, as it stands in the name.
    """

    of: Method
    change: ClassVar[str]

    @property
    def name(self) -> str:
        """The name of the method, with what is different."""
        return f"{self.of.name}, {self.change}"

    @property
    def target(self) -> Target:
        """The target of the method."""
        return self.of.target

    @property
    def structured(self) -> bool:
        """What the method itself says."""
        return self.of.structured


@dataclass(frozen=True)
class ShuffledMasks(_Control):
    """Runs another method, then trains the initial network with the found masks, shuffled within each layer.

    Attributes:
        of: An unstructured method.

    Raises:
        OptionError: the method is structured. To shuffle which nodes of a layer stay would only change their initial
            weights, and `Reinitialised` draws those anew.
    """

    change: ClassVar[str] = "shuffled"

    def __post_init__(self) -> None:
        if self.structured:
            raise OptionError(f"{self.of.name} ends in a smaller network, which has no masks; take Reinitialised")

    def train(self, model: nn.Module, dataset: Dataset, recipe: Recipe, target: float, seed: int) -> Trained:
        """See `graphprune.research.methods.Method`; the epochs in the result are those of the control training."""
        found = self.of.train(model, dataset, recipe, target, seed)
        assert found.masks is not None
        masks, module = shuffled(found.masks, seed + FRESH_SEED), copy.deepcopy(model)
        hold(module, masks)
        epochs = _trained(module, dataset, recipe, seed)
        return Trained(module, masks, weight_sparsity(module, model), node_sparsity(module, model), epochs)


@dataclass(frozen=True)
class Reinitialised(_Control):
    """Runs another method, then trains the pruned network from new initial weights.

    Attributes:
        of: A method, structured or not.
    """

    change: ClassVar[str] = "re-initialised"

    def train(self, model: nn.Module, dataset: Dataset, recipe: Recipe, target: float, seed: int) -> Trained:
        """See `graphprune.research.methods.Method`; the epochs in the result are those of the control training."""
        found = self.of.train(model, dataset, recipe, target, seed)
        reinitialise_(found.module, found.masks, seed + FRESH_SEED)
        return replace(found, epochs=_trained(found.module, dataset, recipe, seed))


def _trained(module: nn.Module, dataset: Dataset, recipe: Recipe, seed: int) -> tuple[Epoch, ...]:
    """Trains a network in place."""
    trainer = Trainer(module, dataset.train, recipe, seed, flip=dataset.flip)
    trainer.run(recipe.epochs)
    return tuple(trainer.done)
