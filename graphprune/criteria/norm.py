"""Norms of the weights that make a channel."""

from __future__ import annotations

from dataclasses import dataclass

from graphprune.criteria.criterion import CRITERIA
from graphprune.criteria.from_weights import channel_scores
from graphprune.criteria.scores import Scores
from graphprune.criteria.sensitivity import Sensitivity
from graphprune.program.program import Program


@dataclass(frozen=True)
class Norm:
    """Norm over all weights that make a channel, its rows in all coupled layers together.

    A channel that no weight makes is removed last.

    Source: Li et al., Pruning Filters for Efficient ConvNets, summed over coupled layers and ranked globally.

    Attributes:
        order: 1 for the sum of absolute weights, 2 for the root of the sum of squares.
    """

    order: int

    @property
    def __name__(self) -> str:
        """The name under which it is registered."""
        return f"l{self.order}-norm"

    def __call__(self, program: Program, sensitivity: Sensitivity) -> Scores:
        """Scores the channels; needs no data.

        Raises:
            OptionError: no weight makes a channel.
        """
        powers = {
            name: parameter.detach().double().abs() ** self.order
            for name, parameter in program.module.named_parameters()
            if parameter.dim() >= 2
        }
        sums = channel_scores(program, powers, self.__name__, sensitivity.warned)
        return Scores(sums ** (1 / self.order), self.__name__)


l1_norm, l2_norm = Norm(1), Norm(2)
CRITERIA.register("l1-norm")(l1_norm)
CRITERIA.register("magnitude")(l1_norm)
CRITERIA.register("l2-norm")(l2_norm)
