"""Iterative magnitude pruning with rewinding."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.optim import Optimizer

from graphprune.errors import OptionError
from graphprune.program.tensors import Masks
from graphprune.request.schedule import Schedule, targets_of
from graphprune.research.datasets import Dataset
from graphprune.research.methods.masks import hold_in, largest, layer_weights
from graphprune.research.methods.method import METHODS, Target, Trained, check_sparsity, trainer_of, with_masks
from graphprune.research.training import Recipe


@dataclass(frozen=True)
class Snapshot:
    """State of a network and its optimizer at one moment: weights, BatchNorm statistics, moments and step counts."""

    model: dict[str, Tensor]
    optimizer: dict[str, Any]

    @classmethod
    def of(cls, model: nn.Module, optimizer: Optimizer) -> Snapshot:
        """Returns a copy of their present state."""
        return cls(copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict()))

    def restore(self, model: nn.Module, optimizer: Optimizer) -> None:
        """Puts the state back; the snapshot can be used again."""
        model.load_state_dict(self.model)
        optimizer.load_state_dict(copy.deepcopy(self.optimizer))  # the optimizer would keep the tensors themselves


@dataclass(frozen=True)
class ImpGlobal:
    """Repeatedly trains, zeroes the smallest weights, and rewinds the kept weights to an early epoch.

    After `rewind_epoch` epochs the whole state is stored: weights, BatchNorm statistics, optimizer state. Then every
    `every` epochs comes a pruning event: the largest weights of all layers together are kept, and the network goes back
    to the stored state with the other weights at zero. The events share the recipe's epochs; the epochs after the last
    event train the result. The order of samples is not rewound.

    Source: Frankle et al., Stabilizing the Lottery Ticket Hypothesis, 2019. Schedule, rewinding epoch and interval are
    from appendix F of the SNIP-it paper (for 80 epochs).

    Attributes:
        rewind_epoch: Number of epochs after which the state is stored that events go back to, 0 or more.
        every: Epochs from one event to the next, 1 or more.
        schedule: Name in `graphprune.request.schedule`, or a function.

    Raises:
        OptionError: a field is out of range.
    """

    rewind_epoch: int = 6
    every: int = 4
    schedule: str | Schedule = "halving"

    name: ClassVar[str] = "imp-global"
    target: ClassVar[Target] = "weight sparsity"
    structured: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.rewind_epoch < 0 or self.every < 1:
            raise OptionError(f"rewind_epoch must be 0 or more and every 1 or more: {self}")

    @classmethod
    def within(cls, epochs: int) -> ImpGlobal:
        """Returns the method with the rewinding epoch and interval of the paper, 6 and 4 of 80, scaled to `epochs`.

        `epochs` has to be 8 or more. An interval is at least one epoch, so the seven events take a large part of few
        epochs. With those before the rewinding epoch, the result is trained for 52 of 80 epochs and for 13 of 20, but
        only for 3 of 10 and for 1 of 8.
        """
        return cls(max(1, round(epochs * 6 / 80)) if epochs > 8 else 0, max(1, round(epochs * 4 / 80)))

    def train(self, model: nn.Module, dataset: Dataset, recipe: Recipe, target: float, seed: int) -> Trained:
        """See `graphprune.research.methods.Method`.

        Raises:
            OptionError: the epochs end with the last event or before it.
        """
        check_sparsity(self, target)
        sparsities = targets_of(self.schedule, target)
        left = recipe.epochs - self.rewind_epoch - self.every * len(sparsities)
        if left < 1:
            raise OptionError(
                f"{self.name}: {len(sparsities)} events each {self.every} epochs from epoch {self.rewind_epoch} on "
                f"leave nothing of {recipe.epochs} epochs to train the result; give {recipe.epochs - left + 1} or "
                "more, or lower rewind_epoch or every (ImpGlobal.within(epochs) has some that fit)"
            )
        trainer = trainer_of(model, dataset, recipe, seed)
        trainer.run(self.rewind_epoch)
        start = Snapshot.of(trainer.model, trainer.optimizer)
        masks: Masks = {}
        for sparsity in sparsities:
            trainer.run(self.every)
            # dead weights are zero, so they are among the smallest again
            weights = {name: weight.detach().abs() for name, weight in layer_weights(trainer.model).items()}
            masks = largest(weights, sparsity)
            start.restore(trainer.model, trainer.optimizer)
            hold_in(trainer, masks)
        trainer.run(left)
        return with_masks(model, trainer, masks)


METHODS.register(ImpGlobal.name)(ImpGlobal())
