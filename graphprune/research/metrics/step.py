"""One training step of a recipe, on a copy of the network, whose time or memory is to be measured."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from graphprune.research.datasets import Batch
from graphprune.research.epochs import batch_loss, device_of
from graphprune.research.training import Recipe


@dataclass(frozen=True, eq=False)
class TrainingStep:
    """A network, its optimizer and a batch on one device; every call takes one step.

    Attributes:
        model: The model, in training mode.
        optimizer: Optimizer of its parameters.
        batch: Inputs and targets.
        recipe: How the step is taken.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    batch: Batch
    recipe: Recipe

    @classmethod
    def of(cls, model: nn.Module, batch: Batch, recipe: Recipe | None = None) -> TrainingStep:
        """Measures on a copy of the network, so that the network stays as it is."""
        recipe = recipe or Recipe(epochs=1)
        own = copy.deepcopy(model).train()
        device = device_of(own)
        return cls(own, recipe.optimizer_of(own), (batch[0].to(device), batch[1].to(device)), recipe)

    def __call__(self) -> None:
        """Runs forward and backward pass, clips the gradients and steps the optimizer."""
        self.optimizer.zero_grad(set_to_none=True)
        batch_loss(self.model, self.batch, self.recipe.precision).backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_norm)
        self.optimizer.step()

    def resident(self) -> list[Tensor]:
        """Drops the gradients and returns the tensors that stay between steps: parameters, buffers, moments."""
        self.optimizer.zero_grad(set_to_none=True)
        moments = [value for state in self.optimizer.state.values() for value in state.values()]
        tensors = (*self.model.parameters(), *self.model.buffers(), *moments)
        return [tensor for tensor in tensors if isinstance(tensor, Tensor)]
