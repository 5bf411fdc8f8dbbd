"""The protocol of methods, the result of a method, and parts that methods share."""

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
"""Meaning of a method's target: the share of nodes or weights to remove, the weight of a penalty, or nothing."""


@dataclass(frozen=True)
class Trained:
    """A network that was trained and pruned.

    Attributes:
        module: The network. A structured method makes it smaller, or leaves it dense if there was nothing to remove.
        masks: Masks of the live weights by parameter of `module`; all other weights are zero. None for structured
            methods.
        weight_sparsity: Share of the weights of convolutions and linear layers that were zeroed or removed, in [0, 1].
        node_sparsity: Share of the nodes (output channels) that were removed, in [0, 1], without those of input and
            output. Where whole channels were removed, it is the share of the prunable channels, and coupled channels
            count once. Otherwise it is the share of the layers' rows that have no live weight.
        epochs: Cross-entropy and seconds of each epoch; the seconds do not include pruning.
        compiled: Result of the pruner, which verifies, times, exports and saves `module`; None where nothing was
            removed, and for methods that zero weights without a pruner.
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
    """A way to train and prune; its fields are its options, with those of its paper as defaults."""

    @property
    def name(self) -> str:
        """Name of the method in benchmarks."""
        ...

    @property
    def target(self) -> Target:
        """Meaning of the target that `train` takes."""
        ...

    @property
    def structured(self) -> bool:
        """Whether the method ends in a smaller network; otherwise it ends in masks."""
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
"""Methods by name, with the options of their papers."""


def trainer_of(model: nn.Module, dataset: Dataset, recipe: Recipe, seed: int) -> Trainer:
    """Returns a trainer of a copy of a network, on the training split, with the mirroring of the dataset."""
    return Trainer(copy.deepcopy(model), dataset.train, recipe, seed, flip=dataset.flip)


def with_masks(model: nn.Module, trainer: Trainer, masks: Masks) -> Trained:
    """Returns the result of an unstructured method that began with ``model``."""
    module = trainer.model
    shares = weight_sparsity(module, model), node_sparsity(module, model)
    return Trained(module, masks, *shares, tuple(trainer.done))


def shrunk(model: nn.Module, trainer: Trainer, pruner: Pruner | None) -> Trained:
    """Returns the result of a structured method that began with ``model``; ``pruner`` is None if nothing went."""
    module, epochs = trainer.model, tuple(trainer.done)
    if pruner is None:
        return Trained(module, None, weight_sparsity(module, model), 0.0, epochs)
    nodes = pruner.rounds[-1].achieved["channels"]
    return Trained(module, None, weight_sparsity(module, model), nodes, epochs, pruner.finish())


def check_sparsity(method: Method, target: float) -> None:
    """Raises `OptionError` if the target is not a share to remove, above 0 and below 1."""
    if not 0 < target < 1:
        raise OptionError(f"{method.name}: target={target}: expected the {method.target}, above 0 and below 1")


def check_penalty(method: Method, target: float) -> None:
    """Raises `OptionError` if the target is not the weight of a penalty, 0 or more and finite."""
    if not 0 <= target < math.inf:
        raise OptionError(f"{method.name}: target={target}: expected lambda, the penalty's weight, of 0 or more")


PRETRAINED = 7 / 8
"""Share of the epochs that methods which prune after training take before they prune.

Source: appendix F of the SNIP-it paper, 70 of 80 epochs; the other 10 fine-tune.
"""


def epochs_before_pruning(epochs: int) -> int:
    """Returns how many epochs a method takes before it prunes: seven eighths, but one of two or more is left."""
    return min(round(epochs * PRETRAINED), max(epochs - 1, 1))
