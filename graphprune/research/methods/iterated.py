"""SNIP-it, SNAP-it and CNIP-it, and other criteria applied in the same way: pruning before or during training."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor, nn
from torch.nn import functional

from graphprune.criteria import Given
from graphprune.criteria.elasticity import Elasticity
from graphprune.criteria.losses import cross_entropy
from graphprune.criteria.weights import WeightCriterion
from graphprune.errors import OptionError
from graphprune.pruner import Pruner
from graphprune.request.schedule import Schedule
from graphprune.request.settings import DeadPathsAre, Granularity
from graphprune.research.datasets import Dataset, sensitivity_batches
from graphprune.research.methods.channels import example_of
from graphprune.research.methods.method import METHODS, Target, Trained, check_sparsity, trainer_of
from graphprune.research.metrics import node_sparsity, weight_sparsity
from graphprune.research.training import Recipe, Trainer

SAMPLES = 2560
"""Number of sensitivity samples for an event. Source: section 4 of the SNIP-it paper."""

_BATCH_SIZE = 256
"""Samples in a batch for scoring; the number changes nothing but the memory that scoring takes."""


@dataclass(frozen=True)
class Iterated:
    """Prunes in events, each scored on new samples, before training or every few epochs during training.

    Source: algorithm 1 of the SNIP-it paper.

    Attributes:
        name: Name of the method in benchmarks.
        granularity: What is removed: whole channels, single weights, or both.
        every: Epochs from one event to the next; 0 for all events before training.
        criterion: Criterion that ranks channels and weights; see `graphprune.compile`.
        accumulate: How samples add up; see `graphprune.compile`.
        schedule: Name in `graphprune.request.schedule`, or a function.
        resurrect: Whether removed weights can come back.
        dead_paths: Whether weights on no path stay, as in the paper, or are removed so that others stay instead.
        samples: Number of sensitivity samples for an event.
        published_loss: Whether to score with the loss of the published code, which takes the negative log-likelihood of
            raw logits as if they were log-probabilities.
    """

    name: str
    granularity: Granularity
    every: int = 0
    criterion: Given | WeightCriterion = "elasticity"
    accumulate: str = "signed"
    schedule: str | Schedule = "halving"
    resurrect: bool = False
    dead_paths: DeadPathsAre = "keep"
    samples: int = SAMPLES
    published_loss: bool = False

    @property
    def target(self) -> Target:
        """Which sparsity `train` reaches, by granularity."""
        return "node sparsity" if self.granularity == "channel" else "weight sparsity"

    @property
    def structured(self) -> bool:
        """Whether the method removes whole nodes only."""
        return self.granularity == "channel"

    def within(self, epochs: int) -> Iterated:
        """Returns the method with the paper's interval, 4 of 80 epochs, scaled to `epochs`.

        A method that prunes before training stays as it is. An interval is at least one epoch: the last event leaves 52
        of 80 epochs and 13 of 20, but only 3 of 10 and 1 of 8.
        """
        return replace(self, every=max(1, round(epochs * 4 / 80))) if self.every else self

    def as_published(self) -> Iterated:
        """Returns the method with what the published code does otherwise than the paper.

        The code scores with a loss of its own (`published_loss`), and its channel gates come before normalisations.

        Raises:
            OptionError: the criterion is not ``"elasticity"``.
        """
        if self.criterion != "elasticity":
            raise OptionError(f"{self.name}: what is published is a choice of methods that rank by elasticity")
        criterion = Elasticity(before_normalisation=True) if self.structured else self.criterion
        return replace(
            self, name=f"{self.name}, as published", criterion=criterion, accumulate="signed", published_loss=True
        )

    def train(self, model: nn.Module, dataset: Dataset, recipe: Recipe, target: float, seed: int) -> Trained:
        """See `graphprune.research.methods.Method`.

        Raises:
            OptionError: the epochs are too few for the events.
        """
        check_sparsity(self, target)
        trainer = trainer_of(model, dataset, recipe, seed)
        pruner = self._pruner(trainer, dataset, target, seed)
        trainer.adopt(pruner.module)
        left = recipe.epochs - self.every * pruner.rounds_left
        if left < 1 and self.every:
            raise OptionError(
                f"{self.name}: {pruner.rounds_left} events each {self.every} epochs leave nothing of {recipe.epochs} "
                "epochs to train the result; within(epochs) has intervals that fit"
            )
        while pruner.rounds_left:
            trainer.run(self.every)
            event = len(pruner.rounds)
            samples = sensitivity_batches(dataset.train, self.samples, _BATCH_SIZE, seed * 1000 + event)
            pruner.step(samples, trainer.optimizer)
        trainer.run(left)
        return _trained(model, trainer, pruner, structured=self.structured)

    def _pruner(self, trainer: Trainer, dataset: Dataset, target: float, seed: int) -> Pruner:
        return Pruner(
            trainer.model, example_of(trainer.model, dataset), sparsity=target, granularity=self.granularity,
            criterion=self.criterion, accumulate=self.accumulate, schedule=self.schedule, resurrect=self.resurrect,
            dead_paths=self.dead_paths, loss=published_loss if self.published_loss else cross_entropy,
            samples=self.samples, seed=seed,
        )  # fmt: skip


def published_loss(output: Tensor, target: Tensor) -> Tensor:
    """Returns minus the mean logit of the true class, the loss that the published code scores with."""
    return functional.nll_loss(output, target)


def _trained(model: nn.Module, trainer: Trainer, pruner: Pruner, *, structured: bool) -> Trained:
    compiled = pruner.finish()
    masks = None if structured else dict(compiled.plan.masks)
    channels = pruner.rounds[-1].achieved["channels"]
    module = trainer.model
    nodes = node_sparsity(module, model) if masks is not None and not channels else channels
    return Trained(module, masks, weight_sparsity(module, model), nodes, tuple(trainer.done), compiled)


def exponential(rounds: int) -> Schedule:
    """Returns a schedule in which each of `rounds` rounds removes the same share of the rest; SynFlow takes 100."""

    def schedule(sparsity: float) -> list[float]:
        return [1 - (1 - sparsity) ** (step / rounds) for step in range(1, rounds)] + [sparsity]

    return schedule


EVERY = 4
"""Epochs between events during training, for 80 epochs. Source: section 4 of the SNIP-it paper."""

for _method in (
    Iterated("snap-it", "channel"),
    Iterated("snap-it during", "channel", EVERY),
    Iterated("snap", "channel", schedule="one-shot"),
    Iterated("snip-it", "weight"),
    Iterated("snip-it during", "weight", EVERY),
    Iterated("snip", "weight", schedule="one-shot"),
    Iterated("force", "weight", criterion="force", schedule="geometric", resurrect=True),
    Iterated("grasp", "weight", criterion="grasp", schedule="one-shot"),
    Iterated("synflow", "weight", criterion="synflow", schedule=exponential(100)),
    Iterated("cnip-it", "mixed"),
    Iterated("cnip-it during", "mixed", EVERY),
):
    METHODS.register(_method.name)(_method)
