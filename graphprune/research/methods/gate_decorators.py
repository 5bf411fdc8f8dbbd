"""GateDecorators: gates that replace the scale of BatchNorm, and gradual pruning between tocks and ticks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from graphprune.criteria import Sensitivity
from graphprune.errors import OptionError
from graphprune.program.program import Program
from graphprune.research.datasets import Dataset
from graphprune.research.methods.channels import adopted, check_share, of_channels
from graphprune.research.methods.gated_norm import GatedNorm, norms_of, put_gates, remove_gates
from graphprune.research.methods.method import METHODS, Target, Trained, check_sparsity, shrunk, trainer_of
from graphprune.research.training import Recipe, Trainer

EPOCHS = 2
"""How many times the recipe's epochs this method takes. Source: appendix F of the SNIP-it paper."""

LEAST_EPOCHS = 2
"""Epochs that the method needs at least: one tick and one tock, and as many for the training before."""


@dataclass
class GateScores:
    """Score of each gate, ``sum |gate * dL/dgate|`` over batches, by path of its layer.

    Source: You et al., Gate Decorator, NeurIPS 2019, equation 6.
    """

    gated: dict[str, GatedNorm]

    def __post_init__(self) -> None:
        self.sums = {path: torch.zeros_like(gate.gate) for path, gate in self.gated.items()}

    @torch.no_grad()
    def add(self) -> None:
        """Adds the scores of a batch; to be called once the gradients are computed, before they are clipped."""
        for path, gate in self.gated.items():
            assert gate.gate.grad is not None
            self.sums[path] += (gate.gate * gate.gate.grad).abs()

    def __call__(self, program: Program, sensitivity: Sensitivity) -> Tensor:
        """Scores as a criterion: sums of coupled gates; nodes without a gate never go before those with one."""
        values = {(f"{path}.weight", 0): of_layer for path, of_layer in self.sums.items()}
        return of_channels(program, values, "sum", missing=torch.finfo(torch.float64).max)


def gate_penalty(gated: dict[str, GatedNorm]) -> Tensor:
    """Returns the sum of the absolute values of all gates, a scalar."""
    return torch.stack([gate.gate.abs().sum() for gate in gated.values()]).sum()


@dataclass(frozen=True)
class GateDecorators:
    """Trains, then alternates tocks and ticks with a prune after each tick, then fine-tunes.

    A tock trains everything for an epoch, with the penalty ``penalty * sum |gate|``. A tick trains only the gates and
    the last linear layer for an epoch, without the penalty, and adds up the scores of the gates. Each prune removes the
    same share of the remaining nodes. The method takes twice the epochs of the recipe: half of them to train, a quarter
    for tocks and ticks, and a quarter to fine-tune.

    Source: You et al., Gate Decorator, NeurIPS 2019, section 3.3. As there, coupled filters are ranked by the sum of
    their scores, and tocks take as many epochs as ticks. Here they alternate epoch by epoch, where the paper takes
    ten of each in turn, and the learning rate is the recipe's. The penalty has a gradient, which it lacks in the code
    of the SNIP-it paper.

    Attributes:
        penalty: Lambda, the weight of the gates' absolute values in tocks, 0 or more.
    """

    penalty: float = 1e-3

    name: ClassVar[str] = "gate-decorators"
    target: ClassVar[Target] = "node sparsity"
    structured: ClassVar[bool] = True

    def train(self, model: nn.Module, dataset: Dataset, recipe: Recipe, target: float, seed: int) -> Trained:
        """See `graphprune.research.methods.Method`.

        Raises:
            OptionError: the epochs are fewer than `LEAST_EPOCHS`, or the network has no BatchNorm.
            BudgetError: the network has too few prunable channels.
        """
        check_sparsity(self, target)
        before, turns, after = self._plan(recipe.epochs)
        if not norms_of(model):
            raise OptionError(f"{self.name}: the network has no BatchNorm with scale and shift, whose place gates take")
        check_share(model, dataset, target)
        trainer = trainer_of(model, dataset, recipe, seed)
        trainer.run(before)
        scores = GateScores({})

        def by_scores(program: Program, sensitivity: Sensitivity) -> Tensor:
            return scores(program, sensitivity)

        def same_share_of_the_rest(sparsity: float) -> list[float]:
            return [1 - (1 - sparsity) ** (turn / turns) for turn in range(1, turns)] + [sparsity]

        pruner = adopted(trainer, dataset, target, by_scores, same_share_of_the_rest, seed)
        for _ in range(turns):
            scores = self._turn(trainer)
            pruner.step(optimizer=trainer.optimizer)
        trainer.run(after)
        return shrunk(model, trainer, pruner)

    def _plan(self, epochs: int) -> tuple[int, int, int]:
        """Returns the epochs before the tocks and ticks, the number of pairs of them, and the epochs after them."""
        if epochs < LEAST_EPOCHS:
            raise OptionError(f"{self.name}: needs {LEAST_EPOCHS} epochs or more, got {epochs}")
        turns = max(1, round(EPOCHS * epochs / 8))
        return epochs, turns, epochs - 2 * turns

    def _turn(self, trainer: Trainer) -> GateScores:
        """Runs a tock and a tick and returns the scores; the network ends with the structure that it began with."""
        gated = put_gates(trainer.model)
        trainer.penalty = lambda module: self.penalty * gate_penalty(gated)
        trainer.epoch()
        trainer.penalty = None
        scores = GateScores(gated)
        trainer.on_gradients = scores.add
        with _only(trainer.model, _trained_in_ticks(trainer.model, gated)):
            trainer.epoch()
        trainer.on_gradients = None
        remove_gates(trainer.model, gated)
        return scores


def _trained_in_ticks(module: nn.Module, gated: dict[str, GatedNorm]) -> list[nn.Parameter]:
    """Returns the gates and the parameters of the last linear layer."""
    linear = [layer for layer in module.modules() if isinstance(layer, nn.Linear)]
    return [gate.gate for gate in gated.values()] + [p for layer in linear[-1:] for p in layer.parameters()]


@contextmanager
def _only(module: nn.Module, trained: list[nn.Parameter]) -> Iterator[None]:
    """Turns off the gradients of all other parameters while the context lasts."""
    chosen = {id(parameter) for parameter in trained}
    frozen = [p for p in module.parameters() if p.requires_grad and id(p) not in chosen]
    for parameter in frozen:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)


METHODS.register(GateDecorators.name)(GateDecorators())
