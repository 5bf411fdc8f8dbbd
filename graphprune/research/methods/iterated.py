"""SNIP-it, SNAP-it and CNIP-it, and criteria that are used in their way: pruning before or during training."""

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
"""Sensitivity samples of an event. Source: section 4 of the SNIP-it paper."""

_BATCH_SIZE = 256
"""Samples in a batch for scoring; the number changes nothing but the memory that scoring takes."""


@dataclass(frozen=True)
class Iterated:
    """Prunes in events, each scored on a fresh set of samples, before training or every few epochs of it.

    Source: algorithm 1 of the SNIP-it paper.

    Attributes:
        name: How benchmarks call it.
        granularity: What goes.
        every: Epochs from one event to the next; 0 for all events before training.
        criterion: What ranks; see `graphprune.compile`.
        accumulate: How samples add up.
        schedule: A name in `graphprune.request.schedule`, or a function.
        resurrect: Whether weights can come back.
        dead_paths: Whether weights on no path stay, as in the paper, or make room for others.
        samples: Sensitivity samples of an event.
        published_loss: Score with the loss of the published code, which takes the negative log-likelihood of raw logits
            as if they were log-probabilities.
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
        """What the granularity removes."""
        return "node sparsity" if self.granularity == "channel" else "weight sparsity"

    @property
    def structured(self) -> bool:
        """Whether only whole nodes go."""
        return self.granularity == "channel"

    def within(self, epochs: int) -> Iterated:
        """The paper's interval, 4 of 80, in proportion to a number of epochs; before training nothing changes.

        An interval is one epoch at least: of 20 epochs the last event leaves 13, as 52 of 80, but 3 of 10, and 1 of 8.
        """
        return replace(self, every=max(1, round(epochs * 4 / 80))) if self.every else self

    def as_published(self) -> Iterated:
        """Returns the method with what the published code does otherwise than the paper.

        It scores with its own loss (`published_loss`), and its gates of channels come before normalisations.

        Raises:
            OptionError: this does not rank by elasticity.
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
    """The published code's loss while scoring: minus the mean logit of the true class."""
    return functional.nll_loss(output, target)


def _trained(model: nn.Module, trainer: Trainer, pruner: Pruner, *, structured: bool) -> Trained:
    compiled = pruner.finish()
    masks = None if structured else dict(compiled.plan.masks)
    channels = pruner.rounds[-1].achieved["channels"]
    module = trainer.model
    nodes = node_sparsity(module, model) if masks is not None and not channels else channels
    return Trained(module, masks, weight_sparsity(module, model), nodes, tuple(trainer.done), compiled)


def exponential(rounds: int) -> Schedule:
    """So many rounds that remove the same share of what is left each, as SynFlow does in 100."""

    def schedule(sparsity: float) -> list[float]:
        return [1 - (1 - sparsity) ** (step / rounds) for step in range(1, rounds)] + [sparsity]

    return schedule


EVERY = 4
"""Epochs between events during training, of 80. Source: section 4 of the SNIP-it paper."""

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
