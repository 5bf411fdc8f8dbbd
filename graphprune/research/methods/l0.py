"""L0 regularisation of nodes with hard-concrete gates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from graphprune.errors import OptionError
from graphprune.research.datasets import Dataset
from graphprune.research.methods.channels import analysed, example_of, of_channels, remove_under
from graphprune.research.methods.gated_layers import GatedLayer, fold_gates, places_of, put_gates
from graphprune.research.methods.hard_concrete import DROP_RATE
from graphprune.research.methods.method import METHODS, Target, Trained, check_penalty, shrunk, trainer_of
from graphprune.research.training import Recipe

EPOCHS = 2
"""How many times the recipe's epochs this method takes. Source: appendix F of the SNIP-it paper."""


def expected_weights(gated: dict[str, GatedLayer]) -> Tensor:
    """Returns the expected number of weights whose node is open, over all gated layers; a scalar."""
    return torch.stack([layer.expected_weights() for layer in gated.values()]).sum()


@dataclass(frozen=True)
class L0:
    """Trains with a gate per node and a penalty, ``lambda / samples`` times the expected number of open weights.

    The method takes twice the epochs of the recipe. At the end, nodes whose gate is 0 at evaluation are removed, and
    the other gates are multiplied into the weights, so that the function stays the same. A node that coupled layers
    share is removed when all its gates are 0. Each layer keeps at least one node.

    Source: Louizos, Welling and Kingma, ICLR 2018, with one gate per output node as in the SNIP-it paper, which counts
    the method among the structured ones. The penalty is divided by the number of training samples as in the authors'
    code, whose lambdas are around 0.1. Gates are drawn once for each batch. In the paper's networks no normalisation
    follows the gates. Here one follows each layer and would undo a gate before it, so gates are behind it. Weight decay
    is the recipe's, and is not applied to gates.

    Attributes:
        drop_rate: Initial drop rate, in (0, 1).

    Raises:
        OptionError: the drop rate is out of range.
    """

    drop_rate: float = DROP_RATE

    name: ClassVar[str] = "l0"
    target: ClassVar[Target] = "lambda"
    structured: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 < self.drop_rate < 1:
            raise OptionError(f"l0: drop_rate={self.drop_rate}: expected a number above 0 and below 1")

    def train(self, model: nn.Module, dataset: Dataset, recipe: Recipe, target: float, seed: int) -> Trained:
        """See `graphprune.research.methods.Method`."""
        check_penalty(self, target)
        trainer = trainer_of(model, dataset, recipe, seed)
        example = example_of(model, dataset)
        gated = put_gates(trainer.model, places_of(analysed(model, example)), self.drop_rate, seed)
        weight = target / len(dataset.train)
        trainer.optimizer.add_param_group(
            {"params": [layer.gate.log_alpha for layer in gated.values()], "weight_decay": 0.0}
        )
        trainer.penalty = lambda module: weight * expected_weights(gated)

        def keep_in_range() -> None:
            for layer in gated.values():
                layer.gate.keep_in_range()

        trainer.after_step = keep_in_range
        trainer.run(EPOCHS * recipe.epochs)
        gates = fold_gates(trainer.model, gated)
        program = analysed(trainer.model, example)
        values = {(f"{path}.weight", 0): of_layer for path, of_layer in gates.items()}
        pruner = remove_under(trainer, dataset, program, of_channels(program, values, "amax", missing=1.0), 0.0)
        return shrunk(model, trainer, pruner)


METHODS.register(L0.name)(L0())
