"""What a method is, and what it gives back."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from torch import nn

from graphprune.compiled import Compiled
from graphprune.errors import OptionError
from graphprune.program.tensors import Masks
from graphprune.pruner import Pruner
from graphprune.registry import Registry
from graphprune.research.datasets import Dataset
from graphprune.research.metrics import node_sparsity, weight_sparsity
from graphprune.research.training import Epoch, Recipe, Trainer

Target = Literal["node sparsity", "weight sparsity", "lambda", "nothing"]
"""What the number is that a method is given: the share of nodes or weights to remove, or the weight of a penalty."""


@dataclass(frozen=True)
class Trained:
    """A network that was trained and pruned.

    Attributes:
        module: The network; of structured methods it is smaller, and dense where there was nothing to remove.
        masks: Live weights by parameter of `module`, which are all others' zeros; None of structured methods.
        weight_sparsity: Share of the weights of convolutions and linear layers that were zeroed or removed, in [0, 1].
        node_sparsity: Share of the nodes (output channels) that went, in [0, 1], without those of input and output:
            of structured methods of the prunable channels, of which coupled ones count once; else of the rows of
            layers that have no live weight.
        epochs: Cross-entropy and seconds of each epoch; pruning is not in the seconds.
        compiled: What verifies, times, exports and saves `module`; None where nothing was removed.
    """

    module: nn.Module
    masks: Masks | None
    weight_sparsity: float
    node_sparsity: float
    epochs: tuple[Epoch, ...]
    compiled: Compiled | None = None

    @property
    def seconds(self) -> float:
        """Wall-clock time of the epochs."""
        return sum(epoch.seconds for epoch in self.epochs)


@runtime_checkable
class Method(Protocol):
    """Trains and prunes; its fields are its options, with those of its paper as defaults."""

    @property
    def name(self) -> str:
        """How benchmarks call it."""
        ...

    @property
    def target(self) -> Target:
        """What `train` is given as its target."""
        ...

    @property
    def structured(self) -> bool:
        """Whether it ends in a smaller network; else it ends in masks."""
        ...

    def train(self, model: nn.Module, dataset: Dataset, recipe: Recipe, target: float, seed: int) -> Trained:
        """Trains a copy of a network and prunes it on the way.

        Args:
            model: The model, with its initial weights, on the device to train on; it is not changed.
            dataset: The dataset, of which the training split is used.
            recipe: The budget of epochs is `Recipe.epochs`, of which some methods take twice as many, see there.
            target: See `target`.
            seed: Seed of everything random but the initial weights.

        Raises:
            OptionError: the target or the number of epochs cannot work.
        """
        ...


METHODS: Registry[Method] = Registry("method")
"""Methods with their papers' options, by name."""


def trainer_of(model: nn.Module, dataset: Dataset, recipe: Recipe, seed: int) -> Trainer:
    """Trains a copy of a network on the training split, mirrored as the dataset says."""
    return Trainer(copy.deepcopy(model), dataset.train, recipe, seed, flip=dataset.flip)


def with_masks(model: nn.Module, trainer: Trainer, masks: Masks) -> Trained:
    """The result of an unstructured method that began with ``model``."""
    module = trainer.model
    shares = weight_sparsity(module, model), node_sparsity(module, model)
    return Trained(module, masks, *shares, tuple(trainer.done))


def shrunk(model: nn.Module, trainer: Trainer, pruner: Pruner | None) -> Trained:
    """The result of a structured method that began with ``model``; without a pruner nothing was removed."""
    module, epochs = trainer.model, tuple(trainer.done)
    if pruner is None:
        return Trained(module, None, weight_sparsity(module, model), 0.0, epochs)
    nodes = pruner.rounds[-1].achieved["channels"]
    return Trained(module, None, weight_sparsity(module, model), nodes, epochs, pruner.finish())


def check_sparsity(method: Method, target: float) -> None:
    """Raises `OptionError` for what is no share to remove."""
    if not 0 < target < 1:
        raise OptionError(f"{method.name}: target={target}: expected the {method.target}, above 0 and below 1")


def check_penalty(method: Method, target: float) -> None:
    """Raises `OptionError` for what is no weight of a penalty."""
    if not 0 <= target < math.inf:
        raise OptionError(f"{method.name}: target={target}: expected lambda, the penalty's weight, of 0 or more")


PRETRAINED = 7 / 8
"""Share of the epochs that methods which prune after training take before they prune.

Source: appendix F of the SNIP-it paper, 70 of 80 epochs; the other 10 fine-tune.
"""


def epochs_before_pruning(epochs: int) -> int:
    """Epochs before the prune of a method that prunes after training: seven eighths; of two or more one is left."""
    return min(round(epochs * PRETRAINED), max(epochs - 1, 1))
